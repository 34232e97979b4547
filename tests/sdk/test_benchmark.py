"""NanoEval runs: resumable, tied to their settings, scored by the detector."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_core.nano import TASKS, evaluate, nano_eval_prompts
from lens_sdk.cli import app
from lens_sdk.nano_benchmark import BenchmarkSettings, NanoBenchmark
from lens_sdk.runtime import LensRuntime

QUICK = BenchmarkSettings(per_task=1, num_inference_steps=1, guidance_scale=1.0)


def _rows(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_that_stopped_goes_on(nano_runtime: LensRuntime, tmp_path: Path) -> None:
    first = NanoBenchmark(nano_runtime, QUICK, tmp_path)
    done = first.advance(2)
    assert next(done) == 0
    stopped_at = next(done)
    assert 0 < stopped_at < first.total == 6
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"index": 5, "ta')  # as a killed process may leave it

    second = NanoBenchmark(nano_runtime, QUICK, tmp_path)
    counts = list(second.advance(2))
    assert counts[0] == stopped_at
    assert counts[-1] == 6
    third = NanoBenchmark(nano_runtime, QUICK, tmp_path)
    assert list(third.advance(2)) == [6]
    assert {score.task for score in third.report().tasks} == set(TASKS)


def test_results_are_the_detectors(nano_runtime: LensRuntime, tmp_path: Path) -> None:
    from PIL import Image

    run = NanoBenchmark(nano_runtime, QUICK, tmp_path)
    list(run.advance(8))
    items = nano_eval_prompts(QUICK.seed, QUICK.per_task)
    for row in _rows(tmp_path):
        index = row["index"]
        assert isinstance(index, int)
        with Image.open(tmp_path / "pictures" / f"{index:04d}.png") as picture:
            assert picture.size == (items[index]["width"], items[index]["height"])
            assert evaluate(picture, items[index]).correct == row["correct"]
        assert row["prompt"] == items[index]["dense"]


def test_the_picture_does_not_depend_on_the_batch(
    nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder, batch in zip(folders, (1, 8), strict=True):
        list(NanoBenchmark(nano_runtime, QUICK, folder).advance(batch))
    rows = [sorted(_rows(folder), key=lambda row: str(row["index"])) for folder in folders]
    assert rows[0] == rows[1]


def test_the_command_prints_a_table_and_writes_the_numbers(
    nano_folder: Path, tmp_path: Path
) -> None:
    arguments = ["eval", "nano", "--model", str(nano_folder), "--per-task", "1", "--steps", "1"]
    arguments += ["--guidance", "1", "--out", str(tmp_path), "--prompts", "reasoned"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "| single_object | 0 / 1 | 0.000 |" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["prompts"] == "reasoned"
    assert [task["task"] for task in report["tasks"]] == list(TASKS)
    assert report["tasks"][0]["interval_95"][0] == 0
    assert report["model"]["weights"]

    again = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert again == {**report, "path": str(tmp_path / "report.json")}

    other = CliRunner().invoke(app, [*arguments, "--seed", "1"])
    assert other.exit_code == 1
    assert "other settings" in other.stderr


@pytest.mark.parametrize("arguments", [["geneval"], ["nano", "--prompts", "long"]])
def test_unknown_choices_are_messages(arguments: list[str], nano_folder: Path) -> None:
    result = CliRunner().invoke(app, ["eval", *arguments, "--model", str(nano_folder)])
    assert result.exit_code in {1, 2}
    assert arguments[-1] in result.stderr


def test_sizes_that_training_never_saw_are_measured_apart(
    nano_folder: Path, nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    arguments = ["eval", "nano", "--model", str(nano_folder), "--per-task", "1", "--steps", "1"]
    arguments += ["--guidance", "1", "--out", str(tmp_path), "--size", "96x80", "--size", "64x96"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    for size in ("96x80", "64x96"):
        assert f"| {size} | 0.000 | 0.000 to 0." in result.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["sizes"].keys() == {"96x80", "64x96"}
    low, high = report["overall_interval_95"]
    assert low == 0.0 < high < report["sizes"]["96x80"]["overall_interval_95"][1]
    settings = BenchmarkSettings(1, 0, "dense", 1, 1.0, ((96, 80), (64, 96)))
    again = NanoBenchmark(nano_runtime, settings, tmp_path)
    assert list(again.advance(8)) == [12]
    assert len({row["index"] for row in _rows(tmp_path)}) == 12
