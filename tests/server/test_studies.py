"""Prompt studies on a server: listed for who may ask, reported under signed addresses."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from chromium import CHROMIUM, chromium_page
from lens_prompt_opt import Budget, PairedSequentialGate
from lens_prompt_opt.simulation.parts import simulated_requests
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner.parts import LoopParts
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.server.app import create_app
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.guard import ApiKeys
from loopback_lens import Running, serving
from plain_generator import PlainGenerator
from prompt_opt.simulated_study import WORLD, study

KEY = "a-key-of-more-than-16-characters"
HEADERS = {"authorization": f"Bearer {KEY}"}

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, the same without its end, and two folders that are no studies."""
    folder = tmp_path_factory.mktemp("studies")
    gate = PairedSequentialGate(alpha=0.9, block_requests=4, pictures=1)
    made = study(prompts=simulated_requests(WORLD, 24), gate=gate)
    work = made.optimize(
        seed=seed_prompt(), budget=Budget(images=200), run_dir=folder / "täglich 1"
    )
    assert asyncio.run(work).claim is not None
    shutil.copytree(folder / "täglich 1", folder / "half")
    (folder / "half" / "result.json").unlink()
    for name, text in (("broken", "{"), ("other", "[]")):
        (folder / name).mkdir()
        (folder / name / "study.json").write_text(text)
    (folder.parent / "secret").mkdir(exist_ok=True)
    shutil.copy(folder / "half" / "study.json", folder.parent / "secret")
    return folder


@pytest.fixture
def client(studies: Path, tmp_path: Path) -> TestClient:
    parts = LoopParts(generator=PlainGenerator())
    config = ServerConfig(parts, folder=tmp_path, keys=ApiKeys([KEY]), studies=studies)
    return TestClient(create_app(config), base_url="http://127.0.0.1")


@pytest.fixture
def painting(studies: Path, tmp_path: Path) -> Iterator[Running]:
    """A server that draws and judges in a moment."""
    parts = LoopParts(
        generator=PlainGenerator(), judge=NanoJudge(), rubric_writer=NanoRubricWriter()
    )
    server = serving(ServerConfig(parts, folder=tmp_path / "server", studies=studies))
    yield server
    server.stop()


def test_studies_are_listed_with_their_numbers(client: TestClient) -> None:
    assert client.get("/v1/studies").status_code == 401
    found = {one["id"]: one for one in client.get("/v1/studies", headers=HEADERS).json()["data"]}
    assert set(found) == {"täglich 1", "half"}
    done = client.get("/v1/studies/t%C3%A4glich%201", headers=HEADERS).json()
    assert (done["status"], done["improved"], done["prompt"]) == ("finished", True, "simulated")
    claim = done["claim"]
    assert claim["gain"] == pytest.approx(claim["best_score"] - claim["seed_score"])
    assert claim["interval"][0] < claim["gain"] < claim["interval"][1]
    assert 0 < done["cost"]["images"] <= 200
    half = found["half"]
    assert (half["status"], half["claim"], half["improved"]) == ("unfinished", None, None)
    assert half["cost"]["images"] == done["cost"]["images"]
    assert half["created_at"] <= half["updated_at"] <= time.time()


def test_a_report_opens_without_a_key_at_the_address_that_was_given(client: TestClient) -> None:
    url = client.get("/v1/studies/half", headers=HEADERS).json()["report_url"]
    report = client.get(url)
    assert report.status_code == 200
    assert "This run is not finished" in report.text
    assert "sandbox allow-scripts" in report.headers["content-security-policy"]
    [files, token, name] = url.rsplit("/", 2)
    until, _, signature = token.partition("-")
    for wrong in (
        f"{files}/{token}/t%C3%A4glich%201",
        f"{files}/{int(until) + 1}-{signature}/{name}",
        f"{files}/{until}-/{name}",
        f"{files}/{until}-{signature[:-1]}é/{name}",
        f"{files}/x/{name}",
    ):
        answer = client.get(wrong)
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            404,
            "invalid_request_error",
        ), wrong


