"""Weights under a variant's names (`fp16`, `bf16`), beside the plain ones or instead of them."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fake_hub import serve
from lens_core import CheckpointError, LensPipeline, PrecisionError
from lens_core.checkpoints.hub import Hub
from lens_core.checkpoints.inspect import inspect_checkpoint
from tiny_components import tiny_pipeline

PARTS = ("transformer", "text_encoder", "vae")


def zeroed() -> LensPipeline:
    """A pipeline that is told from the tiny one by any of its parts."""
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for part in PARTS:
            for tensor in getattr(pipeline, part).parameters():
                tensor.zero_()
    return pipeline


def weights(pipeline: LensPipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in PARTS
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def same(found: LensPipeline, expected: LensPipeline) -> bool:
    ours, theirs = weights(found), weights(expected)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture(params=["one file", "shards"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Zeros under the plain names, the tiny pipeline as `bf16`."""
    path = tmp_path / "lens"
    size = "20KB" if request.param == "shards" else "5GB"
    zeroed().save_pretrained(path, max_shard_size=size)
    tiny_pipeline().save_pretrained(path, variant="bf16", max_shard_size=size)
    return path


def plain_weights(folder: Path) -> list[Path]:
    found = [f for f in folder.rglob("*") if "safetensors" in f.name and ".bf16" not in f.name]
    assert len(found) >= 3
    return found


def test_a_variant_is_read_beside_the_plain_files(folder: Path) -> None:
    read = LensPipeline.from_pretrained
    assert same(read(folder, variant="bf16"), tiny_pipeline())
    assert same(read(folder), zeroed())
    # The text encoder is opened when it is needed.
    planned = read(folder, variant="bf16", memory="16gb", device="cpu")
    with planned.lend_text_encoder() as encoder:
        own = tiny_pipeline().text_encoder.state_dict()
        assert all(torch.equal(own[name], value) for name, value in encoder.state_dict().items())


def test_a_variant_is_read_where_there_is_nothing_else(folder: Path) -> None:
    for file in plain_weights(folder):
        file.unlink()
    assert same(LensPipeline.from_pretrained(folder, variant="bf16"), tiny_pipeline())
    for wrong in (None, "fp16"):
        with pytest.raises(CheckpointError, match=r"variant='bf16'"):
            LensPipeline.from_pretrained(folder, variant=wrong)
    assert all(part.is_complete for part in inspect_checkpoint(folder))


def test_parts_without_it_are_read_under_their_plain_names(folder: Path) -> None:
    for file in (folder / "vae").glob("*.bf16*"):
        file.unlink()
    found, plain = LensPipeline.from_pretrained(folder, variant="bf16"), zeroed()
    assert same(found, LensPipeline(**{**tiny_pipeline().components, "vae": plain.vae}))
    assert same(LensPipeline.from_pretrained(folder, variant="fp16"), plain)


def test_weights_stored_in_float16_are_cast(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    for part in PARTS:
        getattr(pipeline, part).to(torch.float16).save_pretrained(tmp_path / part, variant="fp16")
    read = partial(LensPipeline.from_pretrained, tmp_path, variant="fp16")
    found = read(torch_dtype=torch.bfloat16, tokenizer=pipeline.tokenizer)
    assert found.transformer.dtype == torch.bfloat16
    stored = pipeline.transformer.state_dict()
    read_back = found.transformer.state_dict()
    assert all(torch.equal(stored[n].bfloat16(), tensor) for n, tensor in read_back.items())
    assert read(tokenizer=pipeline.tokenizer).vae.bn.running_mean.dtype == torch.float32
    with pytest.raises(PrecisionError, match="float16"):
        read(torch_dtype=torch.float16)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, variant="bf16", max_shard_size="20KB")
    shard = sorted((tmp_path / "transformer").glob("*.bf16-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        LensPipeline.from_pretrained(tmp_path, variant="bf16")


def test_of_a_repository_only_the_variant_is_downloaded(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    shutil.copytree(folder, root / "some" / "lens" / ("1" * 40))
    for file in (root / "some" / "lens" / ("1" * 40) / "vae").glob("*.bf16*"):
        file.unlink()
    expected = LensPipeline(**{**tiny_pipeline().components, "vae": zeroed().vae})
    with serve(root) as served:
        hub = Hub(served.endpoint, tmp_path / "cache")
        assert same(LensPipeline.from_pretrained("some/lens", variant="bf16", hub=hub), expected)
        asked = [name for name in served.asked if name.endswith(".safetensors")]
        assert asked
        assert all(("/vae/" in name) != (".bf16" in name) for name in asked)
    offline = Hub(cache=tmp_path / "cache", local_only=True)
    assert same(LensPipeline.from_pretrained("some/lens", variant="bf16", hub=offline), expected)
