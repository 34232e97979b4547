"""The page at `/`, used with a keyboard in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chromium import CHROMIUM, Page, chromium_page
from loopback_lens import Running

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
    page.wait("document.querySelectorAll('#past li').length > 0")
    page.screenshot(tmp_path / "page.png")


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
    assert "10 pictures" in page.value("document.getElementById('status').textContent")
