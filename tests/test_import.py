"""What importing costs, and the names that are exported."""

import importlib
import statistics
import subprocess
import sys
import types

import pytest

PACKAGES = ("lens_core", "lens_reasoner", "lens_prompt_opt", "lens_sdk")
HEAVY = ("torch", "diffusers", "transformers", "openai", "numpy", "PIL", "typer", "rich")

IMPORT_SECONDS = 0.3
"""The longest an import may take, in seconds of processor time.

The clock on the wall says little on a busy machine.
"""


def _import(package: str, *, heavy: tuple[str, ...]) -> tuple[float, str]:
    """Processor seconds and the heavy modules that an import brings in a fresh interpreter."""
    code = (
        f"import sys, time; started = time.process_time(); import {package}; "
        f"print(time.process_time() - started, [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, loaded = done.stdout.strip().partition(" ")
    return float(seconds), loaded


def test_the_sdk_is_imported_in_a_moment() -> None:
    runs = [_import("lens_sdk", heavy=HEAVY) for _ in range(5)]
    assert {loaded for _, loaded in runs} == {"[]"}
    assert statistics.median(seconds for seconds, _ in runs) < IMPORT_SECONDS


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_brings_torch(package: str) -> None:
    assert _import(package, heavy=("torch", "diffusers", "transformers", "openai"))[1] == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_resolves(package: str) -> None:
    module = importlib.import_module(package)
    exported = list(getattr(module, "__all__", []))
    assert exported == sorted(set(exported), key=_order)
    for name in exported:
        value = getattr(module, name)
        assert not isinstance(value, types.ModuleType), name
        assert name in dir(module)


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_forgotten(package: str) -> None:
    """Whatever the package's own file brings in under a public name is exported."""
    module = importlib.import_module(package)
    ours = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").split(".")[0] in PACKAGES
    }
    assert ours <= set(getattr(module, "__all__", []))


def test_an_unknown_name_is_an_attribute_error() -> None:
    for package in ("lens_core", "lens_sdk"):
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = importlib.import_module(package).no_such_name
