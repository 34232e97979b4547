"""Training states by torch's distributed checkpointing.

They are written beside the training and readable by any number of processes. A state is a folder
`step-00000200` of safetensors files, a part from each process, and a `state.json` that is written
last: without it the state is not complete and not considered. No file is a pickle.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from lens_core.errors import CheckpointError, first_line
from lens_core.training.rng import restore_generators
from lens_core.training.state_values import VALUES, StateValues, read_values, restoring
from lens_core.training.workers import Workers

# A lone process is what most runs here are; DCP would remark on it at every state.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class _Writer(HuggingFaceStorageWriter):
    """Writes every process's part, then, once all are on disk, the values."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder
        self._values = json.dumps(values, indent=1)

    def finish(self, metadata: Metadata, results: Any) -> None:
        super().finish(metadata, results)
        fresh = self._folder / f"{VALUES}.new"
        with fresh.open("w") as file:
            file.write(self._values)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / VALUES)


@dataclass(frozen=True)
class Saved:
    """A complete state on disk.

    Attributes:
        folder: Where it lies.
        values: What was saved beside the tensors.
        known_as: From a name in the files to the tensor's name today.
    """

    folder: Path
    values: StateValues
    known_as: Callable[[str], str] = str

    @property
    def file(self) -> Path:
        """Where the values lie."""
        return self.folder / VALUES

    def names(self) -> list[str]:
        """Names of its tensors."""
        return [self.known_as(name) for name in self._stored()]

    def read(self, targets: Mapping[str, Tensor]) -> None:
        """Read tensors in place; `DTensor`s take their part. All processes must call.

        Raises:
            CheckpointError: A tensor is missing or of another shape, or a file is damaged.
        """
        stored = {name: targets[self.known_as(name)] for name in self._wanted(targets)}
        reader = HuggingFaceStorageReader(str(self.folder))
        try:
            load(stored, storage_reader=reader, no_dist=not dist.is_initialized())
        except (Exception, CheckpointException) as error:
            raise CheckpointError(
                f"{self.folder} does not fit this run ({_cause(error)}); give the settings it was "
                "saved with, or remove it to go on from an older one"
            ) from error

    def require(self, fixed: Mapping[str, Any]) -> None:
        """Refuse settings that would give the saved tensors another meaning.

        Args:
            fixed: By name, as JSON; states of before they were noted go with any.

        Raises:
            CheckpointError: One of them is not what it was saved with.
        """
        before = self.values.fixed
        for name, value in fixed.items():
            if before.get(name, value) != value:
                raise CheckpointError(
                    f"{self.folder} was saved with {name} {before[name]!r}, and this run has "
                    f"{value!r}: give what it was saved with, or choose another --out"
                )

    def restore_generators(self, workers: Workers) -> None:
        """Let this process's random generators go on, unless there are more or fewer processes now.

        Raises:
            CheckpointError: Their states are damaged.
        """
        processes = self.values.processes
        if len(processes) == workers.count:
            with restoring(self.file, f"processes.{workers.rank}.rng"):
                restore_generators(processes[workers.rank].rng)

    def _wanted(self, targets: Mapping[str, Tensor]) -> list[str]:
        """Names in the files of tensors to read."""
        found = {self.known_as(name): name for name in self._stored()}
        missing = sorted(set(targets) - set(found))
        if missing:
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} tensors of this run, such as {missing[0]}; "
                "give the settings it was saved with, or remove it"
            )
        return [found[name] for name in targets]

    def _stored(self) -> list[str]:
        try:
            reader = HuggingFaceStorageReader(str(self.folder))
            return list(reader.read_metadata().state_dict_metadata)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.folder} is damaged ({error}); remove it to go on from an older one"
            ) from error


class Checkpoints:
    """The states of a run, written in the background.

    Args:
        folder: Where they are kept.
        workers: All take part.
        keep: How many are kept.
    """

    def __init__(self, folder: Path, workers: Workers, keep: int = 2) -> None:
        self._folder = folder
        self._workers = workers
        self._keep = keep
        self._pending: Future[Any] | None = None
        # Writing talks between processes while training does: they need channels of their own.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Copy a state and write it in the background; waits for the one before it.

        Args:
            step: Steps done.
            tensors: By name; `DTensor`s are written in parts.
            values: JSON; the first process's are kept.
        """
        self.wait()
        target = self._folder / f"step-{step:08d}"
        if self._workers.leads:
            try:
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
            except OSError as error:
                raise self._unwritten(error) from error
        self._workers.gather(step)
        saving = async_save(
            dict(tensors),
            storage_writer=_Writer(target, {**values, "step": step}),
            process_group=self._group,
            no_dist=self._group is None,
        )
        self._pending = cast("Future[Any]", saving)

    def wait(self) -> None:
        """Wait until what is being written is on disk, then remove what is too old.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._pending is None:
            return
        try:
            self._pending.result()
        except (Exception, CheckpointException) as error:
            raise self._unwritten(error) from error
        finally:
            self._pending = None
        if self._workers.leads:
            for folder in set(self._folder.glob("step-*")) - set(self._complete()[-self._keep :]):
                shutil.rmtree(folder)

    def latest(self) -> Saved | None:
        """The newest complete state, or None; every process gets the first one's answer."""
        complete = self._complete()
        newest = self._workers.gather(str(complete[-1]) if complete else "")[0]
        if not newest:
            return None
        return Saved(Path(newest), read_values(Path(newest) / VALUES))

    def _unwritten(self, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"the training state could not be written to {self._folder} ({_cause(error)}); make "
            "room or name another --out, and start again"
        )

    def _complete(self) -> list[Path]:
        """Folders of whole states, the oldest first."""
        return sorted(values.parent for values in self._folder.glob(f"step-*/{VALUES}"))


def _cause(error: BaseException) -> str:
    """The first line of what went wrong, without the tracebacks that torch adds to it."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return first_line(error)
