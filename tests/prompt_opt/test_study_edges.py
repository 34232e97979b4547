"""What a study does at the edges: odd files, like-named parts, half answers, cancelled tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import (
    BootstrappedExamples,
    Budget,
    Desk,
    GepaEngine,
    LLMClusterer,
    LLMProposer,
    PromptSet,
    ProposalError,
    RunDirectoryError,
    SectionEdit,
    StudyInterruptedError,
    StudyMismatchError,
)
from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.call_records import failed
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.comparison import Comparison
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.errors import EditError, PromptSetError
from lens_prompt_opt.evaluation import EvaluationContext
from lens_prompt_opt.failures import Failure
from lens_prompt_opt.guards import token_estimate
from lens_prompt_opt.history import History
from lens_prompt_opt.journal import MemoryJournal
from lens_prompt_opt.outages import is_outage
from lens_prompt_opt.paid_calls import PaidCalls
from lens_prompt_opt.pipeline import Parts, PipelineEvaluator
from lens_prompt_opt.proposer import ProposalBrief
from lens_prompt_opt.simulation.parts import (
    SimulatedGenerator,
    SimulatedJudge,
    simulated_reasoner,
    simulated_requests,
)
from lens_prompt_opt.simulation.world import seed_prompt
from lens_prompt_opt.statistics.intervals import ClusterBootstrap
from lens_prompt_opt.stopping import StopSwitch
from lens_reasoner import (
    ChatError,
    CompositeJudge,
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    GenerationRefusedError,
    JudgeError,
    Rubric,
    Usage,
    Verdict,
)
from prompt_opt.simulated_study import BUDGET, WORLD, study
from scripted_chat import Asked, ScriptedChat, failure

SEED = seed_prompt()
CELL = Cell("request 0", seed=7, draw=3)


def evaluator(journal: MemoryJournal, ledger: Ledger | None = None, **parts: Any) -> Any:
    requests = {request.id: request for request in simulated_requests(WORLD, 4).requests}
    names = dict.fromkeys(("rewrite", "generate", "judge", "rubric", "fidelity"), "simulated")
    given: dict[str, Any] = {
        "reasoner": simulated_reasoner(WORLD),
        "generators": (SimulatedGenerator(WORLD),),
        "judge": SimulatedJudge(WORLD),
        "rubric_writer": None,
        "fidelity": None,
        "names": names,
        **parts,
    }
    ledger = ledger or Ledger(Budget(usd=10))
    return PipelineEvaluator(Parts(**given), EvaluationContext(requests, journal, ledger))


async def test_generators_of_one_name_draw_each_their_own_picture() -> None:
    drawn: list[str] = []
    pair = tuple(
        SimulatedGenerator(WORLD, on_call=lambda call, n=n: drawn.append(n), name="lens")
        for n in ("base", "tuned")
    )
    work = evaluator(MemoryJournal(), generators=pair)
    await work.evaluate([(SEED, CELL._replace(generator=place)) for place in (0, 1)])
    assert sorted(drawn) == ["base", "tuned"]


@dataclass
class HalfJudge:
    """Cannot ask about one criterion the first time; `then` is what happens the second time."""

    then: Callable[[], None] = lambda: None
    asked: int = 0
    name: str = "half"

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        self.asked += 1
        if self.asked > 1:
            self.then()
        last = rubric.criteria[-1].name
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(criterion=c.name, answer="cannot_tell", failed=True)
                if self.asked == 1 and c.name == last
                else CriterionVerdict(criterion=c.name, answer="yes")
                for c in rubric.criteria
            ),
            judge=self.name,
            usage=Usage(usd=0.1),
        )


async def test_a_criterion_whose_call_failed_is_asked_again_before_the_verdict_is_kept() -> None:
    ledger, judge = Ledger(Budget(usd=10)), HalfJudge()
    [outcome] = await evaluator(MemoryJournal(), ledger, judge=judge).evaluate([(SEED, CELL)])
    assert set(outcome.answers.values()) == {"yes"}
    assert judge.asked == 2
    assert ledger.stages["judge"].usd == pytest.approx(0.2)


async def test_half_a_verdict_is_kept_only_if_asking_again_cannot_help() -> None:
    def raise_caused_by(fault: str) -> Callable[[], None]:
        def act() -> None:
            try:
                raise failure(fault)
            except ChatError as error:
                raise JudgeError("No verdict.", usage=error.usage) from error

        return act

    off = HalfJudge(raise_caused_by("off_schema"))
    [outcome] = await evaluator(MemoryJournal(), judge=off).evaluate([(SEED, CELL)])
    assert list(outcome.answers.values()).count("cannot_tell") == 1
    journal = MemoryJournal()
    with pytest.raises(StudyInterruptedError):
        await evaluator(journal, judge=HalfJudge(raise_caused_by("server"))).evaluate(
            [(SEED, CELL)]
        )
    [again] = await evaluator(journal, judge=SimulatedJudge(WORLD)).evaluate([(SEED, CELL)])
    assert again.score is not None, "nothing of the outage was kept"


async def test_an_outage_behind_a_judge_made_of_judges_is_one() -> None:
    class Broken:
        name = "broken"

        async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
            raise JudgeError("No verdict.") from ChatError("down", fault="server")

    [image] = await SimulatedGenerator(WORLD).generate(
        "request 0, with it", seeds=[1], settings=_settings()
    )
    rubric = Rubric(
        request="x", criteria=(Criterion(name="a", kind="object", question="Is it there?"),)
    )
    with pytest.raises(JudgeError) as caught:
        await CompositeJudge({}, otherwise=Broken()).judge(image, rubric)
    assert is_outage(caught.value)


def _settings() -> Any:
    from lens_reasoner import GenerationSettings

    return GenerationSettings()


@pytest.mark.parametrize(
    ("strategy", "begun"),
    [
        (None, 4),
        # Past the calibration, in the thread of GEPA.
        pytest.param(
            GepaEngine(),
            34,
            marks=pytest.mark.skipif(find_spec("gepa") is None, reason="needs gepa"),
        ),
    ],
)
async def test_a_cancelled_study_begins_no_further_call(
    tmp_path: Path, strategy: Any, begun: int
) -> None:
    calls: list[str] = []
    slow = SimulatedGenerator(WORLD, on_call=calls.append, seconds=0.02)
    prompts = simulated_requests(WORLD, 60)
    parts = study(generator=slow, concurrency=2, strategy=strategy, prompts=prompts)
    work = asyncio.create_task(parts.optimize(seed=SEED, budget=BUDGET, run_dir=tmp_path))
    while len(calls) < begun:
        assert not work.done()
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    before = len(calls)
    await asyncio.sleep(0.1)
    assert len(calls) == before
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_what_a_part_of_the_users_own_raises_stops_the_study_at_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def broken(call: str) -> None:
        calls.append(call)
        if len(calls) == 3:
            raise ZeroDivisionError("my own mistake")

    with pytest.raises(StudyInterruptedError, match="ZeroDivisionError: my own") as caught:
        await study(generator=SimulatedGenerator(WORLD, on_call=broken)).optimize(
            seed=SEED, budget=BUDGET, run_dir=tmp_path
        )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(calls) < 20


def test_a_call_that_failed_has_an_unknown_cost_and_no_cost_of_zero() -> None:
    record = failed(GenerationRefusedError("not that"), 0.1)
    assert record["usage"]["usd"] is None
    ledger = Ledger(Budget(usd=5))
    ledger.add("generate", Usage.model_validate(record["usage"]), 0.1, failed=True)
    assert (ledger.usd, ledger.table()[-1].unpriced) == (0, 1)


async def test_a_call_is_accounted_once_however_often_its_result_is_used() -> None:
    ledger = Ledger(Budget(usd=5))
    calls = PaidCalls(MemoryJournal(), ledger, History(), StopSwitch())

    async def call() -> Any:
        return {"names": []}, Usage(usd=0.5), 1.0

    for _ in range(3):
        await calls.make("cluster", "cluster", ["the same"], call)
    assert (ledger.usd, ledger.calls, ledger.wall_seconds) == (0.5, 1, 1.0)


def test_requests_may_hold_any_letter_and_begin_with_a_mark(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\x85d", "e\x0cf", "ü 漢字 🦊"]
    path = tmp_path / "requests.jsonl"
    lines = "".join(json.dumps({"text": t, "id": None}, ensure_ascii=False) + "\r\n" for t in texts)
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    found = PromptSet.load(path)
    assert [request.text for request in found.requests] == texts
    assert [request.id for request in found.requests] == ["r0001", "r0002", "r0003", "r0004"]
    path.write_bytes("ü".encode("latin-1"))
    with pytest.raises(PromptSetError, match="cannot be read"):
        PromptSet.load(path)


@pytest.mark.parametrize("seed", range(6))
def test_texts_that_are_all_but_equal_never_sit_on_both_sides(seed: int) -> None:
    pairs = [(f"A red cup, no {n}", f"a red cup no {n}.") for n in range(20)]
    splits = PromptSet.of([text for pair in pairs for text in pair]).split(seed)
    place = {r.text: name for name in ("search", "test") for r in getattr(splits, name)}
    assert all(place.get(one) == place.get(other) for one, other in pairs)


@pytest.mark.parametrize(
    "edit",
    [
        SectionEdit(section="counting", text="First.\n## role\nSecond."),
        SectionEdit(section="new <!-- protected -->", kind="add", text="Be bold."),
        SectionEdit(section="two\nlines", kind="add", text="Be bold."),
    ],
)
def test_texts_that_make_no_section_are_edits_that_do_not_fit(edit: SectionEdit) -> None:
    with pytest.raises(EditError, match="is not a valid section"):
        Candidate.edited(Candidate.seed(SEED), [edit])


def _raw(**fields: Any) -> dict[str, Any]:
    usual = {"section": "counting", "kind": "replace", "text": "Count.", "failure_mode": "few"}
    return {**usual, "criterion_kinds": ["count"], "reason": "because", **fields}


def test_edits_of_a_language_model_are_put_into_form() -> None:
    raw = [
        _raw(section="Counting", text="## Counting\nSay how many.\n\n## Also\nAnd where."),
        _raw(section="role", kind="remove", text="", criterion_kinds=["colour", "color"]),
    ]
    chat = ScriptedChat(lambda asked: {"analysis": "", "alternatives": [{"edits": raw}]})
    brief = ProposalBrief.model_validate(
        {"prompt": SEED, "failures": {"modes": (), "checked": 0, "by_fault": {}}}
    )
    [[counting, role]] = asyncio.run(LLMProposer(chat).propose(brief, {})).edits
    assert (counting.section, counting.kind) == ("counting", "replace")
    assert counting.text == "Say how many.\n\n### Also\nAnd where."
    Candidate.edited(Candidate.seed(SEED), [counting, role])
    assert role.kind == "remove"
    assert role.hypothesis.failure_mode == "few"
    assert role.hypothesis.kinds == ("color",)
    nothing = ScriptedChat(lambda asked: {"analysis": "", "alternatives": []})
    with pytest.raises(ProposalError) as caught:
        asyncio.run(LLMProposer(nothing).propose(brief, {}))
    assert caught.value.usage is not None
    assert caught.value.usage.usd == 0.001


def test_sorting_that_fails_on_the_way_says_what_all_of_it_cost() -> None:
    criterion = Criterion(name="two", kind="count", question="Are there two?")
    one = Failure(request="two cups", criterion=criterion, fault="reasoner")

    def answer(asked: Asked) -> Any:
        if asked.data["modes_so_far"]:
            return failure("off_schema")
        return {"items": [{"number": n, "mode": "too few"} for n in range(4)]}

    with pytest.raises(ChatError) as caught:
        asyncio.run(LLMClusterer(ScriptedChat(answer), batch=4).cluster([one] * 8))
    assert caught.value.usage is not None
    assert caught.value.usage.usd == pytest.approx(0.002)


def test_the_scores_of_a_claim_are_of_the_pictures_of_its_gain() -> None:
    cells = [Cell(f"r{n}", 1) for n in range(6)]
    before = [Outcome(cell, 0.2 + 0.1 * n) for n, cell in enumerate(cells)]
    after = [Outcome(cell, None if n == 5 else 0.6) for n, cell in enumerate(cells)]
    claim = Comparison(after, before, lambda request: {}, ClusterBootstrap(), 0.95).claim(1)
    assert claim is not None
    assert claim.best_score - claim.seed_score == pytest.approx(claim.gain)
    assert claim.requests == 5


def test_a_run_belongs_to_its_settings_and_older_runs_go_on(tmp_path: Path) -> None:
    def begin(**changes: Any) -> None:
        work = study(**changes).optimize(seed=SEED, budget=BUDGET, run_dir=tmp_path, stop=stop)
        with pytest.raises(StudyInterruptedError):
            asyncio.run(work)

    stop = StopSwitch()
    stop.press()
    begin()
    for changes in ({"show_pictures": True}, {"confidence": 0.8}):
        with pytest.raises(StudyMismatchError, match=next(iter(changes))):
            begin(**changes)
    path = tmp_path / "study.json"
    older = {k: v for k, v in json.loads(path.read_text()).items() if k != "confidence"}
    path.write_text(json.dumps(older))
    begin(confidence=0.8)
    path.write_text("{half")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        begin()


def test_tokens_of_scripts_without_spaces_are_counted_by_letter() -> None:
    assert token_estimate("一只猫坐在窗台上") == 8
    assert token_estimate("a cat on a sill") == 6


async def test_examples_are_not_compared_on_the_requests_they_show() -> None:
    class Table:
        seed = Candidate.seed(SEED)
        history = History()

        async def evaluate(self, made: Candidate, cells: list[Cell]) -> list[Outcome]:
            return [Outcome(cell, 1.0 if cell.request == "shown" else 0.25) for cell in cells]

        def outcomes(self, made: Candidate, cells: list[Cell]) -> list[Outcome]:
            return [Outcome(cell, 0.5 if cell.request == "b" else 0.0) for cell in cells]

    table: Any = Table()
    cells = [Cell(name, 1) for name in ("shown", "a", "b")]
    gain = await BootstrappedExamples()._gain(table, Candidate.seed(SEED), cells, {"shown"})
    assert gain == 0.0
    [screen] = table.history.screens
    assert screen.error == pytest.approx(0.25)


class _Careless:
    """A strategy of somebody's own that spends until nothing is left."""

    name = "careless"

    @property
    def description(self) -> dict[str, object]:
        return {}

    async def search(self, desk: Desk) -> Candidate:
        for number in range(1000):
            await desk.evaluate(desk.seed, desk.batch(f"again {number}", 16))
        raise AssertionError("the budget has no end")


def test_a_strategy_may_run_into_the_end_of_the_budget() -> None:
    result = study(strategy=_Careless()).optimize_sync(seed=SEED, budget=Budget(images=120))
    assert result.end == "no_improvement"
    assert "the budget ended the search" in result.history.notes
    assert result.cost[-1].images <= 120
