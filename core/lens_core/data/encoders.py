"""Frozen encoders for training data: images to latents, captions to features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.chat import DEFAULT_DATE, MAX_SEQUENCE_LENGTH, encode_prompts
from lens_core.data.hashing import module_hash, tokenizer_hash
from lens_core.latents import encode_pixels
from lens_core.memory.placements import working_device
from lens_core.text_encoder import LensTextEncoder
from lens_core.text_features import TextFeatures


class ImageEncoder(Protocol):
    """Encodes images to latents."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides its output."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels `[B, 3, H, W]` in [-1, 1] to normalised tokens `[B, N, C]`."""
        ...


class CaptionEncoder(Protocol):
    """Encodes captions to the denoiser's text features."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides its output."""
        ...

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions to features, one row per caption."""
        ...


@dataclass(frozen=True)
class VaeEncoder:
    """Encodes with a FLUX.2-type autoencoder: the posterior's mode, normalised.

    Attributes:
        vae: The autoencoder, on the device to compute on.
    """

    vae: AutoencoderKLFlux2

    @cached_property
    def fingerprint(self) -> str:
        """See `ImageEncoder.fingerprint`."""
        return module_hash(self.vae, "posterior mode", dict(self.vae.config)["patch_size"])

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `ImageEncoder.encode`."""
        return encode_pixels(pixels, self.vae, working_device(self.vae))


@dataclass(frozen=True)
class HarmonyEncoder:
    """Encodes with a GPT-OSS text encoder, dropping the positions before the caption.

    Attributes:
        text_encoder: The encoder, on the device to compute on.
        tokenizer: Its tokenizer.
        layers: Encoder layers (from 0) whose outputs are kept.
        max_length: Maximum tokens of a caption, including the chat format around it.
        date: The current date in the encoder's system message.
    """

    text_encoder: LensTextEncoder
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[int, ...]
    max_length: int = MAX_SEQUENCE_LENGTH
    date: str = DEFAULT_DATE

    @cached_property
    def fingerprint(self) -> str:
        """See `CaptionEncoder.fingerprint`."""
        words = tokenizer_hash(self.tokenizer)
        return module_hash(self.text_encoder, self.layers, self.max_length, self.date, words)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """See `CaptionEncoder.encode`."""
        encoder = self.text_encoder
        rows = encode_prompts(
            self.tokenizer, captions, self.date, self.max_length, encoder.config.pad_token_id
        )
        device = working_device(encoder)
        mask = torch.tensor(rows.attention_mask, device=device)
        hidden = encoder.features(
            torch.tensor(rows.input_ids, device=device),
            None if bool(mask.all()) else mask,
            self.layers,
        )
        kept = slice(rows.prefix_length, None)
        return TextFeatures(torch.stack([x[:, kept] for x in hidden]), mask[:, kept].bool())
