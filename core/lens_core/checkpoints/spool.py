"""Values kept on disk until a file that lists all its tensors first can be begun."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_ALIGNED = 64


class Spool:
    """A file of values that were computed; what it gives back is mapped from there.

    So a conversion needs memory for one tensor, and disk for all of them twice while it runs.

    Args:
        path: The file, which must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0

    def array(self, values: np.ndarray) -> np.ndarray:
        """The same values, mapped."""
        if not values.nbytes:
            return values
        start = self._size
        with self._path.open("ab") as file:
            np.ascontiguousarray(values).tofile(file)
            file.write(bytes(-values.nbytes % _ALIGNED))
            self._size = file.tell()
        return np.memmap(self._path, values.dtype, "c", start, values.shape)

    def tensor(self, values: Tensor) -> Tensor:
        """The same values, mapped, in the main memory's address space."""
        if not values.numel():
            return values
        flat = values.detach().cpu().contiguous().flatten().view(torch.uint8)
        kept = torch.from_numpy(self.array(flat.numpy()))
        return kept.view(values.dtype).view(values.shape)

    def tensors(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same tensors, mapped, one after the other."""
        for name, values in named:
            yield name, self.tensor(values)


@contextmanager
def spool_beside(target: Path) -> Iterator[Spool]:
    """A spool on the disk that a file is to be on; nothing of it stays.

    But what an error still refers to stays on Windows, until the next conversion to the same file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.values")
    path.unlink(missing_ok=True)
    try:
        yield Spool(path)
    finally:
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
