"""`lens report` on the command line, and its page in a real browser."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from chromium import CHROMIUM, Page, chromium_page
from lens_prompt_opt import Budget, PairedSequentialGate
from lens_prompt_opt.simulation.parts import simulated_requests
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner import AgentLoop, FunctionGenerator, GenerationRefusedError, RunRecord
from lens_sdk.cli import app
from lens_sdk.pages.runs import render_runs
from lens_sdk.shell_words import shell_word
from prompt_opt.simulated_study import WORLD, study
from redness import paint

PHONE = 390
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    gate = PairedSequentialGate(alpha=0.9, block_requests=4, pictures=1)
    made = study(prompts=simulated_requests(WORLD, 24), gate=gate)
    work = made.optimize(seed=seed_prompt(), budget=Budget(images=200), run_dir=folder)
    assert asyncio.run(work).claim is not None
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


def test_a_folder_without_a_run_ends_with_a_message(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "study.json" in done.output


async def test_the_command_for_labels_can_be_given_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is quoted once, and on Windows so that both shells there read it."""
    folder = tmp_path / "my runs"
    await AgentLoop(generator=FunctionGenerator(paint)).run("a red square", seed=1, record=folder)
    for system, mark in (("linux", "&#x27;"), ("win32", "&quot;")):
        monkeypatch.setattr(sys, "platform", system)
        done = CliRunner().invoke(app, ["report", str(folder)])
        assert done.exit_code == 0, done.output
        page = Path(done.output.strip()).read_text(encoding="utf-8")
        assert f"--runs {mark}{folder}{mark}" in page
        assert f"<code>{folder}</code>" in page
    assert shell_word(r"lens-demo\runs") == r"lens-demo\runs"


async def test_the_page_of_a_run_tells_why_pictures_are_missing(tmp_path: Path) -> None:
    def draw(prompt: str, seed: int) -> Image.Image:
        if seed in {41, 42}:
            raise GenerationRefusedError("<indecent>")
        return paint(prompt, seed)

    loop = AgentLoop(generator=FunctionGenerator(draw))
    await loop.run("a red square", seed=40, num_images=3, record=tmp_path)
    page = render_runs([RunRecord(tmp_path)], runs="my runs")
    assert page.count("&lt;indecent&gt;") == 1
    assert "--runs &#x27;my runs&#x27;" in page


@pytest.mark.parametrize("damage", ["started", "time", "line"])
async def test_one_damaged_run_of_several_is_left_out_and_named(
    tmp_path: Path, damage: str
) -> None:
    runs = tmp_path / "runs"
    for name in ("whole", "damaged"):
        loop = AgentLoop(generator=FunctionGenerator(paint))
        await loop.run(f"a {name} square", seed=1, record=runs / name)
    events = runs / "damaged" / "events.jsonl"
    first, *others = events.read_text(encoding="utf-8").splitlines(keepends=True)
    if damage == "time":
        first = first.replace('"created": "', '"created": "about ')
    elif damage == "line":
        others[1] = others[1][:-9] + "\n"
    else:
        others = [line for line in others if f'"type": "{damage}"' not in line]
    events.write_text(first + "".join(others), encoding="utf-8")
    done = CliRunner().invoke(app, ["report", str(runs), "--json"])
    assert done.exit_code == 1
    assert "damaged is left out" in done.stderr
    told = json.loads(done.stdout)
    assert told["left_out"] == ["damaged"]
    page = Path(told["page"]).read_text(encoding="utf-8")
    assert "a whole square" in page
    assert "a damaged square" not in page
    (runs / "whole").rename(tmp_path / "whole")
    Path(told["page"]).unlink()
    done = CliRunner().invoke(app, ["report", str(runs)])
    assert done.exit_code == 1
    assert "None of the runs" in done.stderr
    assert not Path(told["page"]).exists()


@needs_browser
def test_the_page_fits_desktop_and_phone_without_overlaps(report: Path, page: Page) -> None:
    for width, phone in ((1280, False), (PHONE, True)):
        page.open(report.as_uri(), width=width, phone=phone)
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value(_OVERLAPS) == []
    assert report.stat().st_size < 8_000_000


@needs_browser
def test_the_tree_leads_to_its_candidate_by_keyboard(report: Path, page: Page) -> None:
    page.open(report.as_uri())
    assert not page.value("document.getElementById('candidates').open")
    page.value("document.querySelector('.tree a').focus()")
    page.press("Enter", code=13)
    page.wait("document.getElementById('candidates').open")
    wanted = page.value("document.querySelector('.tree a').getAttribute('href').slice(1)")
    page.wait(f"document.activeElement.id === {wanted!r}")


@needs_browser
def test_pairs_are_filtered_by_keyboard(report: Path, page: Page) -> None:
    page.open(report.as_uri())
    everything = page.value("document.querySelectorAll('.pair').length")
    page.value("document.querySelector('[data-show=better]').focus()")
    page.press("Enter", code=13)
    shown = page.value("document.querySelectorAll('.pair:not([hidden])').length")
    better = page.value("document.querySelectorAll('.pair[data-change=better]').length")
    assert 0 < shown == better < everything
    assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"


@needs_browser
def test_colours_follow_the_reader_and_pictures_are_there(report: Path, page: Page) -> None:
    colours = []
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.open(report.as_uri())
        colours.append(page.value("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2
    page.call("Emulation.setEmulatedMedia", media="print", features=features)
    assert page.value("getComputedStyle(document.body).color") == "rgb(29, 29, 33)"
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    page.value("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.value("document.images.length") > 0


_OVERLAPS = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg')) {
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [texts[i][1], texts[j][1]];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 3) found.push([texts[i][0], texts[j][0]]);
    }
  }
  return found;
})()
"""  # noqa: E501
