"""Other places that log records go to: TensorBoard and Weights & Biases, imported on demand."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lens_core.errors import ParameterError


class TrackerMissingError(ParameterError):
    """A tracker was asked for whose package is not installed."""


class Tracker(Protocol):
    """Takes log records."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the numbers of a record."""
        ...

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture file."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


def open_trackers(
    names: Sequence[str] | None, directory: Path, first_step: int = 0
) -> list[Tracker]:
    """Open trackers by name.

    Args:
        names: `tensorboard`, `wandb`; None takes TensorBoard if it is installed.
        directory: The stage's folder; TensorBoard writes to `tensorboard/` in it.
        first_step: Step that the run starts or resumes from; what TensorBoard holds of later ones
            no longer counts.

    Raises:
        TrackerMissingError: A package is not installed.
    """
    if names is None:
        names = [name for name in ("tensorboard",) if importlib.util.find_spec(name)]
    return [_open(name, directory, first_step) for name in names]


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested record, named `outer/inner`."""
    for name, value in record.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from scalars(value, f"{full}/")
        elif isinstance(value, (list, tuple)):
            yield from scalars({str(i): item for i, item in enumerate(value)}, f"{full}/")
        elif isinstance(value, (int, float)):
            yield full, float(value)


class TensorBoardTracker:
    """Writes event files for `tensorboard --logdir`."""

    def __init__(self, directory: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(
            str(directory / "tensorboard"), purge_step=first_step + 1 if first_step else None
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        """See `Tracker.picture`."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class WandbTracker:
    """Logs to Weights & Biases; project, entity and mode come from its environment variables."""

    def __init__(self, directory: Path) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        self._run = self._wandb.init(dir=str(directory), name=directory.parent.name)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(scalars), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """See `Tracker.picture`."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


def _open(name: str, directory: Path, first_step: int) -> Tracker:
    if importlib.util.find_spec(name) is None:
        raise TrackerMissingError(
            f"tracker {name!r} needs a package that is not installed: pip install {name}"
        )
    if name == "tensorboard":
        return TensorBoardTracker(directory, first_step)
    return WandbTracker(directory)
