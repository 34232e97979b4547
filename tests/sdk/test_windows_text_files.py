"""Files that people write may be in what Windows' programs make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import PromptSet
from lens_reasoner import SystemPrompt
from lens_reasoner.calibration.labels import load_labels
from lens_reasoner.prices import PriceTable
from lens_reasoner.prompts import GENERAL_PROMPT
from lens_reasoner.rubric_files import load_rubric
from lens_sdk.batch_requests import read_requests
from lens_sdk.server.guard import ApiKeys
from lens_sdk.settings_sources import FILE_NAME, load_settings

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
"""As anywhere; as Notepad and Excel write; as `>` does in PowerShell 5."""

KEY = "0123456789abcdef0123"


def _settings(path: Path) -> str:
    return load_settings(folder=path.parent, environ={}).settings.model


def _keys(path: Path) -> bool:
    return ApiKeys.read(path).caller(KEY) is not None


FILES: dict[str, tuple[str, str, Callable[[Path], Any], Any]] = {
    "settings": (FILE_NAME, 'model = "étoile"\n', _settings, "étoile"),
    "keys": ("keys.txt", f"{KEY}\n", _keys, True),
    "batch": (
        "requests.txt",
        "une étoile\nzwei Äpfel\n",
        lambda path: [one.request.text for one in read_requests(path)],
        ["une étoile", "zwei Äpfel"],
    ),
    "study": (
        "requests.jsonl",
        '"une étoile"\n"zwei Äpfel"\n',
        lambda path: [one.text for one in PromptSet.load(path).requests],
        ["une étoile", "zwei Äpfel"],
    ),
    "prices": (
        "prices.json",
        '{"date": "2026-01-01", "prices": {"mine": {"input": 1, "cached_input": 1, "output": 2}}}',
        lambda path: list(PriceTable.load(path).prices),
        ["mine"],
    ),
    "rubric": (
        "rubric.json",
        '{"request": "a red cup", "author": "me", "criteria": '
        '[{"name": "red", "kind": "color", "question": "Is it red?"}]}',
        lambda path: load_rubric(path).criteria[0].question,
        "Is it red?",
    ),
    "labels": (
        "labels.csv",
        f"image,criterion,label\n{'a' * 64},c1,yes\n",
        lambda path: [label.criterion for label in load_labels(path)],
        ["c1"],
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FILES)
def test_it_is_read_alike(kind: str, encoding: str, tmp_path: Path) -> None:
    name, text, read, expected = FILES[kind]
    path = tmp_path / name
    path.write_text(text, encoding=encoding, newline="\r\n")
    assert read(path) == expected


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_system_prompt_is_read_alike(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.md"
    path.write_text(GENERAL_PROMPT.to_markdown(), encoding=encoding, newline="\r\n")
    assert SystemPrompt.load(path) == GENERAL_PROMPT
