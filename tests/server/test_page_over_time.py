"""The page at `/` while things change: reloads, lost connections, new keys, forbidden storage."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from chromium import CHROMIUM, Page, chromium_page
from lens_reasoner import GeneratedImage, GenerationSettings, StepCallback
from lens_reasoner.parts import LoopParts
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.guard import ApiKeys
from loopback_lens import Running, serving
from plain_generator import PlainGenerator

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

STATUS = "(document.getElementById('status')?.textContent.trim() ?? '')"
ENTER = 13


class Gate(PlainGenerator):
    """Draws when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        assert self.opened.wait(60)
        return super().draw(prompt, seeds=seeds, settings=settings, on_step=on_step)


def _serve(gate: Gate, folder: Path, *, keys: tuple[str, ...] = (), port: int = 0) -> Running:
    parts = LoopParts(generator=gate, judge=NanoJudge(), rubric_writer=NanoRubricWriter())
    return serving(ServerConfig(parts, folder=folder, keys=ApiKeys(keys)), port)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def quick(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that draws in a moment once its gate is open, and judges."""
    server = _serve(gate, tmp_path_factory.mktemp("server"))
    yield server
    gate.opened.set()
    server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser: Page, gate: Gate) -> Page:
    gate.opened.set()
    return browser


def _begin(page: Page, url: str) -> None:
    """Open the page and have one picture drawn, by keyboard."""
    page.open(url)
    page.wait("document.getElementById('model').textContent")
    page.value("document.getElementById('images').value = 1")
    page.value("document.getElementById('rounds').value = 1")
    page.value("document.getElementById('text').focus()")
    page.type("a green star")
    page.press("Enter", code=ENTER, modifiers=2)
    page.wait(f"{STATUS} === 'Generating …'")


def _focus(page: Page) -> str:
    return str(page.value("document.activeElement.id"))


def test_a_reload_goes_on_with_the_run_and_back_and_forward_lead_through_runs(
    quick: Running, page: Page, gate: Gate
) -> None:
    gate.opened.clear()
    _begin(page, quick.url)
    page.value("window.before = true")
    page.call("Page.reload")
    page.wait(f"!window.before && {STATUS} === 'Generating …'")
    assert page.value("document.getElementById('text').value") == "a green star"
    gate.opened.set()
    page.wait(f"{STATUS}.startsWith('Done')")
    page.value("history.back()")
    page.wait("document.querySelectorAll('.candidate').length === 0")
    page.value("document.getElementById('text').value = 'something else'")
    page.value("history.forward()")
    page.wait("document.querySelectorAll('.candidate img').length === 1")
    asked = page.value("document.querySelector('.prompts li').textContent")
    assert asked == "Asked fora green star"


def test_tabs_that_nobody_sees_leave_connections_to_the_others(
    quick: Running, page: Page, gate: Gate
) -> None:
    """A browser has six to a server, and the seventh tab that watched a run stayed empty."""
    gate.opened.clear()
    _begin(page, quick.url)
    address, tabs = page.value("location.href"), []
    try:
        for _ in range(7):
            tabs.append(page.another())
            tabs[-1].open(address)
            tabs[-1].wait(f"{STATUS} === 'Generating …'", 10)
        assert page.value("document.hidden")
        gate.opened.set()
        tabs[-1].wait(f"{STATUS}.startsWith('Done')")
        assert page.value(STATUS) == "Generating …"
    finally:
        gate.opened.set()
        for tab in tabs:
            tab.close()
        page.bring_to_front()
    page.wait(f"{STATUS}.startsWith('Done')")
    assert page.value("document.querySelectorAll('.candidate, .candidate img').length") == 2


def test_the_focus_stays_on_draw_where_it_is_refused_and_on_stop_which_can_be_taken_back(
    quick: Running, page: Page, gate: Gate
) -> None:
    gate.opened.clear()
    _begin(page, quick.url)
    page.value("document.getElementById('stop').focus()")
    page.press("Enter", code=ENTER)
    page.wait(f"{STATUS}.startsWith('This run was cancelled')")
    page.press("Enter", code=ENTER)
    assert _focus(page) == "stop"
    gate.opened.set()
    page.value("document.querySelector('#status button').focus()")
    page.press("Enter", code=ENTER)
    page.wait(f"{STATUS}.startsWith('Done')")
    assert page.value("document.querySelectorAll('.candidate img').length") == 1

    page.value("document.getElementById('text').value = ''")
    page.value("document.getElementById('text').focus()")
    page.type("y" * 9000)
    page.value("document.getElementById('draw').focus()")
    page.press("Enter", code=ENTER)
    page.wait(f"{STATUS}.includes('has 9000 characters')")
    assert _focus(page) == "draw"


def test_a_mistake_in_a_setting_that_is_folded_away_is_shown(quick: Running, page: Page) -> None:
    page.open(quick.url)
    page.value("document.getElementById('text').value = 'a cup'")
    page.value("document.getElementById('seed').value = -1")
    page.value("document.getElementById('draw').click()")
    page.wait("document.activeElement.id === 'seed'")
    assert page.value("document.querySelector('details').open") is True


def test_a_lost_connection_is_told_until_there_is_one_again(
    quick: Running, page: Page, gate: Gate
) -> None:
    gate.opened.clear()
    _begin(page, quick.url)
    page.value(
        "window.away = true; window.asked = fetch;"
        "window.fetch = (...call) => away ? Promise.reject(new TypeError()) : asked(...call)"
    )
    for connection in list(quick.server.server_state.connections):
        connection.loop.call_soon_threadsafe(connection.transport.abort)
    page.wait(f"{STATUS}.startsWith('Connection lost')")
    page.value("window.away = false")
    page.wait(f"{STATUS} === 'Generating …'")
    gate.opened.set()
    page.wait(f"{STATUS}.startsWith('Done')")
    # A step that is told late, and lists that cannot be read, change nothing.
    page.value("current.step({ index: 0, step: 4, total: 4, round: 0 })")
    page.value("window.away = true; refreshShelves().then(() => { window.tried = true; })")
    page.wait("window.tried")
    assert page.value(STATUS).startswith("Done")


def test_a_connection_that_is_silent_for_long_is_made_again(quick: Running, page: Page) -> None:
    body = {"request": "a green star", "limits": {"max_rounds": 1}}
    name = httpx.post(f"{quick.v1}/runs", json=body).json()["id"]
    dead = """
    const [real, later] = [fetch, setTimeout];
    let asked = 0;
    window.fetch = (path, ...more) => path.endsWith("/events") && !asked++
      ? Promise.resolve(new Response(new ReadableStream())) : real(path, ...more);
    window.setTimeout = (act, ms) => later(act, ms > 15000 && asked === 1 ? 1 : ms);
    """
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=dead)["identifier"]
    try:
        page.open(f"{quick.url}/?run={name}")
        page.wait(f"{STATUS}.startsWith('Done')")
    finally:
        page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_a_new_key_goes_on_with_the_run_that_asked_for_it(
    gate: Gate, page: Page, tmp_path: Path
) -> None:
    old, new = "a key that is long enough", "another key that is long"
    server = _serve(gate, tmp_path, keys=(old,))
    who = {"authorization": f"Bearer {old}"}
    body = {"request": "a green star"}
    httpx.post(f"{server.v1}/runs", json=body, headers=who)
    page.open(server.url)
    page.wait("document.activeElement.id === 'key'")
    page.type("a key – with a dash")
    page.press("Enter", code=ENTER)
    page.wait(f"{STATUS} === 'API keys cannot contain “–”.'")
    page.value("document.getElementById('key').select()")
    page.type(old)
    page.press("Enter", code=ENTER)
    page.wait("document.querySelectorAll('#past button').length === 1")
    server.stop()
    server = _serve(gate, tmp_path, keys=(new,), port=int(server.url.rpartition(":")[2]))
    page.value("document.querySelector('#past button').click()")
    page.wait(f"{STATUS}.includes('does not know') && document.activeElement.id === 'key'")
    page.value("document.getElementById('key').select()")
    page.type(new)
    page.press("Enter", code=ENTER)
    page.wait(f"{STATUS}.startsWith('Done')")
    assert page.value("document.getElementById('status').className") == "quiet"
    server.stop()


def test_older_runs_are_shown_when_asked_for_and_the_first_of_them_has_the_focus(
    quick: Running, page: Page
) -> None:
    for number in range(13):
        body = {"request": f"cup {number}", "limits": {"max_rounds": 1}}
        httpx.post(f"{quick.v1}/runs", json=body).raise_for_status()
    page.open(quick.url)
    page.wait("document.querySelectorAll('#past li').length === 12")
    page.value("document.querySelector('[data-shelf=past]').focus()")
    page.press("Enter", code=ENTER)
    page.wait("document.querySelectorAll('#past li').length > 12")
    page.wait("document.activeElement === document.querySelectorAll('#past button')[12]")
    assert page.value("document.querySelector('[data-shelf=past]').hidden") is True


def test_no_picture_is_called_the_best_where_none_was_judged(quick: Running, page: Page) -> None:
    text = "שלום!"
    body = {"request": {"text": text, "num_images": 2}, "limits": {"max_rounds": 1}}
    name = httpx.post(f"{quick.v1}/runs", json=body).json()["id"]
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.call("Emulation.setEmulatedMedia", media="print", features=features)
    page.open(f"{quick.url}/?run={name}")
    page.wait(f"{STATUS}.startsWith('Done')")
    assert page.value("document.querySelector('.prompts b').textContent") == (
        "No criteria could be written"
    )
    assert page.value("document.querySelectorAll('.best, #status a').length") == 0
    # Paper is white.
    assert page.value("getComputedStyle(document.body).color") == "rgb(29, 29, 33)"
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    kinds = "getComputedStyle(document.querySelector('#past .what')).unicodeBidi"
    assert page.value(kinds) == "plaintext"


def test_what_failed_is_told_in_its_place(
    quick: Running, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise RuntimeError("<b>away</b>")

    monkeypatch.setattr("lens_sdk.nano_judge.NanoJudge.judge", away)
    body = {"request": "a green star", "limits": {"max_rounds": 1}}
    name = httpx.post(f"{quick.v1}/runs", json=body).json()["id"]
    page.open(f"{quick.url}/?run={name}")
    page.wait(f"{STATUS}.startsWith('Done')")
    assert page.value("document.querySelector('.score').textContent") == "not judged"
    assert "<b>away</b>" in page.value("document.querySelector('.note').textContent")


FORBIDDEN = """
for (const name of ["sessionStorage", "localStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
}"""
FULL = 'Storage.prototype.setItem = () => { throw new DOMException("no", "QuotaExceededError"); };'


@pytest.mark.parametrize("change", [FORBIDDEN, FULL], ids=["forbidden", "full"])
def test_without_storage_the_page_works_and_labels_last_as_long_as_it(
    quick: Running, page: Page, change: str
) -> None:
    body = {"request": {"text": "two red apples", "num_images": 1}, "limits": {"max_rounds": 1}}
    name = httpx.post(f"{quick.v1}/runs", json=body).json()["id"]
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=change)["identifier"]
    try:
        page.open(f"{quick.url}/?run={name}")
        page.wait(f"{STATUS}.startsWith('Done')")
    finally:
        page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    page.value("document.querySelector('#labels button').click()")
    for _ in range(2):
        page.press("y", code=89)
    assert page.value("document.querySelector('.count').textContent").startswith("2 of ")
