"""`lens create`, `runs`, `judge` and `doctor` against a server."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_reasoner import GeneratedImage, LoopConfigError
from lens_sdk import Lens
from lens_sdk.cli import app
from loopback_lens import Running

DETAILED = "two red apples left of a blue cup, the apples on the left side, the cup right, " * 3
"""So detailed that it is not rewritten."""


def test_commands_work_on_a_server(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENS_BASE_URL", running.url)

    def lens(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        told: dict[str, object] = json.loads(result.stdout)
        return told

    drawing = ("--size", "64x64", "--steps", "2", "--seed", "3", "--n", "1", "--rounds", "1")
    created = lens("create", DETAILED, *drawing, "--out", "there.png")
    assert GeneratedImage.load(tmp_path / "there.png").seed == 3
    assert not (tmp_path / "lens-runs").exists()
    shown = lens("runs", "show", str(created["run"]))
    assert shown["status"] == "finished"
    judged = lens("judge", "there.png")
    assert judged["score"] == created["score"]
    assert lens("runs", "resume", str(created["run"]), "--out", "again.png")["seed"] == 3
    assert lens("doctor")["ok"] is True


def test_parts_of_this_process_are_no_choice_of_a_servers_caller(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were left out without a word: another model drew than the one that was named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENS_BASE_URL", running.url)
    for command in ("create x --model lens-nano-turbo", "rewrite x --reasoner none"):
        refused = CliRunner().invoke(app, command.split())
        assert refused.exit_code == 2, refused.output
        assert "uses its own model and judge" in " ".join(refused.stderr.replace("│", " ").split())
    with pytest.raises(LoopConfigError, match="model, reasoner and base_url"):
        Lens("lens-nano-turbo", base_url=running.url, reasoner=None)
    # Where the address comes from the settings, the same code works here and on a server.
    assert Lens("lens-nano-turbo").rewrite(DETAILED).prompt.strip() == DETAILED.strip()
