"""Text features on disk, so that a prompt that was read before needs no text encoder.

One safetensors file for each prompt, named after everything that decides its features: the token
ids, the weights that read them, the layers and the precision.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_core.errors import ParameterError

_log = logging.getLogger(__name__)

_TENSOR = "features"
_VERSION = 1
"""Changes when the same weights would be read differently."""


@dataclass(frozen=True)
class FeatureKey:
    """What decides the features of one prompt.

    Attributes:
        encoder: Identity of the weights and of the precision they compute in.
        layers: Whose outputs are kept, from 0.
        token_ids: What is read, without padding.
        first: Position of the first feature that is kept.
    """

    encoder: str
    layers: tuple[int, ...]
    token_ids: tuple[int, ...]
    first: int

    @property
    def digest(self) -> str:
        """Name of the file."""
        text = json.dumps([_VERSION, self.encoder, self.layers, self.token_ids, self.first])
        return hashlib.sha256(text.encode()).hexdigest()


class FeatureCache:
    """A folder of text features that never grows beyond a size.

    Several processes may use it at once: files appear complete or not at all. What was not used
    for longest goes first.

    Args:
        folder: Created when something is stored.
        max_bytes: Most bytes of all files together. A prompt of Lens takes up to 9.6 MB.

    Raises:
        ParameterError: A limit that is not above 0.
    """

    def __init__(self, folder: str | Path, max_bytes: int = 4 * 2**30) -> None:
        if max_bytes < 1:
            raise ParameterError(f"max_bytes {max_bytes} must be at least 1")
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes

    def load(self, key: FeatureKey) -> Tensor | None:
        """Features `[layers, tokens, width]` as they were stored, or None if they are not there.

        A file that cannot be read is removed, as if it had never been there.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor(_TENSOR).clone()
            _check_shape(features, key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SafetensorError, ValueError) as error:
            _log.warning("text features %s cannot be read and are dropped: %s", path, error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return features

    def store(self, key: FeatureKey, features: Tensor) -> None:
        """Keep features `[layers, tokens, width]`; too large ones are not kept.

        A folder that cannot be written to is no reason to lose a picture: that is only logged.
        """
        try:
            self._store(key, features)
        except OSError as error:
            _log.warning("text features cannot be kept in %s: %s", self.folder, error)

    def _store(self, key: FeatureKey, features: Tensor) -> None:
        path = self._path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
        os.close(handle)
        unfinished = Path(name)
        try:
            save_file({_TENSOR: features.detach().cpu().contiguous()}, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._make_room()

    def _path(self, key: FeatureKey) -> Path:
        return self.folder / f"{key.digest}.safetensors"

    def _make_room(self) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(OSError):  # Another process may have removed it.
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _check_shape(features: Tensor, key: FeatureKey) -> None:
    expected = (len(key.layers), len(key.token_ids) - key.first)
    if features.ndim != 3 or tuple(features.shape[:2]) != expected:
        raise ValueError(f"they have shape {tuple(features.shape)}, not {expected} and a width")


def split_rows(
    input_ids: Sequence[Sequence[int]], attention_mask: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Token ids of each row of a batch without its padding on the right."""
    return [tuple(row[: sum(mask)]) for row, mask in zip(input_ids, attention_mask, strict=True)]
