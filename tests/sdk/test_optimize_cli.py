"""`lens optimize` on a tiny nano checkpoint: run, killed, interrupted, resumed, refused."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from lens_prompt_opt import (
    Budget,
    GeneratorMatrix,
    MatrixEntry,
    PromptCard,
    StudyProgress,
    TransferLoss,
    load_system_prompt,
)
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner import LLMReasoner, SystemPrompt
from lens_sdk.cli import app
from lens_sdk.cli.optimize_display import StudyDisplay, show_result
from lens_sdk.nano_proposals import POOR_PROMPT
from lens_sdk.optimize_run import OptimizeRun
from prompt_opt.simulated_study import study
from scripted_chat import ScriptedChat

REQUESTS = [f"{n} {c} {k}" for n in ("two", "three") for c in ("red", "blue") for k in
            ("cups", "apples", "trees", "cats")]  # fmt: skip


@pytest.fixture(scope="module")
def requests_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, REQUESTS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def order(requests_file: Path, nano_folder: Path) -> list[str]:
    """The command without its folder."""
    return [
        *("optimize", "--requests", str(requests_file), "--generator", str(nano_folder)),
        *("--budget-images", "60", "--steps", "1", "--size", "32x32", "--test-pictures", "1"),
    ]


def _lens(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if k not in {"seconds", "run_dir"}}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def _result(folder: Path) -> Any:
    return _untimed(json.loads((folder / "result.json").read_text()))


def _kept(folder: Path) -> list[str]:
    path = folder / "calls.jsonl"
    return path.read_bytes().decode().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def whole(order: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    stdout, stderr = _lens(*order, "--out", str(folder))
    assert "60 images (limited by images)" in stderr
    for stage in ("rewrite", "generate", "judge", "total"):
        assert stage in stdout
    assert str(folder / "prompt.json") in stdout.replace("\n", "")
    return folder


def test_a_run_leaves_a_prompt_and_all_it_takes_to_look_again(whole: Path) -> None:
    card = PromptCard.load(whole / "prompt.json")
    assert card.lineage[0].prompt == POOR_PROMPT
    again = json.loads(_lens("optimize", "--resume", str(whole), "--json")[0])
    assert _untimed(again) == _result(whole)
    kinds = Counter(json.loads(line)["key"].partition(":")[0] for line in _kept(whole))
    assert kinds["generate"] == len(list((whole / "pictures").iterdir()))


def _wait_for(folder: Path, calls: int) -> None:
    end = time.monotonic() + 300
    while len(_kept(folder)) < calls and time.monotonic() < end:
        time.sleep(0.01)


def _goes_on_to_the_same_end(folder: Path, whole: Path) -> None:
    before = _kept(folder)
    assert len(before) < len(_kept(whole))
    _lens("optimize", "--resume", str(folder))
    assert _result(folder) == _result(whole)
    keys = [json.loads(line)["key"] for line in _kept(folder)]
    # What was kept is not asked for again: it stands where it stood, and every key is there once.
    assert keys[: len(before)] == [json.loads(line)["key"] for line in before]
    assert sorted(keys) == sorted(json.loads(line)["key"] for line in _kept(whole))
    assert len(set(keys)) == len(keys)


def test_killed_it_goes_on_as_if_nothing_had_happened(
    order: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "lens_sdk", *order, "--out", str(folder)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _wait_for(folder, len(_kept(whole)) // 3)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    _goes_on_to_the_same_end(folder, whole)


def test_interrupted_it_finishes_what_is_under_way_and_says_how_to_go_on(
    order: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def interrupt() -> None:
        _wait_for(folder, len(_kept(whole)) // 2)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    _, stderr = _lens(*order, "--out", str(folder), code=130)
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
    assert f"lens optimize --resume {folder}" in stderr.replace("\n", "")
    assert not (folder / "result.json").exists()
    _goes_on_to_the_same_end(folder, whole)


def test_an_estimate_pays_for_nothing(order: list[str], tmp_path: Path) -> None:
    _, stderr = _lens(*order, "--out", str(tmp_path / "run"), "--estimate")
    assert "for the search" in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (("--strategy", "luck"), 2, "'factorial', 'rewrite'"),
        (("--reasoner", "none"), 1, "no system prompt"),
        (("--judge", "none"), 1, "needs a judge"),
        (("--proposer", "friend"), 1, "library, openai"),
        (("--proposer", "openai"), 1, "OPENAI_API_KEY"),
        (("--alpha", "2"), 2, "'--alpha'"),
        (("--model", "lens-giant"), 1, "'lens-giant' is not known"),
        (("--requests", "missing.jsonl"), 1, "missing.jsonl"),
        (("--requests", "few.jsonl"), 1, "each needs at least 4"),
        (("--seed-prompt", "missing.md"), 1, "missing.md"),
        (("--budget-images", "8"), 1, "the final claim alone takes 8"),
    ],
)
def test_orders_that_make_no_sense_are_refused_before_anything_is_loaded(
    order: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    def load(_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("lens_sdk.runtime.LensRuntime.load", load)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("few.jsonl").write_text("\n".join(map(json.dumps, REQUESTS[:12])), encoding="utf-8")
    _, stderr = _lens(*order, "--out", "run", *changed, code=code)
    assert said in " ".join(stderr.split())
    assert not Path("run").exists()


def test_settings_choose_the_parts_where_options_do_not(
    requests_file: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lens.toml").write_text(
        f'model = "{nano_folder}"\nreasoner = "openai:rewriter"\njudge = "openai:judge"\n'
        'proposer = "openai:proposer"\n'
    )
    arguments = ("optimize", "--requests", str(requests_file), "--out", "run", "--estimate")
    limit = ("--budget-images", "60", "--json")
    assert "OPENAI_API_KEY" in _lens(*arguments, *limit, code=1)[1]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert json.loads(_lens(*arguments, *limit)[0])["images"] == 60
    known = _lens(*arguments, "--budget-usd", "5", "--reasoner", "rules", code=1)[1]
    assert "'judge' has no known price" in known


@pytest.mark.parametrize(("option", "begun"), [((), "set"), (("--seed-prompt", "b.md"), "given")])
def test_a_study_starts_from_the_prompt_in_use_unless_another_is_given(
    order: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    begun: str,
) -> None:
    """The prompt of the settings was left aside for the built-in one."""
    monkeypatch.chdir(tmp_path)
    for name, file in (("set", "a.md"), ("given", "b.md")):
        POOR_PROMPT.model_copy(update={"name": name}).save(file)
    Path("lens.toml").write_text('system_prompt = "a.md"\n')
    seeds: list[SystemPrompt] = []

    def load(run: OptimizeRun) -> None:
        seeds.append(run.seed)
        raise typer.Exit

    monkeypatch.setattr(OptimizeRun, "load", load)
    _lens(*order, "--out", "run", *option)
    assert [seed.name for seed in seeds] == [begun]


def test_commands_that_are_not_complete_say_what_is_missing(
    order: list[str], whole: Path, tmp_path: Path
) -> None:
    assert "--budget-images 1000" in _lens(*order[:5], "--out", "x", code=2)[1]
    assert "--resume" in _lens("optimize", "--budget-images", "9", code=2)[1]
    assert "holds a run" in _lens(*order, "--out", str(whole), code=1)[1]
    assert "no run to go on with" in " ".join(
        _lens("optimize", "--resume", str(tmp_path), code=1)[1].split()
    )


def test_dollars_need_prices_before_the_first_call(
    requests_file: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    arguments = (
        *("optimize", "--requests", str(requests_file), "--generator", str(nano_folder)),
        *("--reasoner", "openai:some-model", "--budget-usd", "5", "--out", str(tmp_path / "run")),
    )
    stderr = " ".join(_lens(*arguments, code=1)[1].split())
    assert "'some-model' has no known price" in stderr
    prices = tmp_path / "prices.json"
    price = {"input": 1, "cached_input": 0.1, "output": 4}
    prices.write_text(json.dumps({"date": "2026-11-22", "prices": {"some-model": price}}))
    monkeypatch.setenv("LENS_PRICES", str(prices))
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody")
    # 1500 tokens read at 1 dollar and 500 written at 4 are 0.0035 dollars a rewrite.
    assert "1428 images (limited by usd)" in _lens(*arguments, "--estimate")[1]


def test_the_prompt_that_was_found_is_what_pictures_are_then_made_with(
    whole: Path, nano_folder: Path, tmp_path: Path
) -> None:
    arguments = (
        *("generate", "two red apples", "--model", str(nano_folder), "--size", "32x32"),
        *("--steps", "1", "--seed", "1", "--out", str(tmp_path / "a.png"), "--json"),
    )
    found = _lens(*arguments, "--system-prompt", str(whole / "prompt.json"))[0]
    assert json.loads(found)["rewritten_by"] == "nano-rule-reasoner"
    refused = _lens(
        *arguments, "--no-reason", "--system-prompt", str(whole / "prompt.json"), code=1
    )
    assert "has no system prompt" in " ".join(refused[1].split())
    loaded = LLMReasoner(ScriptedChat(lambda asked: {}), load_system_prompt(whole / "prompt.json"))
    assert loaded.system_prompt == PromptCard.load(whole / "prompt.json").system_prompt


def test_progress_shows_cost_time_and_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # nothing moves on a dumb terminal
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    display = StudyDisplay(console, Budget(usd=20, images=400))
    state = StudyProgress(
        phase="specialising",
        generator="sdxl",
        images=120,
        calls=400,
        usd=3.5,
        seconds=75,
        candidates=17,
        rounds=4,
        challenges=1,
        accepted=("replace 'counting' (against count: left out)",),
        expected_gain=0.081,
        note="the budget ended the search",
    )
    with display.shown():
        display.update(state)
        display.notice = "Finishing the calls under way"
        display.update(state)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for piece in (
        *("searching for sdxl", "120 of 400", "3.50 of 20.00", "1:15 of work", "round 4"),
        *("17 prompts", "+8.1 points", "replace 'counting'", "Finishing", "ended the search"),
    ):
        assert piece in drawn, piece
    assert drawn.count("accepted after 120 images") == 1


def test_the_end_is_told_with_prompts_against_generators(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = [
        MatrixEntry(prompt=p, generator=g, score=0.5, gain=None if p == "seed" else 0.1)
        for p in ("seed", "shared", "a", "b")
        for g in ("a", "b")
    ]
    lost = TransferLoss(prompt="a", generator="b", loss=0.06, interval=(0.01, 0.1), requests=9)
    matrix = GeneratorMatrix(
        prompts=("seed", "shared", "a", "b"),
        generators=("a", "b"),
        entries=tuple(entries),
        losses=(lost,),
        confidence=0.95,
    )
    result = study().optimize_sync(seed=seed_prompt(), budget=Budget(images=170))
    show_result(Console(width=120), result.model_copy(update={"matrix": matrix}))
    told = " ".join(capsys.readouterr().out.split())
    assert "shared 50.0 (+10.0) 50.0 (+10.0)" in told
    assert "a on b loses 6.0 (+1.0 to +10.0)" in told
    assert str(result.claim) in told
    assert "confirmed" in told or "unclear" in told
