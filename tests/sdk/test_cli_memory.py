"""`lens memory`, and memory plans from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_core.memory.plan import PLANS
from lens_reasoner import FunctionGenerator, GeneratedImage
from lens_sdk.cli import app
from lens_sdk.errors import UnknownPartError
from lens_sdk.generators import local_generator, plan_memory


def lens(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_the_table_names_every_plan() -> None:
    found = json.loads(lens("memory", "--size", "512x768", "--json"))
    assert [plan["plan"] for plan in found] == list(PLANS)
    assert {(plan["width"], plan["height"]) for plan in found} == {(512, 768)}
    for plan in found:
        assert plan["peak"] == max(plan["stages"].values()) < plan["needed"]
    assert "No accelerator found" in lens("memory", "--size", "512x768")
    for wrong, said in (("8x8", "multiple of 16"), ("4096x4096", "the largest is")):
        assert said in lens("memory", "--size", wrong, code=1)


def test_fine_tuning_has_a_table_of_its_own(tiny_folder: Path) -> None:
    told = ("--config", "nano", "--set", f"start={tiny_folder}")
    found = json.loads(lens("train", "memory", *told, "--json"))
    assert [plan["plan"] for plan in found] == list(PLANS)
    assert {(plan["width"], plan["batch"]) for plan in found} == {(160, 4)}
    trained = {plan["plan"]: plan["stages"]["train"] for plan in found}
    assert trained["resident"] == trained["16gb"] > trained["8gb"]
    assert [plan["plan"] for plan in found if not plan["lossless"]] == ["6gb"]
    shown = lens("train", "memory", *told)
    assert all(word in shown for word in ("resident", "reading", "images", "training", "samples"))
    assert "holds no pipeline" in lens("train", "memory", "--set", "start=nowhere", code=1)


def test_a_picture_under_a_plan_is_the_same_and_its_features_are_kept(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def draw(name: str, *planned: str) -> np.ndarray:
        target = tmp_path / f"{name}.png"
        told = ("--no-reason", "--no-judge", "--seed", "3", "--steps", "1", "--out", str(target))
        lens("generate", "two red apples", "--model", str(tiny_folder), *told, *planned)
        return np.asarray(Image.open(target))

    features = tmp_path / "features"
    plain = draw("plain")
    planned = ("--memory", "4gb", "--feature-cache", str(features))
    assert np.array_equal(draw("planned", *planned), plain)
    kept = {path.name for path in features.glob("*.safetensors")}
    assert kept
    assert np.array_equal(draw("again", *planned), plain)
    assert {path.name for path in features.glob("*.safetensors")} == kept


def test_a_picture_on_a_faster_path(tiny_folder: Path, tmp_path: Path) -> None:
    told = ("--no-reason", "--no-judge", "--seed", "3", "--steps", "2", "--model", str(tiny_folder))
    pictures = []
    for name in ("plain", "exact"):
        target = tmp_path / f"{name}.png"
        lens("generate", "two red apples", *told, "--speed", name, "--out", str(target))
        pictures.append(np.asarray(Image.open(target)))
    assert np.array_equal(*pictures)
    refused = " ".join(lens("generate", "x", *told, "--speed", "warp", code=1).split())
    assert "speed 'warp' must be one of plain, exact, fast" in refused
    runtime = local_generator(str(tiny_folder)).runtime
    runtime.plan_speed("exact")
    assert runtime.load().transformer.keeps_modulation_table


def test_plans_are_refused_before_anything_is_loaded(tiny_folder: Path) -> None:
    options = ("--model", str(tiny_folder), "--no-reason", "--no-judge", "--memory", "10gb")
    assert "'10gb' is not one of 'auto'" in lens("generate", "x", *options, code=2)

    def draw(prompt: str, seed: int) -> GeneratedImage:
        raise AssertionError

    with pytest.raises(UnknownPartError, match="has no memory plans"):
        plan_memory(FunctionGenerator(draw), "8gb")
    plan_memory(FunctionGenerator(draw))
    plan_memory(local_generator(str(tiny_folder)), "auto")
