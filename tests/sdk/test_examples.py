"""The examples run as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(tmp_path: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart(tmp_path: Path, nano_folder: Path) -> None:
    output = _run(tmp_path, "quickstart.py", str(nano_folder))
    assert "position:apple left of cup" in output
    assert (tmp_path / "quickstart.png").is_file()


def test_own_generator(tmp_path: Path) -> None:
    output = _run(tmp_path, "own_generator.py")
    assert "Score: 0.0" in output
    assert (tmp_path / "stripes.png").is_file()


def test_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Proxies of the surroundings would not find the loopback.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    output = _run(tmp_path, "own_server.py")
    assert "Prompt: A red apple, seen from above on a wooden table in soft morning light." in output
    assert "Tokens: 500 in, 30 out" in output


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in here
