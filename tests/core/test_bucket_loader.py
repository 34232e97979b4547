"""Shards by bucket and the loader: assignment, exact positions, damage."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens_core.data.buckets import BATCH_SIZES, TABLES, Bucket, fitting_buckets, nearest_bucket
from lens_core.data.errors import (
    DamagedShardError,
    ManifestError,
    MissingCaptionError,
    UnfitImageError,
    UnreadableImageError,
)
from lens_core.data.fitting import CropPolicy, decode_image, fit
from lens_core.data.manifest import load_manifest
from lens_core.data.order import EpochOrder, ResampledOrder
from lens_core.data.policy import DataPolicy
from lens_core.data.reading import ShardFolder
from lens_core.data.sources import nano_images
from lens_core.data.writing import ShardSettings, write_shards
from lens_core.errors import ParameterError
from tiny_shards import (
    COUNTS,
    TABLE,
    images,
    loader,
    picture,
    source,
    take,
    write_images,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "shards")


def test_the_published_buckets_are_27_with_their_batch_sizes() -> None:
    table = TABLES["lens"]
    assert len(table) == len({bucket.name for bucket in table}) == 27
    assert Counter(bucket.base for bucket in table) == {512: 9, 768: 9, 1024: 9}
    assert BATCH_SIZES == {512: 24, 768: 10, 1024: 6}
    for bucket in table:
        assert Bucket(bucket.base, bucket.width, bucket.height) in table
        assert bucket.height % 16 == bucket.width % 16 == 0
        assert 0.5 <= bucket.height / bucket.width <= 2
        assert bucket.height * bucket.width == pytest.approx(bucket.base**2, rel=0.06)
    work = [BATCH_SIZES[b.base] * b.height * b.width for b in table]
    assert max(work) / min(work) < 1.2


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (4000, 3000, "864x1152"),
        (1920, 1080, "768x1376"),
        (1300, 760, "576x1024"),
        (512, 512, "512x512"),
        (900, 2000, "1472x736"),
    ],
)
def test_pictures_go_to_the_largest_area_they_fill(width: int, height: int, expected: str) -> None:
    assert nearest_bucket(height, width, TABLES["lens"]).name == expected


def test_a_picture_is_never_enlarged() -> None:
    with pytest.raises(UnfitImageError, match="511x600"):
        nearest_bucket(600, 511, TABLES["lens-512"])
    names = [bucket.name for bucket in fitting_buckets(1200, 1200, TABLES["lens"])]
    assert names == ["1024x1024", "768x768", "512x512"]


def test_scaling_keeps_the_ratio_and_cuts_as_the_policy_says() -> None:
    image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 100, 3)))
    digest = "00000000ffffffff"
    boxes = {
        place: fit(image, TABLE[0], CropPolicy(place, 0.5), digest).box  # type: ignore[arg-type]
        for place in ("centre", "top", "random")
    }
    assert boxes == {
        "centre": (0, 50, 100, 150),
        "top": (0, 0, 100, 100),
        "random": (0, 100, 100, 200),
    }
    kept = np.array(fit(image, TABLE[0], CropPolicy("centre", 0.5), digest).image)
    assert kept.shape == (64, 64, 3)
    np.testing.assert_allclose(kept[[0, -1], 0, 0], [50, 149], atol=2)
    with pytest.raises(UnfitImageError, match="lose 50%"):
        fit(image, TABLE[0], CropPolicy("centre", 0.3), digest)


def test_shards_are_webdataset_files_of_one_bucket_with_hashes(folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    manifest = load_manifest(folder)
    assert manifest.captions == {"brief": 28, "dense": 28}
    assert {
        name: sum(shard.samples for shard in manifest.shards if shard.bucket == name)
        for name in COUNTS
    } == COUNTS
    assert ShardFolder.open(folder).verify() == []
    shard = next(s for s in manifest.shards if s.bucket == "48x80")
    read = list(webdataset.WebDataset(str(folder / shard.path), shardshuffle=False).decode("pil"))
    assert len(read) == 4
    assert read[0]["png"].size == (80, 48)
    assert read[0]["txt"] == read[0]["json"]["captions"]["dense"] == "48x80 dense 0"
    assert read[0]["json"]["source"] == "48x80-0"


def test_equal_input_gives_equal_shards(folder: Path, tmp_path: Path) -> None:
    again = write_shards(
        images(), tmp_path / "again", ShardSettings(TABLE, samples_per_shard=4), {}
    )
    assert again.fingerprint() == load_manifest(folder).fingerprint()
    with pytest.raises(ManifestError, match="holds shards already"):
        write_shards(images(), folder, ShardSettings(TABLE), {})


def test_unusable_pictures_are_counted_or_refused(tmp_path: Path) -> None:
    bad = [
        source("broken", b"no picture", dense="x"),
        source("small", picture(40, 40), dense="x"),
        source("mute", picture(64, 64)),
        source("good", picture(64, 64), dense="x"),
    ]
    manifest = write_shards(bad, tmp_path / "a", ShardSettings(TABLE), {})
    assert manifest.samples == 1
    assert manifest.skipped == {"missing_caption": 1, "unfit_image": 1, "unreadable_image": 1}
    for kind, error, name in (
        ("missing_caption", MissingCaptionError, "mute"),
        ("unfit_image", UnfitImageError, "40x40"),
        ("unreadable_image", UnreadableImageError, "broken"),
    ):
        policy = DataPolicy.model_validate({kind: "refuse"})
        with pytest.raises(error, match=name):
            write_shards(bad, tmp_path / kind, ShardSettings(TABLE, policy=policy), {})
    with pytest.raises(ManifestError, match=r"missing caption \(1\).*x.txt for x.png"):
        write_shards(bad[:3], tmp_path / "b", ShardSettings(TABLE), {})


def test_an_epoch_shows_every_picture_of_a_bucket_once(folder: Path) -> None:
    seen: dict[str, list[str]] = {name: [] for name in COUNTS}
    stream = loader(folder)
    while any(len(seen[name]) < 2 * count for name, count in COUNTS.items()):
        for _, bucket, captions in take(stream, 1):
            assert len(captions) == (2 if bucket == "96x96" else 3)
            seen[bucket] += captions
    for name, count in COUNTS.items():
        epochs = seen[name][:count], seen[name][count : 2 * count]
        assert {len(set(epoch)) for epoch in epochs} == {count}
        assert epochs[0] != epochs[1]


def test_buckets_come_such_that_every_picture_comes_equally_often(folder: Path) -> None:
    stream = loader(folder, threads=0)
    drawn = Counter[str]()
    for _, bucket, captions in take(stream, 300):
        drawn[bucket] += len(captions)
    total = sum(drawn.values())
    for name, count in COUNTS.items():
        assert drawn[name] / total == pytest.approx(count / 28, abs=0.07)
    only = loader(folder, bucket_shares={"96x96": 1.0, "64x64": 0.0})
    assert {bucket for _, bucket, _ in take(only, 8)} == {"96x96"}


@pytest.mark.parametrize("order", ["epochs", "resampled"])
@pytest.mark.parametrize("threads", [0, 3])
def test_a_saved_position_goes_on_exactly(folder: Path, order: str, threads: int) -> None:
    changes = {"order": order, "caption_shares": {"dense": 1, "brief": 1}}
    whole = take(loader(folder, threads=0, **changes), 30)
    stream = loader(folder, threads=threads, **changes)
    assert take(stream, 13) == whole[:13]
    state = json.loads(json.dumps(stream.state()))
    resumed = loader(folder, threads=3 - threads, prefetch=2, **changes)
    resumed.restore(state)
    assert take(resumed, 17) == whole[13:]
    resumed.restore(state)
    assert take(resumed, 2) == whole[13:15]
    resumed.close()
    assert len({captions for _, _, captions in whole}) > 20


def test_any_number_of_processes_shares_one_stream(folder: Path) -> None:
    """Two processes, then three, then one: together they see what one alone sees."""
    whole = take(loader(folder), 14)
    pair = [loader(folder, rank, 2) for rank in range(2)]
    seen = [batch for stream in pair for batch in take(stream, 2)]
    assert sorted(seen) == whole[:4]
    assert pair[0].state() == pair[1].state()
    three = [loader(folder, rank, 3) for rank in range(3)]
    for stream in three:
        stream.restore(pair[0].state())
    seen = [batch for stream in three for batch in take(stream, 2)]
    assert sorted(seen) == whole[4:10]
    alone = loader(folder)
    alone.restore(three[2].state())
    assert take(alone, 4) == whole[10:]
    again = [alone.batch(number) for number in (3, 0, 12)]
    assert [b.samples[0].caption for b in again] == [whole[n][2][0] for n in (3, 0, 12)]
    buckets = [{bucket for _, bucket, _ in whole[i : i + 2]} for i in range(0, 14, 2)]
    assert any(len(step) == 2 for step in buckets)


def test_a_position_of_other_data_or_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    state = loader(folder).state()
    write_shards(images()[1:], tmp_path / "other", ShardSettings(TABLE), {})
    with pytest.raises(ManifestError, match="other shards"):
        loader(tmp_path / "other").restore(state)
    with pytest.raises(ParameterError, match="other loader settings: seed"):
        loader(folder, seed=6).restore(state)
    with pytest.raises(ParameterError, match=r"no entry for the bases \[96\]"):
        loader(folder, batch_sizes={64: 2})
    with pytest.raises(ParameterError, match="there are no"):
        loader(folder, bucket_shares={"1x1": 1.0})
    for shares in ({"dense": 0}, {"dense": 2, "brief": -1}):
        with pytest.raises(ParameterError, match="weights of 0 and more"):
            loader(folder, caption_shares=shares)


def test_damage_is_refused_or_replaced_and_counted(folder: Path) -> None:
    path = folder / "64x64" / "shard-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:2000])
    with pytest.raises(DamagedShardError, match=r"shard-000001.tar has 2000 bytes"):
        take(loader(folder), 40)
    skipping = {"policy": {"damaged_shard": "skip"}}
    stream = loader(folder, **skipping)
    seen = take(stream, 40)
    lost = {f"64x64 dense {i}" for i in range(4, 8)}
    shown = {caption for _, _, captions in seen for caption in captions}
    assert shown.isdisjoint(lost)
    assert stream.counts["damaged_shard"] > 4
    half = loader(folder, **skipping)
    take(half, 20)
    resumed = loader(folder, **skipping)
    resumed.restore(half.state())
    assert take(resumed, 20) == seen[20:]
    assert resumed.counts == stream.counts
    path.unlink()
    with pytest.raises(DamagedShardError, match="is missing"):
        take(loader(folder), 40)
    assert ShardFolder.open(folder).verify() == ["64x64/shard-000001.tar: missing"]


def test_shards_that_are_written_again_are_read_anew(tmp_path: Path) -> None:
    """By the same process, and as long as before: tar files are filled up."""
    sizes = []
    for text in ("a cup", "a cup " * 500):
        folder = tmp_path / "shards"
        shutil.rmtree(folder, ignore_errors=True)
        pictures = [source("one", picture(64, 64), caption=text)]
        write_shards(pictures, folder, ShardSettings(TABLE), {})
        data = ShardFolder.open(folder)
        assert dict(data.read(data.manifest.shards[0], 0).captions) == {"caption": text}
        sizes.append(data.manifest.shards[0].size)
    assert sizes[0] == sizes[1]


def test_a_changed_picture_is_noticed(folder: Path) -> None:
    path = folder / "96x96" / "shard-000000.tar"
    content = path.read_bytes()
    place = content.index(b"IDAT") + 20
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(DamagedShardError, match="not those that were written"):
        take(loader(folder, bucket_shares={"96x96": 1}), 4)
    assert ShardFolder.open(folder).verify() == [
        "96x96/shard-000000.tar: its SHA-256 is not the manifest's"
    ]


def test_a_bucket_without_anything_usable_ends_with_an_error(folder: Path) -> None:
    shares = {"caption_shares": {"poetic": 1}}
    with pytest.raises(DamagedShardError, match=r"no usable sample.*no caption 'poetic'"):
        take(loader(folder, **shares), 1)


def test_waiting_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = loader(folder, threads=0)
    slow = decode_image

    def late(content: bytes, name: str) -> Image.Image:
        import time

        time.sleep(0.02)
        return slow(content, name)

    monkeypatch.setattr("lens_core.data.loader.decode_image", late)
    batch = next(stream)
    assert batch.waited >= 0.02 * len(batch.samples)
    assert stream.waited == batch.waited


@pytest.mark.parametrize("window", [1, 3, 100])
def test_epochs_are_permutations_for_any_window(window: int) -> None:
    sizes = [4, 0, 5, 1, 7, 2]
    order = EpochOrder(sizes, (1, 2), window)
    total, everything = sum(sizes), {(s, r) for s, n in enumerate(sizes) for r in range(n)}
    epochs = [[order.address(e * total + i) for i in range(total)] for e in range(3)]
    assert all(set(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert EpochOrder(sizes, (1, 2), window).address(2 * total + 5) == epochs[2][5]
    drawn = Counter(ResampledOrder(sizes, (1,)).address(i) for i in range(4000))
    assert set(drawn) == everything
    assert max(drawn.values()) < 4000 / total + 6 * math.sqrt(4000 / total)


def test_nano_scenes_become_shards_of_every_bucket(tmp_path: Path) -> None:
    table = TABLES["nano"][::6]
    manifest = write_shards(
        nano_images(3, len(table), table), tmp_path, ShardSettings(table), {"source": "nano"}
    )
    assert {bucket.name for bucket in manifest.bucket_list()} == {b.name for b in table}
    assert manifest.captions == {"brief": len(table), "dense": len(table)}
    stream = loader(tmp_path, batch_sizes={96: 2, 128: 1, 160: 1})
    batch = next(stream)
    first = batch.samples[0].pixels
    assert first is not None
    assert first.shape[:2] == batch.bucket.size
