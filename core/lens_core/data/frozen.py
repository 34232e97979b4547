"""The frozen model parts that encode training data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from transformers import PreTrainedTokenizerBase

from lens_core.checkpoint_files import read_config
from lens_core.data.caches import TensorCache
from lens_core.data.encoders import HarmonyEncoder, VaeEncoder
from lens_core.data.encoding import BatchEncoder
from lens_core.errors import ComponentError, ParameterError
from lens_core.loading import load_components
from lens_core.text_encoder import LensTextEncoder

_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class FrozenParts:
    """All components of a pipeline except the denoiser.

    Attributes:
        folder: Where they were loaded from.
        parts: `vae`, `text_encoder`, `tokenizer`, `scheduler` and `defaults`.
    """

    folder: Path
    parts: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, device: str | torch.device, precision: str) -> "FrozenParts":
        """Load the parts from a folder in the diffusers layout; it needs no denoiser.

        Raises:
            CheckpointError: A part is missing, incomplete or unreadable.
            ParameterError: The precision is not supported.
        """
        if precision not in _PRECISIONS:
            raise ParameterError(f"precision {precision!r} is none of {', '.join(_PRECISIONS)}")
        parts = load_components(folder, getattr(torch, precision), {"transformer": None})
        del parts["transformer"]
        for name in ("vae", "text_encoder"):
            parts[name] = parts[name].requires_grad_(False).to(device)
        return cls(folder, parts)

    @property
    def vae(self) -> AutoencoderKLFlux2:
        """The autoencoder."""
        return self.parts["vae"]

    @property
    def text_encoder(self) -> LensTextEncoder:
        """The text encoder."""
        encoder: LensTextEncoder = self.parts["text_encoder"]
        return encoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        tokenizer: PreTrainedTokenizerBase = self.parts["tokenizer"]
        return tokenizer

    def layers(self, wanted: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the encoder layers to keep: the given ones, or those the folder's denoiser uses.

        Raises:
            ComponentError: The encoder lacks a layer, or the folder has no denoiser.
        """
        chosen = wanted
        if not chosen:
            if not (self.folder / "transformer").is_dir():
                raise ComponentError(
                    f"{self.folder} has no transformer/ that says which encoder layers it reads; "
                    "name them"
                )
            config = read_config(self.folder / "transformer")
            chosen = tuple(config["selected_layer_index"])
        count = self.text_encoder.config.num_hidden_layers
        if wrong := [layer for layer in chosen if not 0 <= layer < count]:
            raise ComponentError(f"the text encoder has layers 0 to {count - 1}, not {wrong}")
        return chosen

    def encoder(
        self,
        layers: tuple[int, ...],
        latent_cache: Path | None,
        text_cache: Path | None,
        multiple: int = 1,
    ) -> BatchEncoder:
        """Create an encoder of batches from these parts.

        Args:
            layers: Encoder layers to keep.
            latent_cache: Folder for cached latents; None disables caching.
            text_cache: Folder for cached text features; None disables caching.
            multiple: Text is padded to a multiple of this many tokens.
        """
        images = VaeEncoder(self.vae)
        captions = HarmonyEncoder(self.text_encoder, self.tokenizer, layers)
        return BatchEncoder(
            images,
            captions,
            _cache(latent_cache, "latents", images),
            _cache(text_cache, "text", captions),
            multiple,
        )


def _cache(
    folder: Path | None, kind: str, encoder: VaeEncoder | HarmonyEncoder
) -> TensorCache | None:
    return None if folder is None else TensorCache(folder, kind, encoder.fingerprint)
