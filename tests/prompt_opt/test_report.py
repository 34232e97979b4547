"""The report: what it says, that nothing in it can do harm, and that it needs nothing else."""

import asyncio
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lens_prompt_opt import (
    Budget,
    PairedSequentialGate,
    PromptSet,
    RunDirectoryError,
    StudyRequest,
    StudyResult,
)
from lens_prompt_opt.journal import DiskJournal
from lens_prompt_opt.report import report_run
from lens_prompt_opt.report.markup import Markup, el
from lens_prompt_opt.report.thumbnails import Thumbnails
from lens_prompt_opt.report.unfinished import Progress
from lens_prompt_opt.simulation.evaluator import rubric_of
from lens_prompt_opt.simulation.parts import SimulatedGenerator
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner import ImageRequest, PromptSection, SystemPrompt
from prompt_opt.simulated_study import WORLD, study

EVIL = "<script>alert('1')</script><img src=x onerror=alert(2)> & \"quotes\""


class Page(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def evil_requests(count: int) -> PromptSet:
    texts = [f"{EVIL} {number}" for number in range(count)]
    return PromptSet(
        requests=tuple(
            StudyRequest(
                id=f"r{number}", request=ImageRequest(text=text), rubric=rubric_of(WORLD, text)
            )
            for number, text in enumerate(texts)
        )
    )


def evil_seed() -> SystemPrompt:
    seed = seed_prompt()
    section = PromptSection(name="Safety <b>first</b>", text=EVIL, protected=True)
    return SystemPrompt(name="a<b>", version="1", sections=(*seed.sections, section))


def finished(folder: Path, images: int = 330, **changes: object) -> StudyResult:
    made = study(prompts=evil_requests(24), **changes)
    budget = Budget(images=images)
    return asyncio.run(made.optimize(seed=evil_seed(), budget=budget, run_dir=folder))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return finished(tmp_path_factory.mktemp("study") / "run")


@pytest.fixture(scope="module")
def page(result: StudyResult) -> Page:
    assert result.run_dir is not None
    return Page(result.report(result.run_dir / "report.html").read_text(encoding="utf-8"))


def test_nothing_a_user_or_model_wrote_becomes_markup(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert EVIL in page.text
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    [policy] = [m["content"] for m in page.all("meta") if "content-security" in str(m).lower()]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not page.all("link") + page.all("iframe") + page.all("object")
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert not [attributes for _, attributes in page.elements if "style" in attributes]


def test_the_claim_the_prompt_and_the_evidence_are_told(page: Page, result: StudyResult) -> None:
    claim = result.claim
    assert claim is not None
    assert f"{100 * claim.gain:+.1f}".replace("-", "−") in page.text
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in claim.interval)
    assert f"{low} to {high}" in page.text
    for section in result.best.system_prompt.sections:
        assert section.name in page.text
    [decision] = [d for d in result.history.decisions if d.accepted]
    assert f"of {1 / decision.level:,.1f} needed" in page.text
    ids = {attributes.get("id") for _, attributes in page.elements}
    for record in result.history.candidates:
        assert f"c-{record.candidate.id}" in ids
    links = {str(link["href"])[1:] for link in page.all("a")}
    assert links - {None} <= ids


def test_each_shown_pair_has_both_pictures_and_its_verdicts(
    page: Page, result: StudyResult
) -> None:
    pairs = [a for a in page.all("article") if "pair" in str(a.get("class"))]
    scored = [p for p in result.pictures if None not in (p.before.score, p.after.score)]
    assert len(pairs) == min(len(scored), 24)
    assert len(page.all("img")) == 2 * len(pairs)
    assert {a["data-change"] for a in pairs} <= {"better", "same", "worse"}
    question = next(iter(result.pictures[0].questions.values()))
    assert question in page.text


def test_a_report_from_the_run_directory_is_the_same(result: StudyResult, tmp_path: Path) -> None:
    assert result.run_dir is not None
    one = result.report(tmp_path / "a.html")
    other = report_run(result.run_dir, tmp_path / "deep" / "b.html")
    assert one.read_bytes() == other.read_bytes()


def test_a_study_without_a_run_directory_is_told_without_pictures(
    result: StudyResult, tmp_path: Path
) -> None:
    bare = result.model_copy(update={"run_dir": None})
    page = Page(bare.report(tmp_path / "a.html").read_text(encoding="utf-8"))
    assert not page.all("img")
    assert "not kept" in page.text


def test_no_gain_is_told_as_such(tmp_path: Path) -> None:
    result = finished(tmp_path / "run", 150, proposer=SimulatedProposer.placebo())
    assert result.claim is None
    text = Page(result.report(tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert "No better prompt was accepted" in text
    assert ("looked best" in text) == (result.unproven is not None)
    assert "There are no images of the test split" in text


def test_several_generators_have_their_matrix(tmp_path: Path) -> None:
    two = [SimulatedGenerator(WORLD, name="one & <only>"), SimulatedGenerator(WORLD, name="two")]
    gate = PairedSequentialGate(alpha=0.9, block_requests=4, pictures=1)
    result = finished(tmp_path / "run", 500, generator=two, gate=gate)
    assert result.matrix is not None
    text = Page(result.report(tmp_path / "a.html").read_text(encoding="utf-8")).text
    for prompt in ("seed prompt", "shared prompt", "prompt for one & <only>", "prompt for two"):
        assert prompt in text
    entry = result.matrix.entry("two", "two")
    assert entry.score is not None
    assert f"{100 * entry.score:.1f} %" in text


def _stop_after(calls: int) -> Callable[[str], None]:
    left = iter(range(calls))

    def called(call: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return called


def test_an_unfinished_run_is_told_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = study(_stop_after(200), prompts=evil_requests(24))
    work = made.optimize(seed=evil_seed(), budget=Budget(images=330), run_dir=folder)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work)
    with (folder / "calls.jsonl").open("ab") as file:
        file.write(b'{"key": "judge:1", "rec')
    before = (folder / "calls.jsonl").read_bytes()
    page = Page(report_run(folder).read_text(encoding="utf-8"))
    assert "This run is not finished" in page.text
    drawn = before.count(b'"key": "generate:')
    assert f"{drawn}images so far" in page.text or f"images so far{drawn}" in page.text
    assert page.all("img")
    assert len(page.all("script")) == 1
    assert (folder / "calls.jsonl").read_bytes() == before


def test_lines_of_a_journal_end_with_line_feeds_alone(tmp_path: Path) -> None:
    """Prompts may hold other marks that end lines elsewhere; such pictures were not counted."""
    journal = DiskJournal(tmp_path)
    image = {"prompt": "one\u2028two\x85three"}
    record = {"usage": {"usd": 0.5}, "seconds": 2.0, "picture": "a.png", "image": image}
    journal.put("generate:1", record)
    journal.close()
    progress = Progress.read(tmp_path / "calls.jsonl")
    assert progress.pictures == [(image["prompt"], "a.png")]
    assert progress.rows()[-1].usd == 0.5


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=re.escape("study.json")):
        report_run(tmp_path)


def test_text_is_escaped_unless_it_was_built_as_markup() -> None:
    built = el("p", "<b>", el("i", "&"), title='"<')
    assert built == '<p title="&quot;&lt;">&lt;b&gt;<i>&amp;</i></p>'
    assert isinstance(el("br"), Markup)


def test_pictures_stay_within_their_room_and_their_folder(tmp_path: Path) -> None:
    from PIL import Image

    Image.effect_noise((1600, 1200), 90).convert("RGB").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "outside.png")
    first = Thumbnails(tmp_path, room=90_000).uri("a.png")
    assert first.startswith("data:image/jpeg")
    assert 5_000 < len(first) < 90_000
    store = Thumbnails(tmp_path, room=len(first) * 3 // 2)
    assert [store.uri("a.png") for _ in range(2)] == [first, ""]
    assert Thumbnails(tmp_path, room=90_000).uri("../outside.png") == ""
    assert Thumbnails(None, room=90_000).uri("a.png") == ""