def test_an_address_works_for_an_hour_and_on_every_server_of_the_folder(
    client: TestClient, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = client.get("/v1/studies/half", headers=HEADERS).json()["report_url"]
    config = ServerConfig(
        LoopParts(generator=PlainGenerator()), folder=tmp_path, keys=ApiKeys([KEY]), studies=studies
    )
    other = TestClient(create_app(config), base_url="http://127.0.0.1")
    assert other.get(url).status_code == 200
    monkeypatch.setattr("lens_sdk.server.studies.KEPT_SECONDS", -1.0)
    late = client.get("/v1/studies/half", headers=HEADERS).json()["report_url"]
    assert "has expired" in client.get(late).json()["error"]["message"]


BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_a_browser_is_told_of_an_old_address_in_words(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lens_sdk.server.studies.KEPT_SECONDS", -1.0)
    late = client.get("/v1/studies/half", headers=HEADERS).json()["report_url"]
    for address, words in (
        (late, "has expired"),
        ("/files/gone.png", "There is no such"),
        ("/files/nothing/<b>", "There is nothing at /files/nothing/&lt;b&gt;"),
    ):
        shown = client.get(address, headers=BROWSER)
        assert (shown.status_code, shown.headers["content-type"]) == (
            404,
            "text/html; charset=utf-8",
        )
        assert words in shown.text
        assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert client.get("/v1/nothing", headers=HEADERS | BROWSER).json()["error"]["code"]


@needs_browser
def test_from_an_old_address_it_is_one_step_to_the_studies(
    painting: Running, tmp_path: Path
) -> None:
    with chromium_page(tmp_path) as page:
        page.open(f"{painting.url}/files/studies/0-x/half", width=390, phone=True)
        page.wait("document.querySelector('h1')?.textContent === 'Not here'")
        assert page.value("document.documentElement.scrollWidth") <= 390
        assert page.value("getComputedStyle(document.body).maxWidth") == "1088px"
        page.value("document.querySelector('main a').click()")
        page.wait("document.querySelectorAll('#study-list li').length === 2")


@pytest.mark.parametrize(
    "name",
    ["..%2Fsecret", "%2e%2e", "..", "half%2F..%2Fhalf", "half%00", "%2Fetc", "broken", "x" * 300],
)
def test_no_name_leads_out_of_the_folder(client: TestClient, name: str) -> None:
    answer = client.get(f"/v1/studies/{name}", headers=HEADERS)
    assert answer.status_code == 404
    assert "seed_prompt" not in answer.text


@needs_browser
def test_a_refresh_of_the_lists_takes_no_focus_and_tells_what_is_new(
    painting: Running, studies: Path, tmp_path: Path
) -> None:
    """Enter on a link that had just been replaced went nowhere."""
    with chromium_page(tmp_path) as page:
        page.open(painting.url)
        page.wait("document.querySelectorAll('#study-list li').length === 2")
        page.value("window.kept = document.querySelector('#study-list li:nth-child(2) a')")
        page.value("kept.focus()")
        page.value("kept.href = '/an-address-that-is-old'")
        late = shutil.copytree(studies / "half", studies / "late")
        try:
            page.value("void list()")
            page.wait("document.querySelectorAll('#study-list li').length === 3")
        finally:
            shutil.rmtree(late)
        names = "[...document.querySelectorAll('#study-list .what')].map((e) => e.textContent)"
        assert "late" in [name.split(":")[0] for name in page.value(names)]
        page.value("void list()")
        page.wait("document.querySelectorAll('#study-list li').length === 2")
        assert page.value("document.activeElement === kept && kept.isConnected")
        page.press("Enter", code=13)
        page.wait("document.querySelector('h1')?.textContent.startsWith('Prompt study')")


@needs_browser
def test_studies_are_looked_at_again_while_the_page_lies_open(
    painting: Running, tmp_path: Path
) -> None:
    """A link on a page that nobody had left for an hour led to an error."""
    hurry = "const real = setInterval; window.setInterval = (act, ms) => real(act, ms / 1000);"
    with chromium_page(tmp_path) as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=hurry)
        page.open(painting.url)
        page.wait("document.querySelectorAll('#study-list li').length === 2")
        page.value("document.querySelector('#study-list a').href = '/an-address-that-is-old'")
        page.wait("!document.querySelector('#study-list a').href.includes('old')")


@needs_browser
def test_the_page_leads_to_a_report_by_keyboard_and_its_verdicts_can_be_labelled(
    painting: Running, tmp_path: Path
) -> None:
    with chromium_page(tmp_path) as page:
        page.open(painting.url, width=390, phone=True)
        page.wait("document.querySelectorAll('#study-list li').length === 2")
        assert page.value("document.documentElement.scrollWidth") <= 390
        facts = page.value("document.getElementById('study-list').innerText")
        assert "unfinished" in facts
        assert "% of criteria met" in facts
        assert facts.count("last entry just now") + facts.count("min ago") == 1
        page.value("document.getElementById('images').value = 1")
        page.value("document.getElementById('rounds').value = 1")
        page.value("document.getElementById('text').focus()")
        page.type("a green star")
        page.press("Enter", code=13, modifiers=2)
        page.wait("document.getElementById('status').textContent.startsWith('Done')")
        page.value("document.querySelector('#labels button').click()")
        page.press("n", code=78)
        assert page.value("document.querySelectorAll('.label [value=no]:checked').length") == 1
        assert page.value("document.querySelector('.count').textContent").startswith("1 of 2")
        kept = page.value("Object.values(JSON.parse(localStorage.getItem('lens-labels:/')))")
        [run] = painting.services.runs.newest(1)
        [candidate] = painting.services.runs.record(run["id"]).result().candidates
        assert kept[0]["image"] == candidate.image.sha256
        assert kept[0]["criterion"] == candidate.verdict.verdicts[0].criterion

        page.value("document.querySelector('#study-list a').focus()")
        page.press("Enter", code=13)
        page.wait("document.querySelector('h1')?.textContent.startsWith('Prompt study')")
        # Its script runs: it shows what needs one.
        page.wait("document.querySelector('.filters')?.hidden === false")
