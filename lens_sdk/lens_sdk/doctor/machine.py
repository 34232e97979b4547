"""Checks the machine: GPU, memory, disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lens_sdk.doctor.check import Check, Status
from lens_sdk.models import LensModel
from lens_sdk.settings import DEFAULT_RUNS, Settings

LEAST_DISK = 2 * 10**9
"""In bytes; with less free space, runs and downloads are likely to fail."""

ROOM = 1.2
"""Memory a model needs for generating, as a multiple of the size of its weights."""


def machine(model: LensModel | None) -> Iterator[Check]:
    """Check GPU and memory against the local model."""
    needed = 0.0
    if model is not None:
        needed = ROOM * sum(known["bytes"] for known in model.weights.values())
    gpu, check = _gpu(model, needed)
    yield check
    memory = _memory()
    if memory is None:
        return
    free, total = memory
    detail = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if not gpu and needed > free:
        name = model.name if model is not None else ""
        yield Check(
            "memory",
            "error" if needed > total else "warning",
            f"{detail}; {name} takes about {needed / 1e9:.1f} GB",
            "Close other programs, or choose a smaller plan or model: lens memory",
        )
    else:
        yield Check("memory", "ok", detail)


def disks(settings: Settings) -> Iterator[Check]:
    """Check free space for runs and downloads."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home)
    for name, folder in (("runs", settings.runs or DEFAULT_RUNS), ("downloads", hub)):
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        status: Status = "warning" if free < LEAST_DISK else "ok"
        writable = os.access(there, os.W_OK)
        yield Check(
            f"disk for {name}",
            status if writable else "error",
            f"{free / 1e9:.1f} GB free at {folder}" + ("" if writable else ", not writable"),
            "" if writable and status == "ok" else "Free some space or choose another folder.",
        )


def _gpu(model: LensModel | None, needed: float) -> tuple[bool, Check]:
    """Check whether there is a GPU with enough memory for the model."""
    if find_spec("torch") is None:
        return False, Check("gpu", "note", "not looked for: torch is not installed")
    import torch

    if not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            return True, Check("gpu", "ok", "Apple GPU")
        slow = model is not None and not model.nano
        return False, Check(
            "gpu",
            "warning" if slow else "note",
            f"none that torch {torch.__version__} can use",
            "Generating with this model on the CPU takes minutes or more." if slow else "",
        )
    free, total = torch.cuda.mem_get_info()
    detail = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if needed > free:
        hint = "Parts of it have to stay in main memory; see lens memory for the plans"
        return False, Check("gpu", "warning", f"{detail}; {needed / 1e9:.1f} GB wanted", hint)
    return True, Check("gpu", "ok", detail)


def _memory() -> tuple[int, int] | None:
    """Return free and total bytes of main memory; None if unknown."""
    if find_spec("psutil") is not None:
        known = import_module("psutil").virtual_memory()
        return int(known.available), int(known.total)
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    except (AttributeError, OSError, ValueError):
        return None


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    at = folder.absolute()
    while not at.exists():
        at = at.parent
    return at
