"""Where a pipeline gets its text features: from a text encoder, or from a cache of earlier ones."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from transformers import GptOssConfig

from lens_core.chat import EncodedPrompts
from lens_core.feature_cache import FeatureCache, FeatureKey, split_rows
from lens_core.text_encoder import LensTextEncoder
from lens_core.text_features import TextFeatures


class FeatureSource(Protocol):
    """Computes the text features of prompts."""

    @property
    def pad_token_id(self) -> int | None:
        """Token that fills shorter rows."""
        ...

    def read(
        self, encoded: EncodedPrompts, layers: Sequence[int], device: torch.device
    ) -> TextFeatures:
        """Features of a batch of prompts, without the positions before them.

        Args:
            encoded: Token ids.
            layers: Layers of the text encoder whose outputs are wanted, from 0.
            device: Where to compute, and where the features are to be.
        """
        ...


class EncoderLender(Protocol):
    """Holds a text encoder, or can load it."""

    @property
    def config(self) -> GptOssConfig:
        """The encoder's configuration, which is known before its weights are loaded."""
        ...

    def lend(self) -> AbstractContextManager[LensTextEncoder]:
        """The encoder, in memory for as long as the context lasts."""
        ...


class HeldEncoder:
    """A text encoder that is in memory anyway."""

    def __init__(self, encoder: LensTextEncoder) -> None:
        self._encoder = encoder

    @property
    def config(self) -> GptOssConfig:
        """The encoder's configuration."""
        return self._encoder.config

    def lend(self) -> AbstractContextManager[LensTextEncoder]:
        """A context with the encoder, which is in memory before and after it."""
        return nullcontext(self._encoder)


class EncoderFeatures:
    """Reads with a text encoder, all prompts in one padded batch."""

    def __init__(self, lender: EncoderLender) -> None:
        self._lender = lender

    @property
    def pad_token_id(self) -> int | None:
        """The encoder's own."""
        padding: int | None = self._lender.config.pad_token_id
        return padding

    def read(
        self, encoded: EncodedPrompts, layers: Sequence[int], device: torch.device
    ) -> TextFeatures:
        """See `FeatureSource.read`."""
        mask = torch.tensor(encoded.attention_mask, device=device)
        ids = torch.tensor(encoded.input_ids, device=device)
        with self._lender.lend() as encoder:
            outputs = encoder.features(ids, None if bool(mask.all()) else mask, layers)
        kept = slice(encoded.prefix_length, None)
        return TextFeatures(torch.stack([x[:, kept] for x in outputs]), mask[:, kept].bool())


def features_of(source: LensTextEncoder | FeatureSource) -> FeatureSource:
    """A text encoder as a source of features; a source as it is."""
    if isinstance(source, LensTextEncoder):
        return EncoderFeatures(HeldEncoder(source))
    return source


class CachedFeatures:
    """Reads from a cache, and only what is not there with a text encoder.

    Every prompt is read alone, so that what is stored does not depend on the prompts beside it.

    Args:
        lender: Who has the text encoder.
        cache: The cache.
        encoder: Identity of the encoder's weights and precision.
    """

    def __init__(self, lender: EncoderLender, cache: FeatureCache, encoder: str) -> None:
        self._lender = lender
        self._cache = cache
        self._encoder = encoder

    @property
    def pad_token_id(self) -> int | None:
        """The encoder's own."""
        padding: int | None = self._lender.config.pad_token_id
        return padding

    def read(
        self, encoded: EncodedPrompts, layers: Sequence[int], device: torch.device
    ) -> TextFeatures:
        """See `FeatureSource.read`."""
        rows = split_rows(encoded.input_ids, encoded.attention_mask)
        first = encoded.prefix_length
        keys = [FeatureKey(self._encoder, tuple(layers), row, first) for row in rows]
        cached = {key: self._cache.load(key) for key in keys}
        found = {key: features for key, features in cached.items() if features is not None}
        if missing := [key for key in cached if key not in found]:
            found |= self._read(missing, device)
        return stack_padded([found[key] for key in keys], device)

    def _read(self, keys: Sequence[FeatureKey], device: torch.device) -> dict[FeatureKey, Tensor]:
        read: dict[FeatureKey, Tensor] = {}
        with self._lender.lend() as encoder:
            for key in keys:
                ids = torch.tensor([key.token_ids], device=device)
                outputs = encoder.features(ids, None, key.layers)
                read[key] = torch.stack([x[0, key.first :] for x in outputs])
        for key, features in read.items():
            self._cache.store(key, features)
        return read


def stack_padded(rows: Sequence[Tensor], device: torch.device) -> TextFeatures:
    """Features `[layers, tokens, width]` of each prompt as one padded batch."""
    longest = max(row.shape[1] for row in rows)
    layers, _, width = rows[0].shape
    embeds = torch.zeros(layers, len(rows), longest, width, dtype=rows[0].dtype, device=device)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    for index, row in enumerate(rows):
        embeds[:, index, : row.shape[1]] = row.to(device)
        mask[index, : row.shape[1]] = True
    return TextFeatures(embeds, mask)
