"""Results that show themselves, and the example notebook."""

import ast
import asyncio
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lens_reasoner import (
    Candidate,
    CriterionVerdict,
    GeneratedImage,
    GenerationSettings,
    ImageRequest,
    LoopResult,
    Refused,
    Rubric,
    Usage,
    Verdict,
)
from lens_sdk import compare
from lens_sdk.client.types import Judgement
from lens_sdk.errors import NothingToCompareError
from lens_sdk.models import resolve_model

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
EVIL = '<script>alert("x")</script>'


class Checker(HTMLParser):
    """Notes the tags, and that every opened one is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        else:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def drawn(seed: int, size: tuple[int, int] = (32, 16), prompt: str = EVIL) -> GeneratedImage:
    return GeneratedImage.from_pil(
        Image.new("RGB", size, (seed, 0, 0)),
        prompt=prompt,
        seed=seed,
        settings=GenerationSettings(num_inference_steps=3, guidance_scale=2),
        generator="painter",
    )


RUBRIC = Rubric.model_validate(
    {"request": EVIL, "criteria": [{"name": "c", "kind": "other", "question": f"Is it {EVIL}?"}]}
)


def judged(seed: int, answer: Any, round_number: int = 0) -> Candidate:
    image = drawn(seed)
    line = CriterionVerdict(criterion="c", answer=answer, evidence=EVIL)
    verdict = Verdict(image_sha256=image.sha256, verdicts=(line,), judge=EVIL)
    return Candidate(image=image, index=seed, round=round_number, verdict=verdict)


def run_of(*candidates: Candidate, **fields: Any) -> LoopResult:
    known: dict[str, Any] = {
        "request": ImageRequest(text=EVIL),
        "rewrite": None,
        "rubric": RUBRIC,
        "candidates": candidates,
        "best_index": 0 if candidates else None,
        "stop_reason": "max_rounds",
        "failures": (),
        "timings": {"total": 1.5},
        "usage": Usage.zero(),
    }
    return LoopResult(**{**known, **fields})


def test_everything_shows_itself_and_escapes_what_others_wrote() -> None:
    result = run_of(judged(1, "yes"), judged(2, "no", 1))
    shown = {
        "picture": (drawn(1), 1),
        "candidate": (judged(1, "no"), 1),
        "run": (result, 2),
        "comparison": (compare(drawn(1), a=result), 2),
        "judgement": (Judgement(rubric=RUBRIC, verdict=judged(1, "no").verdict), 0),
    }
    for name, (value, pictures) in shown.items():
        checked = Checker(value._repr_html_())  # type: ignore[attr-defined]
        assert "script" not in checked.tags, name
        assert EVIL in checked.words, name
        assert len(checked.images) == pictures, name
        assert all(address.startswith("data:image/png;base64,") for address in checked.images)
    words = Checker(result._repr_html_()).words
    for told in ("✓", "score 1.00", "1 more", "stopped: max rounds", "2 images", "seed 1"):
        assert told in words


def test_runs_without_pictures_show_why() -> None:
    refused = run_of(rewrite=Refused(reason="Not that."), rubric=None, stop_reason="refused")
    assert "Refused: Not that." in Checker(refused._repr_html_()).words
    assert refused._repr_png_() is None
    with pytest.raises(NothingToCompareError, match="'a' drew no picture"):
        compare(a=refused)
    with pytest.raises(NothingToCompareError, match="nothing to compare"):
        compare()


def test_a_comparison_is_one_picture_that_says_what_made_it(tmp_path: Path) -> None:
    first, second = drawn(10, (32, 16)), drawn(20, (16, 48))
    saved = second.save(tmp_path / "second.png")
    path = compare(first, later=saved).save(tmp_path / "sub" / "both.png")
    row = Image.open(path)
    assert row.size == (32 + 8 + 16, 48)
    assert row.getpixel((0, 0)) == (10, 0, 0)
    assert row.getpixel((40, 47)) == (20, 0, 0)
    assert row.getpixel((0, 20)) == (255, 255, 255)
    told = json.loads(row.text["lens_sdk"])["comparison"]  # type: ignore[attr-defined]
    assert [(one["label"], one["image"]["seed"]) for one in told] == [("1", 10), ("later", 20)]
    png = Image.open(io.BytesIO(compare(first)._repr_png_()))
    assert png.size == (32, 16)


def _cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


async def test_the_notebook_runs_inside_a_running_loop(
    tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Jupyter, where cells are run by a loop that is running already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lens_sdk.models.packaged_folder", lambda name: nano_folder)
    assert resolve_model().nano
    assert asyncio.get_running_loop().is_running()
    names: dict[str, Any] = {}
    shown = []
    for cell in _cells():
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    assert sum("data:image/png" in text for text in shown) == 3
    assert shown[-1] == "('two red apples left of a blue cup', 4, 'nano-detector')"


def test_the_notebook_was_executed_in_order() -> None:
    assert [cell["execution_count"] for cell in _cells()] == list(range(1, len(_cells()) + 1))
    outputs = [output for cell in _cells() for output in cell["outputs"]]
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert len(text) < 1_500_000
