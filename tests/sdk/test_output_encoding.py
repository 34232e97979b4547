"""What the command prints where output is not UTF-8, as files and pipes are not on Windows."""

import io
import json
import sys
from pathlib import Path

import pytest

from lens_sdk.__main__ import main

STAR = "une étoile ★ verte"


class CodePage(io.TextIOWrapper):
    """A stream in the code page of western Windows."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.bytes = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.bytes, encoding="cp1252", write_through=True)

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)


def _run(monkeypatch: pytest.MonkeyPatch, stream: CodePage, *arguments: str) -> bytes:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["lens", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in {0, None}
    return stream.bytes.getvalue()


def test_a_pipe_gets_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "✓" in _run(monkeypatch, CodePage(), "doctor").decode()


def test_a_terminal_that_lacks_a_character_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _run(monkeypatch, CodePage(terminal=True), "doctor").decode("cp1252")
    assert "lens-nano" in told


def test_an_encoding_that_was_asked_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lens.toml").write_text(f'model = "{STAR}"\n', encoding="utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    told = _run(monkeypatch, CodePage(), "config", "--json")
    assert told.isascii()
    assert STAR in json.dumps(json.loads(told), ensure_ascii=False)
