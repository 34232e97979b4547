"""The model inside the package, by its name."""

from importlib.resources import files
from pathlib import Path

PACKAGED_MODELS = ("lens-nano",)
"""What needs no download."""


def packaged_folder(name: str = PACKAGED_MODELS[0]) -> Path:
    """The folder of a packaged model, in the diffusers layout; it need not be there."""
    return Path(str(files("lens_core"))) / "weights" / name


def model_folder(given: str | Path) -> Path:
    """The folder that is given, or that of the packaged model of this name."""
    packaged = str(given) in PACKAGED_MODELS and not Path(given).is_dir()
    return packaged_folder(str(given)) if packaged else Path(given)
