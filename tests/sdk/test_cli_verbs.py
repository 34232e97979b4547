"""create, rewrite, judge, runs and doctor on a tiny checkpoint, offline and without keys."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lens_sdk
from lens_reasoner import GeneratedImage, PromptSection, SystemPrompt
from lens_sdk import Lens, Settings
from lens_sdk.cli import app
from lens_sdk.doctor import examine
from lens_sdk.doctor.packages import older
from lens_sdk.settings_sources import VARIABLES

REQUEST = "two red apples left of a blue cup"
DETAILED = f"{REQUEST}, the apples on the left side and the cup on the right, " * 2
"""So detailed that the random encoder is not asked to write."""

QUICK = ("--size", "64x48", "--steps", "1", "--seed", "3")


@pytest.fixture(autouse=True)
def alone(nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (*VARIABLES.values(), "LENS_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LENS_MODEL", str(nano_folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lens(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def test_a_run_is_created_listed_shown_and_resumed(alone: Path) -> None:
    created = json.loads(
        lens("create", DETAILED, *QUICK, "--n", "1", "--rounds", "2", "--json", "--out", "a.png")[0]
    )
    assert created["stop_reason"] == "max_rounds"
    assert len(created["candidates"]) == 2
    name = created["run"]
    [listed] = json.loads(lens("runs", "list", "--json")[0])
    assert (listed["id"], listed["status"]) == (name, "finished")
    assert name in lens("runs", "list")[0]
    shown = json.loads(lens("runs", "show", "--json")[0])
    assert shown["id"] == name
    best = shown["result"]["candidates"][shown["result"]["best_index"]]
    assert Path(best["path"]).read_bytes() == GeneratedImage.load(alone / "a.png").data
    assert "data" not in best["image"]
    assert "max rounds" in lens("runs", "show", name[-6:])[0]

    events = alone / "lens-runs" / name / "events.jsonl"
    events.write_bytes(b"".join(events.read_bytes().splitlines(keepends=True)[:-3]))
    assert "interrupted" in lens("runs", "list")[0]
    resumed = json.loads(lens("runs", "resume", "latest", "--json", "--out", "b.png")[0])
    assert [c["score"] for c in resumed["candidates"]] == [
        c["score"] for c in created["candidates"]
    ]
    # A run that cannot be read hides no other.
    broken = alone / "lens-runs" / "broken"
    broken.mkdir()
    (broken / "events.jsonl").write_text("{}\n")
    stdout, stderr = lens("runs", "list")
    assert name in stdout
    assert "broken is left out" in stderr
    assert "There is no run 'x'" in lens("runs", "show", "x", code=1)[1]


def test_no_runs_yet() -> None:
    assert "lens create" in lens("runs", "list")[1]
    assert json.loads(lens("runs", "list", "--json")[0]) == []


def test_a_request_is_rewritten() -> None:
    stdout, _ = lens("rewrite", DETAILED)
    assert stdout.strip() == DETAILED.strip()
    told = json.loads(lens("rewrite", DETAILED, "--json")[0])
    assert (told["refused"], told["request"]) == (False, DETAILED)
    assert "no reasoner" in lens("rewrite", DETAILED, "--reasoner", "none", code=1)[1]


def test_a_system_prompt_is_followed_wherever_requests_are_rewritten(alone: Path) -> None:
    """Only `lens generate` and `build_loop` could be told what `lens optimize` had found."""
    own, text = alone / "own.md", "two red apples"
    sections = (PromptSection(name="Task", text="Say what is asked for."),)
    SystemPrompt(name="own", version="1", sections=sections).save(own)

    def rewriter(*arguments: str) -> str:
        told = json.loads(lens(*arguments, text, "--json")[0])
        return str(told.get("rewritten_by") or told["model"])

    usual = rewriter("rewrite")
    told = rewriter("rewrite", "--system-prompt", "own.md")
    assert told != usual
    drawing = (*QUICK, "--judge", "none", "--out", "a.png")
    assert rewriter("create", *drawing, "--system-prompt", "own.md") == told
    (alone / "lens.toml").write_text('system_prompt = "own.md"\n')
    assert {rewriter("create", *drawing), rewriter("generate", *drawing)} == {told}
    quick = {"judge": None, "width": 64, "height": 48, "num_inference_steps": 1}
    assert lens_sdk.generate(text, **quick).rewrite.model == told
    assert lens_sdk.generate(text, system_prompt=None, **quick).rewrite.model == usual
    assert Lens(judge=None).rewrite(text).model == told
    # Where nobody rewrites, the setting has nothing to say, and the option is a mistake.
    lens("judge", "a.png", text)
    lens("generate", text, *drawing, "--no-reason")
    refused = lens("create", text, "--system-prompt", "own.md", "--reasoner", "none", code=2)
    assert "the reasoner is none" in refused[1]


def test_a_picture_is_judged_by_what_it_says_of_itself(alone: Path) -> None:
    lens("generate", REQUEST, *QUICK, "--no-reason", "--no-judge", "--out", "p.png")
    stdout, _ = lens("judge", "p.png")
    assert "Are the red apples left of the blue cup?" in stdout
    assert "by nano-detector" in stdout
    told = json.loads(lens("judge", "p.png", "--min-score", "1", "--json", code=4)[0])
    assert told["score"] == 0.0
    own = {
        "request": "a tree",
        "criteria": [
            {
                "name": "tree",
                "kind": "object",
                "question": "Is there a tree?",
                "expected": {"class": "tree", "count": 1},
            }
        ],
    }
    (alone / "rubric.json").write_text(json.dumps(own))
    told = json.loads(lens("judge", "p.png", "--rubric", "rubric.json", "--json")[0])
    assert [line["criterion"] for line in told["verdict"]["verdicts"]] == ["tree"]
    GeneratedImage.load(alone / "p.png").image.save(alone / "bare.png")
    assert "give the request too" in lens("judge", "bare.png", code=2)[1]
    lens("judge", "missing.png", REQUEST, code=2)


def test_a_server_that_is_away_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LENS_MAX_RETRIES", "0")
    for arguments in (("create", REQUEST), ("rewrite", REQUEST), ("runs", "list")):
        _, stderr = lens(*arguments, "--base-url", "http://127.0.0.1:9", code=5)
        assert "cannot be reached" in stderr
    told = json.loads(lens("doctor", "--base-url", "http://127.0.0.1:9", "--json", code=1)[0])
    assert {c["name"]: c["status"] for c in told["checks"]}["server"] == "error"


def statuses(settings: Settings, day: str = "2026-11-22", **environ: str) -> dict[str, str]:
    today = datetime.date.fromisoformat(day)
    return {c.name: c.status for c in examine(settings, today=today, environ=environ)}


def test_the_doctor_finds_what_is_missing(nano_folder: Path, tmp_path: Path) -> None:
    healthy = statuses(Settings(model=str(nano_folder)))
    assert "error" not in healthy.values()
    assert healthy["key"] == "note"
    paid = Settings(model=str(nano_folder), reasoner="openai", judge="openai:gpt-4.1-mini")
    assert statuses(paid)["key"] == "error"
    found = statuses(paid, OPENAI_API_KEY="k")
    assert found["key"] == "ok"
    assert (found["reasoner model"], found["judge model"]) == ("ok", "warning")
    assert statuses(paid, "2027-01-14")["judge model"] == "error"
    own = paid.model_copy(update={"openai_base_url": "http://127.0.0.1:9/v1"})
    assert statuses(own)["key"] == "note"
    assert "judge model" not in statuses(own)
    unpriced = paid.model_copy(update={"judge": "openai:unheard-of"})
    assert statuses(unpriced)["prices"] == "warning"
    assert statuses(Settings(model="lens-giant"))["model"] == "error"
    drawn = Settings(model="openai:gpt-image-1", judge="none", reasoner="none")
    assert statuses(drawn)["model model"] == "error"
    missing = tmp_path / "copy"
    shutil.copytree(nano_folder, missing)
    shutil.rmtree(missing / "vae")
    assert statuses(Settings(model=str(missing)))["model"] == "error"


def test_the_doctor_reports_settings_that_cannot_be_used(alone: Path) -> None:
    (alone / "lens.toml").write_text("max_retries = -1")
    stdout, _ = lens("doctor", code=1)
    assert "max_retries" in stdout
    assert "lens.toml" in stdout


@pytest.mark.parametrize(
    ("found", "least", "is_older"),
    [
        ("2.13.0+cpu", "2.9", False),
        ("2.8.1", "2.9", True),
        ("1.0", "", False),
        ("10.1", "9.2", False),
    ],
)
def test_versions_are_compared_as_numbers(found: str, least: str, is_older: bool) -> None:
    assert older(found, least) == is_older


def test_the_guide_knows_every_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ("0", "1", "2", "3", "4", "5", "130"):
        assert f"| {code} |" in text


def test_the_shell_completes_commands_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str) -> str:
        monkeypatch.setenv("_LENS_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return CliRunner().invoke(app, [], prog_name="lens").stdout

    assert "create" in complete("lens cr")
    Path("lens-runs/20260101T000000-abc").mkdir(parents=True)
    Path("lens-runs/20260101T000000-abc/events.jsonl").touch()
    assert "20260101T000000-abc" in complete("lens runs show 2026")
