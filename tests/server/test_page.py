"""The page at `/`, used with a keyboard in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chromium import CHROMIUM, Page, chromium_page
from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.page import page as page_text
from loopback_lens import SMALL, Running, Start

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


def test_the_page_loads_nothing_from_elsewhere(running: Running) -> None:
    answer = httpx.get(running.url)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "innerHTML" not in answer.text
    assert f"--runs {running.services.config.folder / 'runs'}" in answer.text
    assert "<noscript>" in answer.text


def test_folders_are_told_as_a_shell_reads_them() -> None:
    text, _ = page_text("my runs", "studies of $HOME")
    assert "--runs &#x27;my runs&#x27;" in text
    assert "--out &#x27;studies of $HOME/NAME&#x27;" in text


@needs_browser
def test_a_request_by_keyboard_from_the_first_word_to_the_best_picture(
    running: Running, page: Page, tmp_path: Path
) -> None:
    page.open(running.url)
    page.wait("document.getElementById('size').options.length > 1")
    page.value("document.getElementById('images').value = 2")
    page.value("document.getElementById('rounds').value = 1")
    page.value("document.getElementById('steps').value = 3")
    page.value("document.getElementById('text').focus()")
    page.type("two red <b>apples</b> left of a blue cup")
    page.press("Enter", code=13, modifiers=2)
    page.wait("document.getElementById('status').textContent.startsWith('Done')")
    assert page.value("document.querySelectorAll('.candidate img').length") == 2
    assert page.value("document.querySelectorAll('.candidate.best').length") == 1
    assert page.value("document.querySelectorAll('.verdict li').length") >= 2
    assert page.value("document.querySelector('.prompts li').textContent.length") > 20
    assert page.value("document.querySelector('.prompts b').children.length") == 0
    assert page.value("document.querySelector('a.save').download").startswith("lens-")
    assert page.value("document.querySelector('a.save').href").startswith("data:image/png;base64,")
    assert page.value("document.activeElement.id") == "results"
    page.value("document.querySelector('#status a').click()")
    assert page.value("document.querySelector(':target').className") == "candidate best"
    page.wait("document.querySelectorAll('#past li').length > 0")
    page.screenshot(tmp_path / "page.png")


@needs_browser
def test_a_run_that_was_judged_later_has_one_best_picture(
    running: Running, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its two ends put a badge on one."""

    async def away(*_: object) -> None:
        raise RuntimeError("away")

    body = {"request": {"text": "a red apple", "num_images": 2, **SMALL}}
    with monkeypatch.context() as patched:
        patched.setattr("lens_sdk.nano_judge.NanoJudge.judge", away)
        run = httpx.post(f"{running.v1}/runs", json=body).json()
        url = f"{running.v1}/runs/{run['id']}"
        httpx.get(f"{url}/events", timeout=60)
    httpx.post(f"{url}/resume")
    assert httpx.get(f"{url}/events", timeout=60).text.count("event: finished") == 2
    page.open(f"{running.url}/?run={run['id']}")
    page.wait("document.querySelectorAll('.verdict .mark').length > 0")
    page.wait("document.getElementById('status').textContent.startsWith('Done')")
    for mark in (".badge", ".candidate.best", "#status a"):
        assert page.value(f"document.querySelectorAll('#results {mark}, {mark}').length") == 1


@needs_browser
def test_a_past_run_is_shown_again_and_fits_a_phone(running: Running, page: Page) -> None:
    body = {
        "request": {"text": "a green star", "width": 64, "height": 64, "num_inference_steps": 2}
    }
    name = httpx.post(f"{running.v1}/runs", json=body, timeout=60).json()["id"]
    page.open(f"{running.url}/?run={name}", width=360, height=740, phone=True)
    page.wait("document.getElementById('status').textContent.startsWith('Done')")
    assert page.value("document.documentElement.scrollWidth") <= 360
    page.value("document.querySelector('#past button').click()")
    page.wait("document.querySelectorAll('.candidate img').length === 1")
    assert page.value("document.getElementById('text').value") == "a green star"


@needs_browser
def test_a_mistake_is_told(running: Running, page: Page) -> None:
    page.open(running.url)
    page.wait("document.getElementById('size').options.length > 1")
    page.value("document.getElementById('text').value = 'a cup'")
    page.value("document.getElementById('form').noValidate = true")
    page.value("document.getElementById('images').value = 11")
    page.value("document.getElementById('draw').click()")
    page.wait("document.getElementById('status').className === 'error'")
    assert "10 images" in page.value("document.getElementById('status').textContent")
    page.value("document.getElementById('text').value = ' '")
    page.value("document.getElementById('draw').click()")
    page.wait("document.getElementById('status').textContent.includes('empty')")
    assert page.value("document.getElementById('status').textContent") == (
        "request.text: the request text is empty; say what the image should show."
    )


@needs_browser
def test_a_key_is_asked_for_once_and_then_the_page_goes_on_with_the_run_in_its_address(
    start: Start, page: Page
) -> None:
    key = "a key that is long enough"
    server = start(keys=ApiKeys([key]))
    assert str(server.services.config.folder) not in httpx.get(server.url).text
    small = {"text": "a green star", "width": 64, "height": 64, "num_inference_steps": 2}
    who = {"authorization": f"Bearer {key}"}
    name = httpx.post(f"{server.v1}/runs", json={"request": small}, headers=who).json()["id"]
    page.open(f"{server.url}/?run={name}")
    page.wait("document.activeElement.id === 'key'")
    assert "asks for an API key" in page.value("document.getElementById('status').textContent")
    page.type("another key that is long")
    page.press("Enter", code=13)
    page.wait("document.getElementById('status').textContent.includes('does not know')")
    page.value("document.getElementById('key').select()")
    page.type(key)
    page.press("Enter", code=13)
    page.wait("document.getElementById('status').textContent.startsWith('Done')")
    assert page.value("document.getElementById('status').className") == "quiet"
    assert page.value("document.getElementById('key-field').hidden") is True
    assert page.value("document.querySelectorAll('.candidate img').length") == 1


@needs_browser
def test_a_server_that_is_gone_is_told_in_words(start: Start, page: Page) -> None:
    server = start()
    page.open(server.url)
    page.wait("document.getElementById('size').options.length > 1")
    server.stop()
    page.value("document.getElementById('text').value = 'a cup'")
    page.value("document.getElementById('draw').click()")
    page.wait("document.getElementById('status').className === 'error'")
    told = page.value("document.getElementById('status').textContent")
    assert told == "The server cannot be reached."


@needs_browser
def test_stopping_leaves_no_frames_of_pictures_that_will_not_come(
    running: Running, page: Page
) -> None:
    page.open(running.url)
    page.wait("document.getElementById('size').options.length > 1")
    page.value("document.getElementById('text').value = 'a green star'")
    page.value("document.getElementById('steps').value = 200")
    page.value("document.getElementById('draw').click()")
    page.wait("document.querySelectorAll('.candidate progress').length > 0")
    page.value("document.getElementById('stop').click()")
    page.wait("document.getElementById('status').textContent.startsWith('This run was cancelled')")
    assert page.value("document.querySelectorAll('.candidate').length") == 0
    assert "no images" in page.value("document.getElementById('status').textContent")
