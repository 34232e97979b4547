"""A text encoder that need not be in memory: its file, and an identity for caches."""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import GptOssConfig

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.encoder import (
    EncoderSource,
    blank_text_encoder,
    load_text_encoder,
    open_text_encoder,
)
from lens_core.checkpoints.weights import open_weights
from lens_core.data.digests import file_hash
from lens_core.memory.tensors import cast_parameters, parts_of
from lens_core.text_encoder import LensTextEncoder


@dataclass(frozen=True)
class EncoderFile:
    """Where a text encoder's weights are, and how they are to be loaded.

    Opening one reads headers only, and raises what `open_text_encoder` raises.

    Attributes:
        path: Safetensors or GGUF file, or a folder in Hugging Face's layout.
        dtype: Of everything that is not packed.
        stated: A configuration, for files that say nothing themselves.
        variant: Of a folder's files.
    """

    path: Path
    dtype: torch.dtype
    stated: Config | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        _ = self.source

    @cached_property
    def source(self) -> EncoderSource:
        """The opened file, of which only headers were read."""
        return open_text_encoder(self.path, self.stated, self.variant)

    @property
    def config(self) -> GptOssConfig:
        """The encoder's configuration."""
        return self.source.config

    def load(self) -> LensTextEncoder:
        """Read the weights; errors as in `load_text_encoder`."""
        if self.path.is_dir() and self.stated is None:
            return LensTextEncoder.from_pretrained(
                self.path, dtype=self.dtype, variant=self.variant
            )
        return load_text_encoder(self.path, self.dtype, self.stated, self.variant)

    def blank(self) -> LensTextEncoder:
        """The encoder on the meta device, to count its bytes."""
        blank = blank_text_encoder(self.source)
        cast_parameters(blank, self.dtype)
        return blank

    def identity(self, digests: Path | None = None) -> str:
        """A hash of configuration, precision and contents of files, equal for equal encoders.

        Args:
            digests: A JSON file that remembers the SHA-256 of files by path, size and time of
                change, so that 14 GB are hashed once.
        """
        files = [header.path for header in open_weights(self.path, variant=self.variant).headers]
        contents = [_digest(file, digests) for file in files]
        return _identity(self.config, self.dtype, contents)


def module_identity(encoder: LensTextEncoder) -> str:
    """The same for an encoder in memory; every weight is read for it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        for part in parts_of(tensor):
            digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode())
            values = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(values.numpy().data)
    return _identity(encoder.config, encoder.dtype, [digest.hexdigest()])


def _identity(config: GptOssConfig, dtype: torch.dtype, contents: list[str]) -> str:
    stated = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and name != "transformers_version"
    }
    text = json.dumps([stated, str(dtype), sorted(contents)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(file: Path, remembered: Path | None) -> str:
    """SHA-256 of a file, computed once as long as it does not change.

    Files in the hub's cache are called by theirs.
    """
    if re.fullmatch("[0-9a-f]{64}", blob := file.resolve().name):
        return blob
    status = file.stat()
    key = json.dumps([str(file.resolve()), status.st_size, status.st_mtime_ns])
    known = _read(remembered)
    if key not in known:
        known[key] = file_hash(file)
        if remembered is not None:
            with suppress(OSError):  # Then they are hashed again next time.
                remembered.parent.mkdir(parents=True, exist_ok=True)
                unfinished = remembered.with_suffix(".part")
                unfinished.write_text(json.dumps(known, indent=1), encoding="utf-8")
                unfinished.replace(remembered)
    return known[key]


def _read(remembered: Path | None) -> dict[str, str]:
    try:
        text = "{}" if remembered is None else remembered.read_text(encoding="utf-8")
        known: Any = json.loads(text)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
