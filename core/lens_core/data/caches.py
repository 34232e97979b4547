"""On-disk cache of encoded tensors, by content hash and encoder hash."""

from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = "value"


class TensorCache:
    """Tensors on disk, one file each. Files are written atomically.

    Several processes may share a cache. An unreadable file counts as absent and is rewritten.

    Args:
        folder: Folder of all caches.
        kind: `latents` or `text`.
        encoder: Hash of the encoder; each encoder has a separate folder.
    """

    def __init__(self, folder: Path, kind: str, encoder: str) -> None:
        self._folder = folder / kind / encoder[:32]

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> Tensor | None:
        """Return the tensor for a content hash, or None."""
        try:
            return load_file(self._path(key))[_NAME]
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, key: str, tensor: Tensor) -> None:
        """Store a tensor."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{uuid4().hex}.new")
        save_file({_NAME: tensor.detach().cpu().contiguous()}, fresh)
        fresh.replace(path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"
