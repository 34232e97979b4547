"""The demo page: complete in one file, and safe to write anything into."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_core.nano import brief_caption, render, sample_scene
from lens_reasoner import (
    AgentLoop,
    FunctionGenerator,
    ImageRequest,
    Refused,
    Rewrite,
)
from lens_sdk.cli import app
from lens_sdk.demo.cases import REQUESTS, DemoCase, run_cases
from lens_sdk.demo.page import render_page
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter

HOSTILE = "a red apple <script>alert(\"1\")</script> & 'quotes' $$HOME ${x}"


class Page(HTMLParser):
    """Collects what the page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Expander:
    """Rewrites by rule."""

    def __init__(self, expand: Callable[[str], str]) -> None:
        self.expand = expand

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        if "forbidden" in request.text:
            return Refused(reason="No <thanks>.")
        prompt = self.expand(request.text)
        return Rewrite(request=request.text, prompt=prompt, model="test <model>")


async def _cases(texts: list[str], expand: Callable[[str], str]) -> list[DemoCase]:
    rng = np.random.default_rng(2)
    scene = sample_scene(rng, "colors")

    def loop(reasoner: Expander | None) -> AgentLoop:
        return AgentLoop(
            generator=FunctionGenerator(lambda prompt, seed: render(scene), name="truth"),
            reasoner=reasoner,
            judge=NanoJudge(),
            rubric_writer=NanoRubricWriter(),
        )

    texts = [brief_caption(scene, rng) if text == "truth" else text for text in texts]
    requests = [ImageRequest(text=text, seed=1, num_images=2) for text in texts]
    cases = run_cases(loop(None), loop(Expander(expand)), requests, lambda *_: None)
    return [case async for case in cases]


async def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    cases = await _cases([HOSTILE], lambda text: f"<b>{text}</b>")
    html = render_page(cases, model="<m>", command="lens demo '<x>'", runs="<r>")
    page = Page(html)
    # One script, of our own: the page's policy lets no other run.
    assert html.count("<script") == 1
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    script = re.search(r"<script>(.*)</script>", html, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in (policy or "")
    assert "default-src 'none'" in (policy or "")
    assert page.text.count(HOSTILE) == 2
    assert f"<b>{HOSTILE}</b>" in page.text
    assert "test <model>" in page.text
    assert "lens demo '<x>'" in page.text
    assert [image["alt"] for image in page.all("img")][2:] == [f"<b>{HOSTILE}</b>"] * 2
    sources = [image["src"] or "" for image in page.all("img")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert [link["href"] for link in page.all("a")] == ["#request-1"]
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", html)


async def test_pictures_verdicts_and_summary_are_there() -> None:
    cases = await _cases(["truth", "a dragon"], lambda text: f"In detail: {text}")
    page = Page(render_page(cases, model="truth", command="c", runs="r"))
    pictures = page.all("img")
    assert len(pictures) == 8
    data = base64.b64decode((pictures[0]["src"] or "").partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (int(pictures[0]["width"] or 0), int(pictures[0]["height"] or 0))
    words = " ".join(page.text.split())
    # One colour request has two criteria, all of them true of the truth; dragons are not judged.
    assert words.count("2 of 2") == 2
    assert words.count("100%") == 2 * 3
    assert words.count("not judged") >= 2
    assert "Is there exactly one" in words


async def test_unchanged_and_refused_requests_are_told() -> None:
    cases = await _cases(["truth", "forbidden apple"], lambda text: text)
    words = " ".join(Page(render_page(cases, model="m", command="c", runs="r")).text.split())
    assert "Not rewritten: test <model>." in words
    assert "Refused: No <thanks>." in words


def test_the_command_writes_the_page(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    arguments = ["demo", "--model", str(nano_folder), "--out", str(tmp_path), "--n", "1"]
    result = CliRunner().invoke(app, [*arguments, "--steps", "1", "--open"])
    assert result.exit_code == 0, (result.output, result.exception)
    path = tmp_path / "index.html"
    assert result.stdout.split() == [str(path), path.as_uri()]
    assert opened == [path.as_uri()]
    page = Page(path.read_text(encoding="utf-8"))
    for request in REQUESTS:
        assert request in page.text
    assert len(page.all("article")) == len(REQUESTS)
    told = CliRunner().invoke(app, [*arguments, "--request", "a red cup", "--steps", "1", "--json"])
    values = json.loads(told.stdout)
    assert values["page"] == str(path)
    [one] = values["requests"]
    assert one["request"] == "a red cup"
    assert one["scores"].keys() == {"before", "after"}
