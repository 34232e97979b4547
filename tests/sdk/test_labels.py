"""From a page's labels to how far the judge can be trusted, in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from chromium import CHROMIUM, Page, chromium_page
from lens_core.nano import brief_caption, render, sample_scene
from lens_reasoner import (
    AgentLoop,
    CalibrationError,
    FunctionGenerator,
    ImageRequest,
    RunRecord,
    RunStore,
    load_labels,
    recorded_verdicts,
)
from lens_sdk.cli import app
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from loopback_lens import until

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one that draws what is asked for, and one that draws something else."""
    folder = tmp_path_factory.mktemp("recorded") / "runs"
    rng = np.random.default_rng(2)
    asked, other = sample_scene(rng, "colors"), sample_scene(rng, "counting")
    for scene in (asked, other):
        loop = AgentLoop(
            generator=FunctionGenerator(lambda prompt, seed, scene=scene: render(scene), name="t"),
            judge=NanoJudge(),
            rubric_writer=NanoRubricWriter(),
        )
        request = ImageRequest(text=brief_caption(asked, np.random.default_rng(0)), seed=1)
        loop.run_sync(request, record=RunStore(folder).new())
    return folder


def _lens(*arguments: object, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


def _answers(runs: Path) -> list[tuple[str, str, str]]:
    """Picture, criterion and answer of everything that was judged, in the page's order."""
    records = [RunRecord(path) for path in RunStore(runs).folders()]
    return [
        (candidate.image.sha256, line.criterion, line.answer)
        for record in records
        for candidate in record.result().candidates
        for line in candidate.verdict.verdicts
    ]


@needs_browser
def test_labels_go_from_the_page_into_the_numbers(runs: Path, page: Page, tmp_path: Path) -> None:
    judged = _answers(runs)
    assert [answer for *_, answer in judged] == ["yes", "yes", "no", "no"]
    [path] = _lens("report", runs)[0].split()
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(Path(path).as_uri(), width=390, phone=True)
    assert page.value("document.querySelector('#labels .tools').checkVisibility()") is False

    # All by keyboard: agree, disagree, cannot tell; the last one is chosen by mouse.
    page.value("document.querySelector('#labels button').focus()")
    page.press("Enter", code=13)
    assert page.value("getComputedStyle(document.querySelector('.mark')).visibility") == "hidden"
    assert page.value("document.documentElement.scrollWidth") <= 390
    for key in "ynu":
        page.press(key, code=ord(key.upper()))
    page.value(
        "document.querySelectorAll('[data-criterion]')[3].querySelector('[value=no]').click()"
    )
    assert page.value("document.querySelector('.count').textContent") == "4 of 4 labelled"
    page.open(Path(path).as_uri())
    assert page.value("document.querySelectorAll('.label input:checked').length") == 4

    page.value("document.querySelector('#labels button').click()")
    page.value("document.querySelector('.tools > button').click()")
    labels = tmp_path / "labels.json"
    page.wait("!document.querySelector('.then').hidden")
    until(labels.is_file, 20)
    given = load_labels(labels)
    assert [(one.image, one.criterion, one.label) for one in given] == [
        (image, criterion, label)
        for (image, criterion, _), label in zip(
            judged, ("yes", "no", "cannot_tell", "no"), strict=True
        )
    ]

    report = json.loads(_lens("calibrate", labels, "--runs", runs, "--json")[0])
    assert (report["overall"]["labels"], report["unclear"], report["unmatched"]) == (3, 1, 0)
    assert report["overall"]["agreement"]["value"] == pytest.approx(2 / 3)
    assert report["overall"]["true_negative_rate"]["interval"] == pytest.approx(
        (0.0945, 0.9055), abs=1e-4
    )
    assert report["judges"] == ["nano-detector"]

    page.value("window.confirm = () => true")
    page.value("[...document.querySelectorAll('.tools button')].at(1).click()")
    assert page.value("document.querySelectorAll('.label input:checked').length") == 0
    assert page.value("localStorage.length") == 1
    assert page.value("document.activeElement.textContent") == "Close"


def _saved(folder: Path, judged: list[tuple[str, str, str]], label: str) -> Path:
    path = folder / f"{label}.csv"
    rows = [f"{image[:12]},{criterion},{label}" for image, criterion, _ in judged]
    path.write_text("\n".join(["image,criterion,label", *rows]))
    return path


def test_the_command_says_whom_to_distrust_and_when_nothing_fits(
    runs: Path, tmp_path: Path
) -> None:
    labels = _saved(tmp_path, _answers(runs), "no")
    saved = tmp_path / "report.md"
    stdout, _ = _lens("calibrate", labels, "--runs", runs, "--min-labels", "2", "--out", saved)
    assert "4 labels compared" in stdout
    assert re.search(r"all +0\.50 \[0\.15, 0\.85\] \(2/4\)", stdout)
    assert "Nothing is distrusted" in stdout
    assert "# Calibration of nano-detector" in saved.read_text()
    [first] = RunStore(runs).folders()[:1]
    stdout, _ = _lens("calibrate", labels, "--runs", first, "--min-labels", "1")
    assert "Distrust count: agreement at most 0.79 < 0.8" in stdout
    assert "2 without a verdict" in stdout
    none = tmp_path / "none.json"
    none.write_text('{"labels": [{"image": "ab", "criterion": "cup", "label": "yes"}]}')
    assert "--runs lens-demo/runs" in _lens("calibrate", none, "--runs", runs, code=1)[1]
    none.write_text('{"labels": []}')
    assert "no labels yet" in _lens("calibrate", none, "--runs", runs, code=1)[1]
    assert "no run in" in _lens("calibrate", labels, "--runs", tmp_path / "x", code=1)[1]
    by = ("--judged-by", "somebody")
    assert "by 'somebody'" in _lens("calibrate", labels, "--runs", runs, *by, code=1)[1]


def test_the_last_answer_counts_and_judges_are_not_mixed(runs: Path, tmp_path: Path) -> None:
    first, second = RunStore(runs).folders()
    again = tmp_path / "again"
    again.mkdir()
    (again / "images").symlink_to(first / "images")
    text = (first / "events.jsonl").read_text()
    changed = text.replace('"answer": "yes"', '"answer": "no"')
    later = re.sub(r'"created": "\d{4}', '"created": "2999', changed)
    (again / "events.jsonl").write_text(later)
    records = [RunRecord(path) for path in (again, first, second)]
    answers = [
        line.answer for verdict, _ in recorded_verdicts(records) for line in verdict.verdicts
    ]
    assert answers == ["no"] * 4
    other = later.replace('"judge": "nano-detector"', '"judge": "other"')
    (again / "events.jsonl").write_text(other)
    records = [RunRecord(path) for path in (again, first, second)]
    with pytest.raises(CalibrationError, match="'nano-detector' and by 'other'") as error:
        recorded_verdicts(records)
    assert "--judged-by" in error.value.hint
    assert len(recorded_verdicts(records, judge="nano-detector")) == 2
