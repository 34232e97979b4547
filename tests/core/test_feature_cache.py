"""Text features on disk: a prompt read once needs no text encoder again, and nothing goes stale."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_core import LensPipeline, ParameterError
from lens_core.feature_cache import FeatureCache, FeatureKey
from lens_core.memory.encoder_file import EncoderFile
from lens_core.text_encoder import LensTextEncoder
from tiny_components import TEXTS, tiny_pipeline


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "lens"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the texts that a text encoder reads."""
    lengths: list[int] = []
    read = LensTextEncoder.features

    def counted(self: LensTextEncoder, ids: Tensor, *rest: Any) -> list[Tensor]:
        lengths.append(ids.shape[1])
        return read(self, ids, *rest)

    monkeypatch.setattr(LensTextEncoder, "features", counted)
    return lengths


def loaded(checkpoint: Path, cache: FeatureCache | Path | None, **planned: Any) -> LensPipeline:
    pipeline = LensPipeline.from_pretrained(
        checkpoint, feature_cache=cache, device="cpu", **planned
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: LensPipeline, prompt: str | list[str] = TEXTS[0], **changes: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return pipeline(prompt, generator=generator, output_type="pt", **changes).images  # type: ignore[return-value]


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the text encoder was loaded")

    monkeypatch.setattr(EncoderFile, "load", refuse)
    monkeypatch.setattr(LensTextEncoder, "from_pretrained", refuse)
    monkeypatch.setattr(LensTextEncoder, "__init__", refuse)


@pytest.mark.parametrize("memory", [None, "8gb"])
def test_the_second_run_never_loads_the_text_encoder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str | None
) -> None:
    expected = draw(loaded(checkpoint, None), negative_prompt="grey")
    first = loaded(checkpoint, tmp_path, memory=memory)
    assert torch.equal(draw(first, negative_prompt="grey"), expected)

    if memory is None:
        forbid_loading(monkeypatch)
    else:
        monkeypatch.setattr(EncoderFile, "load", None)
    second = loaded(checkpoint, tmp_path, memory=memory)
    assert torch.equal(draw(second, negative_prompt="grey"), expected)
    assert second.text_encoder is None
    embeds, mask = second.encode_prompt([TEXTS[0], "grey"])
    assert embeds.shape[1] == 2
    assert not mask.all()


def test_only_what_is_missing_is_read_and_each_prompt_alone(
    checkpoint: Path, tmp_path: Path, reads: list[int]
) -> None:
    pipeline = loaded(checkpoint, tmp_path)
    alone = pipeline.encode_prompt(TEXTS[0])[0]
    assert len(reads) == 1
    both, mask = pipeline.encode_prompt([TEXTS[1], TEXTS[0], TEXTS[1]])
    assert len(reads) == 2
    assert torch.equal(both[:, 1, mask[1]], alone[:, 0])
    assert torch.equal(both[:, 0], both[:, 2])
    # In a batch without a cache, sums are taken in another order.
    plain, plain_mask = loaded(checkpoint, None).encode_prompt([TEXTS[1], TEXTS[0], TEXTS[1]])
    assert torch.equal(mask, plain_mask)
    assert torch.allclose(both[:, mask], plain[:, mask], atol=1e-5)
    # Another date is another text.
    pipeline.encode_prompt(TEXTS[0], date="2030-01-01")
    assert len(reads) == 4  # The plain pipeline read all three at once.


def test_other_weights_or_precision_are_another_encoder(
    checkpoint: Path, tmp_path: Path, reads: list[int]
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    draw(loaded(checkpoint, cache))
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    draw(loaded(other, cache))
    assert len(reads) == 1  # The same weights in another place.
    file = other / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.router.bias"] = tensors["model.layers.1.mlp.router.bias"] + 1
    save_file(tensors, file)
    draw(loaded(other, cache))
    assert len(reads) == 2
    loaded(checkpoint, cache, dtype=torch.bfloat16).encode_prompt(TEXTS[0])
    assert len(reads) == 3


def test_an_encoder_given_as_a_module_is_known_by_its_weights(
    tmp_path: Path, reads: list[int]
) -> None:
    pipeline = tiny_pipeline().apply_memory(device="cpu", feature_cache=tmp_path)
    draw(pipeline)
    again = tiny_pipeline().apply_memory(device="cpu", feature_cache=tmp_path)
    draw(again)
    assert len(reads) == 1
    changed = tiny_pipeline()
    with torch.no_grad():
        changed.text_encoder.model.embed_tokens.weight.add_(0.1)
    draw(changed.apply_memory(device="cpu", feature_cache=tmp_path))
    assert len(reads) == 2


def key(number: int) -> FeatureKey:
    return FeatureKey("encoder", (0, 1), (1, 2, number), 1)


def test_damaged_files_are_read_anew(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    features = torch.arange(12.0).view(2, 2, 3)
    assert cache.load(key(0)) is None
    cache.store(key(0), features)
    assert torch.equal(cache.load(key(0)), features)  # type: ignore[arg-type]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert cache.load(key(0)) is None
    assert not file.exists()
    # So are whole files that hold something else.
    save_file({"features": torch.zeros(2, 3)}, file)
    assert cache.load(key(0)) is None
    assert not file.exists()


def test_a_folder_that_cannot_be_written_to_costs_no_picture(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    pipeline = loaded(checkpoint, tmp_path / "file")
    plain = loaded(checkpoint, None)
    assert torch.equal(draw(pipeline), draw(plain))
    assert "cannot be kept in" in caplog.text


def test_the_folder_stays_within_its_size(tmp_path: Path) -> None:
    one = torch.zeros(2, 2, 500)
    cache = FeatureCache(tmp_path, max_bytes=3 * 8200)
    for number in range(3):
        cache.store(key(number), one)
        os.utime(tmp_path / f"{key(number).digest}.safetensors", (number, number))
    assert cache.load(key(0)) is not None  # Used, so it is no longer the oldest.
    cache.store(key(3), one)
    kept = [number for number in range(4) if cache.load(key(number)) is not None]
    assert kept == [0, 2, 3]
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())
    with pytest.raises(ParameterError, match="max_bytes 0"):
        FeatureCache(tmp_path, max_bytes=0)


def test_weights_are_hashed_once_until_they_change(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lens_core.memory import encoder_file

    hashed: list[Path] = []
    real = encoder_file.file_hash
    monkeypatch.setattr(
        encoder_file, "file_hash", lambda file: (hashed.append(file), real(file))[1]
    )
    source = EncoderFile(checkpoint / "text_encoder", torch.float32)
    first = source.identity(tmp_path / "weights.json")
    assert source.identity(tmp_path / "weights.json") == first
    assert len(hashed) == 1
    os.utime(checkpoint / "text_encoder" / "model.safetensors")
    assert source.identity(tmp_path / "weights.json") == first
    assert len(hashed) == 2
