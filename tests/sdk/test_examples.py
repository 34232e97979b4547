"""The examples run as they are."""

import re
import runpy
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


def test_quickstart(
    tmp_path: Path,
    nano_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # In this process, where the random encoder's drafts are kept short.
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"](str(nano_folder))
    assert "position:apple left of cup" in capsys.readouterr().out
    assert (tmp_path / "quickstart.png").is_file()


def test_own_generator(tmp_path: Path) -> None:
    output = _run(tmp_path, "own_generator.py")
    assert "Score: 0.0" in output
    assert (tmp_path / "stripes.png").is_file()


def test_qwen_image(tmp_path: Path, qwen_folder: Path) -> None:
    output = _run(tmp_path, "qwen_image.py", str(qwen_folder), "64x32", "2")
    assert "Drawn by: tiny-qwen | seed: 1" in output
    assert '"guidance_scale":4.0,"negative_prompt":"blurred letters"' in output
    assert (tmp_path / "qwen_image.png").is_file()


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


def test_the_readme_tells_code_that_runs(
    tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lens_sdk.models._packaged_folder", lambda: nano_folder)
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "apples.png").is_file()


def test_the_readme_shows_options_that_exist() -> None:
    from typer.main import get_command

    from lens_sdk.cli import app

    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    ours = re.sub(r"python benchmarks/[^`]*", "", readme)
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?![\w.])", ours))
    shown -= {"-c", "-e", "-m", "--no-deps"}
    known = {
        option
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for option in parameter.opts
    }
    assert shown - {"--help"} <= known
