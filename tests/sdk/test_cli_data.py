"""`lens data`: shards of pictures and of drawn scenes, checked and encoded."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_sdk.cli import app
from tiny_components import tiny_pipeline


def lens(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    # JSON is for programs, which read standard output alone.
    return result.stdout if "--json" in arguments else result.output


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate([(600, 600), (1100, 620), (560, 530), (100, 100)]):
        Image.new("RGB", size, (40 * index, 90, 10)).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text(f"picture {index}")
    return folder


def test_a_folder_becomes_shards_that_can_be_checked(pictures: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shown = lens("shard", str(pictures), "--out", str(shards), "--format", "webp")
    for line in ("3 pictures in 2 shards", "512x512: 2", "576x1024: 1", "skipped, unfit_image: 1"):
        assert line in shown
    manifest = json.loads((shards / "manifest.json").read_text())
    assert manifest["made"]["source"] == str(pictures)
    assert len(manifest["buckets"]) == 27
    assert "are as they were written" in lens("check", str(shards))
    told = json.loads(lens("check", str(shards), "--json"))
    assert told["buckets"] == {"512x512": 2, "576x1024": 1}
    assert told["skipped"] == {"unfit_image": 1}
    path = shards / "512x512" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "its SHA-256 is not the manifest's" in lens("check", str(shards), code=1)
    assert "holds shards already" in lens("shard", str(pictures), "--out", str(shards), code=1)


def test_what_cannot_be_used_may_be_refused(pictures: Path, tmp_path: Path) -> None:
    arguments = ("shard", str(pictures), "--out", str(tmp_path / "a"))
    assert "100x100" in lens(*arguments, "--refuse", "unfit_image", code=1)
    assert "'size' is not one of" in lens(*arguments, "--refuse", "size", code=2)
    assert "'left' is not one of" in lens(*arguments, "--crop", "left", code=2)
    assert "choose one of lens" in lens(*arguments, "--buckets", "big", code=1)
    assert "not a folder" in lens("shard", "nothing", "--out", "a", code=1)


def test_a_table_names_the_pictures(pictures: Path, tmp_path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["path", "caption_dense", "caption_brief"], ["0.jpg", "a long one", "short"]])
    (pictures / "table.csv").write_text(text.getvalue())
    lens("shard", str(pictures / "table.csv"), "--out", str(tmp_path / "t"), "--every-base")
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    assert manifest["captions"] == {"brief": 1, "dense": 1}


def test_drawn_scenes_are_encoded_once(tmp_path: Path) -> None:
    model, shards, cache = tmp_path / "model", tmp_path / "shards", tmp_path / "cache"
    tiny_pipeline().save_pretrained(model)
    nano = ("shard", "nano", "--scenes", "3", "--buckets", "nano-128", "--out", str(shards))
    assert json.loads(lens(*nano, "--json"))["path"] == str(shards / "manifest.json")
    arguments = ("encode", str(shards), "--model", str(model), "--cache", str(cache))
    assert "Computed 9 latents and features" in lens(*arguments)
    assert len(list((cache / "latents").rglob("*.safetensors"))) == 3
    assert "Computed 0 latents and features" in lens(*arguments)
    assert json.loads(lens(*arguments, "--layers", "1", "--json"))["computed"] == 6
    assert "layers 0 to 1, not [7]" in lens(*arguments, "--layers", "7", code=1)
    assert "'a' is not a list of numbers" in lens(*arguments, "--layers", "a", code=2)


def test_a_packaged_model_encodes_by_its_name(tmp_path: Path) -> None:
    shards, cache = tmp_path / "shards", tmp_path / "cache"
    lens("shard", "nano", "--scenes", "1", "--buckets", "nano-128", "--out", str(shards))
    arguments = ("encode", str(shards), "--model", "lens-nano", "--cache", str(cache))
    assert "Computed 3 latents and features" in lens(*arguments)
