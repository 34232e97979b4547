"""Checks the versions of Python, this package and its dependencies."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from lens_sdk.doctor.check import Check
from lens_sdk.models import package_version

OLDEST_PYTHON = (3, 11)

_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)([^;]*)(?:;.*extra == '([\w-]+)'.*)?$")
_LEAST = re.compile(r">=([0-9.]+)")
_FOR_DEVELOPERS = "dev"


def versions() -> Iterator[Check]:
    """Check Python and this package."""
    old = sys.version_info[:2] < OLDEST_PYTHON
    hint = f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is needed." if old else ""
    yield Check("python", "error" if old else "ok", platform.python_version(), hint)
    yield Check("lens-sdk", "ok", package_version())


def extras() -> Iterator[Check]:
    """Check the required packages and those of each extra."""
    for extra, packages in _requirements().items():
        problems = [text for name, least in packages if (text := problem(name, least))]
        name = f"extra {extra}" if extra else "packages"
        if not problems:
            yield Check(name, "ok", ", ".join(f"{p} {version(p)}" for p, _ in packages))
            continue
        install = f'pip install "lens-sdk[{extra}]"' if extra else "pip install lens-sdk"
        yield Check(
            name, "note" if extra else "error", "; ".join(problems), f"Install with: {install}"
        )


def problem(package: str, least: str) -> str:
    """Return what is wrong with an installed package; empty if nothing is.

    Args:
        package: The name of the package.
        least: The oldest supported version; empty accepts any.
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        return f"{package} is missing"
    return f"{package} {found} is older than {least}" if older(found, least) else ""


def older(found: str, least: str) -> bool:
    """Whether a version is older than another; compares the first three numbers."""
    return bool(least) and _numbers(found) < _numbers(least)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])][:3]


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Return packages and oldest versions by extra, from the installed metadata."""
    try:
        lines = requires("lens-sdk") or []
    except PackageNotFoundError:
        return {}
    needed: dict[str, list[tuple[str, str]]] = {"": []}
    for line in lines:
        found = _REQUIREMENT.match(line.replace('"', "'"))
        if found and found[3] != _FOR_DEVELOPERS:
            least = _LEAST.search(found[2])
            needed.setdefault(found[3] or "", []).append((found[1], least[1] if least else ""))
    return needed
