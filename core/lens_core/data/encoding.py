"""Encoding of the loader's batches into the denoiser's inputs, with caches.

Cached values are computed one at a time, so they do not depend on the batch. They are stored in
bfloat16, and training uses the stored values.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lens_core.data.batches import BucketBatch, LoadedSample
from lens_core.data.buckets import Bucket
from lens_core.data.caches import TensorCache
from lens_core.data.digests import text_hash
from lens_core.data.encoders import CaptionEncoder, ImageEncoder
from lens_core.data.fitting import decode_image, pixels
from lens_core.data.reading import ShardFolder, StoredSample
from lens_core.errors import ComponentError
from lens_core.text_features import TextFeatures


@dataclass(frozen=True)
class EncodedBatch:
    """Training data for one forward pass.

    Attributes:
        number: See `BucketBatch.number`.
        bucket: Size of every image.
        latents: Normalised tokens `[B, N, C]`, float32.
        text: Features of the captions.
    """

    number: int
    bucket: Bucket
    latents: Tensor
    text: TextFeatures


@dataclass
class BatchEncoder:
    """Encodes batches.

    Attributes:
        images: Encodes images; None if all are cached.
        captions: Encodes captions; None if all are cached.
        latent_cache: Stores latents by the image's hash; None disables caching.
        text_cache: Stores features by the caption's hash; None disables caching.
        multiple: Text is padded to a multiple of this many tokens, to limit the number of shapes.
        missed: Number of latents and features computed so far.
    """

    images: ImageEncoder | None
    captions: CaptionEncoder | None
    latent_cache: TensorCache | None = None
    text_cache: TensorCache | None = None
    multiple: int = 1
    missed: int = field(default=0, init=False)

    def encode(self, batch: BucketBatch) -> EncodedBatch:
        """Return the latents and features of a batch, in main memory.

        Raises:
            ComponentError: A value is not cached and there is no encoder to compute it.
        """
        with torch.no_grad():
            latents = self._latents(batch.samples).cpu()
            text = self._text([sample.caption for sample in batch.samples])
            text = text.to(torch.device("cpu"), text.embeds.dtype)
        return EncodedBatch(batch.number, batch.bucket, latents, text)

    def has_latents(self, content_hash: str) -> bool:
        """Whether an image's latents are cached, so it need not be decoded."""
        return self.latent_cache is not None and content_hash in self.latent_cache

    def keep_captions(self, captions: Iterable[str]) -> None:
        """Ensure that captions are cached.

        Raises:
            ComponentError: There is no cache, or a caption is missing and there is no encoder.
        """
        if self.text_cache is None:
            raise ComponentError("text features should be cached, but there is no cache for them")
        for caption in dict.fromkeys(captions):
            self._cached_text(caption, self.text_cache)

    def keep_picture(self, stored: StoredSample) -> None:
        """Ensure that an image is cached.

        Raises:
            ComponentError: There is no cache, or the image is missing and there is no encoder.
            DataError: The image cannot be read.
        """
        if self.latent_cache is None:
            raise ComponentError("latents should be cached, but there is no cache for them")
        if self.latent_cache.get(stored.content_hash) is None:
            shown = pixels(decode_image(stored.picture, stored.name))
            sample = LoadedSample(stored.name, stored.content_hash, shown, "")
            self._cached_latents(sample, self.latent_cache)

    def without_encoders(self) -> "BatchEncoder":
        """Return an encoder with only the caches, so that the encoders' memory can be freed."""
        return BatchEncoder(None, None, self.latent_cache, self.text_cache, self.multiple)

    def _latents(self, samples: tuple[LoadedSample, ...]) -> Tensor:
        if self.latent_cache is None:
            return self._encode_pictures(samples).float()
        return torch.stack([self._cached_latents(sample, self.latent_cache) for sample in samples])

    def _cached_latents(self, sample: LoadedSample, cache: TensorCache) -> Tensor:
        known = cache.get(sample.content_hash)
        if known is None:
            self.missed += 1
            known = self._encode_pictures((sample,))[0].bfloat16().cpu()
            cache.put(sample.content_hash, known)
        return known.float()

    def _encode_pictures(self, samples: tuple[LoadedSample, ...]) -> Tensor:
        found = [sample.pixels for sample in samples if sample.pixels is not None]
        if self.images is None or len(found) < len(samples):
            names = ", ".join(s.name for s in samples if s.pixels is None) or samples[0].name
            raise ComponentError(
                f"the latents of {names} are not in the cache and cannot be computed here; fill "
                "the cache again"
            )
        stacked = torch.stack([torch.from_numpy(picture) for picture in found])
        return self.images.encode(stacked.permute(0, 3, 1, 2).float() / 127.5 - 1)

    def _text(self, captions: list[str]) -> TextFeatures:
        cache = self.text_cache
        if cache is None:
            features = self._encode_captions(captions)
            longest = -(-features.embeds.shape[2] // self.multiple) * self.multiple
            return features.padded(longest)
        rows = [self._cached_text(caption, cache) for caption in captions]
        longest = max(row.shape[1] for row in rows)
        longest = -(-longest // self.multiple) * self.multiple
        embeds = rows[0].new_zeros(rows[0].shape[0], len(rows), longest, rows[0].shape[2])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for index, row in enumerate(rows):
            embeds[:, index, : row.shape[1]] = row
            mask[index, : row.shape[1]] = True
        return TextFeatures(embeds, mask)

    def _cached_text(self, caption: str, cache: TensorCache) -> Tensor:
        """`[layers, tokens, width]`."""
        key = text_hash(caption)
        known = cache.get(key)
        if known is None:
            self.missed += 1
            known = self._encode_captions([caption]).embeds[:, 0].bfloat16().cpu()
            cache.put(key, known)
        return known

    def _encode_captions(self, captions: list[str]) -> TextFeatures:
        if self.captions is None:
            raise ComponentError(
                "the features of a caption are not in the cache and there is no text encoder; fill "
                "the cache again"
            )
        return self.captions.encode(captions)


def fill_caches(
    data: ShardFolder,
    encoder: BatchEncoder,
    report: Callable[[int], None] = lambda _: None,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Encode every image and caption of a folder of shards that is not cached yet.

    All captions are encoded first, then all images, so that encoders sharing a device's memory are
    swapped only once.

    Args:
        data: The shards.
        encoder: An encoder with both caches.
        report: Called with the progress, up to twice the number of samples.
        share: (index, count) of this process among those filling the same caches; `(0, 1)` encodes
            everything.

    Returns:
        Number of latents and features computed.

    Raises:
        ComponentError: The encoder lacks a cache.
        DataError: A shard or image cannot be read.
    """
    before, samples = encoder.missed, data.manifest.samples
    for done, stored in enumerate(stored_samples(data), 1):
        if done % share[1] == share[0]:
            encoder.keep_captions(stored.captions.values())
        report(done)
    for done, stored in enumerate(stored_samples(data), samples + 1):
        if done % share[1] == share[0]:
            encoder.keep_picture(stored)
        report(done)
    return encoder.missed - before


def stored_samples(data: ShardFolder) -> Iterator[StoredSample]:
    """Yield every sample of a folder of shards, in order."""
    for shard in data.manifest.shards:
        for row in range(shard.samples):
            yield data.read(shard, row)
