"""Caches of what the frozen encoders compute."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lens_core.data.caches import TensorCache
from lens_core.data.encoders import HarmonyEncoder, VaeEncoder
from lens_core.data.encoding import BatchEncoder, fill_caches
from lens_core.data.loader import BucketLoader
from lens_core.data.reading import ShardFolder
from lens_core.errors import ComponentError
from tiny_components import tiny_pipeline
from tiny_shards import loader, settings, write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "shards")


class Spy:
    """Counts what an encoder is asked for."""

    fingerprint = "spy"

    def __init__(self, encoder: VaeEncoder) -> None:
        self.encoder, self.pictures = encoder, 0

    def encode(self, pixels: Tensor) -> Tensor:
        self.pictures += len(pixels)
        return self.encoder.encode(pixels)


def encoder(cache: Path | None, layers: Sequence[int] = (0, 1)) -> tuple[BatchEncoder, Spy]:
    pipeline = tiny_pipeline()
    assert pipeline.text_encoder is not None
    spy = Spy(VaeEncoder(pipeline.vae))
    words = HarmonyEncoder(pipeline.text_encoder, pipeline.tokenizer, tuple(layers))
    if cache is None:
        return BatchEncoder(spy, words), spy
    stores = TensorCache(cache, "latents", "spy"), TensorCache(cache, "text", words.fingerprint)
    return BatchEncoder(spy, words, *stores), spy


def test_caches_give_the_same_bits_and_spare_the_encoders(folder: Path, tmp_path: Path) -> None:
    cold, spy = encoder(tmp_path / "cache")
    batches = [next(stream) for stream in [loader(folder)] for _ in range(6)]
    first = [cold.encode(batch) for batch in batches]
    asked = spy.pictures
    assert asked == len({s.content_hash for b in batches for s in b.samples})
    again = [cold.encode(batch) for batch in batches]
    assert spy.pictures == asked
    exact, _ = encoder(None)
    for one, two, batch in zip(first, again, batches, strict=True):
        assert torch.equal(one.latents, two.latents)
        assert torch.equal(one.text.embeds, two.text.embeds)
        plain = exact.encode(batch)
        assert torch.equal(plain.text.mask, one.text.mask)
        torch.testing.assert_close(one.latents, plain.latents, atol=0.02, rtol=0.01)
        kept = plain.text.mask
        torch.testing.assert_close(
            one.text.embeds.float()[:, kept], plain.text.embeds[:, kept], atol=0.02, rtol=0.01
        )


def test_filled_caches_need_no_encoders_and_no_decoding(folder: Path, tmp_path: Path) -> None:
    full, spy = encoder(tmp_path)
    data = ShardFolder.open(folder)
    assert fill_caches(data, full) == 28 + 28 + 14
    assert fill_caches(data, full) == 0
    alone = full.without_encoders()
    stream = BucketLoader(data, settings(), cached=alone.has_latents)
    batch = next(stream)
    assert all(sample.pixels is None for sample in batch.samples)
    before = spy.pictures
    encoded = alone.encode(batch)
    assert spy.pictures == before
    assert encoded.latents.shape[0] == encoded.text.batch == len(batch.samples)
    victim = next((tmp_path / "latents").rglob("*.safetensors"))
    for path in (tmp_path / "latents").rglob("*.safetensors"):
        path.write_bytes(victim.read_bytes()[:20])
    with pytest.raises(ComponentError, match="not in the cache"):
        alone.encode(batch)
    with pytest.raises(ComponentError, match="no cache for them"):
        fill_caches(data, encoder(None)[0])
    # With the encoders, what is damaged is computed again.
    assert fill_caches(data, full) == 28
    assert torch.equal(alone.encode(batch).latents, encoded.latents)


def test_processes_share_the_work(folder: Path, tmp_path: Path) -> None:
    data = ShardFolder.open(folder)
    parts = [encoder(tmp_path) for _ in range(3)]
    counts = [fill_caches(data, full, share=(i, 3)) for i, (full, _) in enumerate(parts)]
    assert sum(counts) == 28 + 28 + 14
    assert sorted(spy.pictures for _, spy in parts) == [9, 9, 10]
    assert fill_caches(data, encoder(tmp_path)[0]) == 0


def test_encoders_change_places_once(folder: Path, tmp_path: Path) -> None:
    full, spy = encoder(tmp_path)
    seen, done = [], []

    def report(count: int) -> None:
        done.append(count)
        seen.append(spy.pictures)

    fill_caches(ShardFolder.open(folder), full, report)
    assert done == list(range(1, 57))
    assert seen[:28] == [0] * 28
    assert seen[28:] == list(range(1, 29))


def test_another_encoder_has_another_cache() -> None:
    pipeline = tiny_pipeline()
    assert pipeline.text_encoder is not None
    words = [
        HarmonyEncoder(pipeline.text_encoder, pipeline.tokenizer, layers).fingerprint
        for layers in ((0, 1), (1,), (0, 1))
    ]
    assert words[0] == words[2] != words[1]
    before = VaeEncoder(pipeline.vae).fingerprint
    with torch.no_grad():
        pipeline.vae.bn.running_mean[0] += 1e-3
    assert VaeEncoder(pipeline.vae).fingerprint != before
