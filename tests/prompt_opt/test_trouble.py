"""What a study does when something goes wrong: limits, outages, and prompts that must not pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import (
    BootstrappedExamples,
    Budget,
    FactorialSearch,
    GuardRules,
    PairedSequentialGate,
    PromptCard,
    PromptSet,
    ProposalBrief,
    Proposals,
    StopSwitch,
    StudyConfigError,
    StudyInterruptedError,
    StudyProgress,
)
from lens_prompt_opt.outages import is_outage
from lens_prompt_opt.simulation.evaluator import rubric_of
from lens_prompt_opt.simulation.parts import SimulatedGenerator, SimulatedJudge, SimulatedReasoner
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import Draws, seed_prompt
from lens_reasoner import (
    ChatError,
    GeneratedImage,
    GenerationRefusedError,
    ImageRequest,
    ImageServiceError,
    JudgeError,
    Refused,
    Rewrite,
    Rubric,
    SystemPrompt,
    UnsupportedSettingError,
    Usage,
    Verdict,
)
from lens_reasoner.types import GenerationSettings
from prompt_opt.simulated_study import BUDGET, WORLD, PaidCalls, run, study

SEED = seed_prompt()


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (ImageServiceError("too long", fault="rejected", status=400), False),
        (ImageServiceError("who are you", fault="rejected", status=401), True),
        (ImageServiceError("no picture", fault="malformed"), True),
        (GenerationRefusedError("not that"), False),
        (ChatError("off", fault="off_schema"), False),
        (ChatError("gone", fault="server"), True),
        (JudgeError("no verdict"), False),
    ],
)
def test_only_what_may_pass_by_itself_stops_a_study(error: Any, outage: bool) -> None:
    assert is_outage(error) == outage


def test_a_stopped_study_keeps_what_was_under_way_and_goes_on(tmp_path: Path) -> None:
    paid, stop = PaidCalls(tmp_path, None), StopSwitch()
    seen: list[StudyProgress] = []

    def told(state: StudyProgress) -> None:
        seen.append(state)
        if state.images >= 50:
            stop.press()

    with pytest.raises(StudyInterruptedError, match="stopped"):
        asyncio.run(
            study(paid).optimize(
                seed=SEED, budget=BUDGET, run_dir=tmp_path / "run", on_progress=told, stop=stop
            )
        )
    # Pictures of the block under way are counted as they come.
    assert max(b.images - a.images for a, b in pairwise(seen)) <= 2
    assert seen[-1].images < 50 + 8
    run(tmp_path / "run", paid)
    calls = (tmp_path / "paid.txt").read_text().splitlines()
    votes = 7
    assert len(calls) == len(set(calls)) + votes, "nothing but the second votes comes twice"


def test_a_key_in_somebody_elses_error_is_not_told_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-users-own-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def broken(call: str) -> None:
        raise RuntimeError(f"401 for Bearer {key}")

    with pytest.raises(StudyInterruptedError, match=r"Bearer \[secret\]") as caught:
        study(generator=SimulatedGenerator(WORLD, on_call=broken)).optimize_sync(
            seed=SEED, budget=BUDGET, run_dir=tmp_path
        )
    assert key not in str(caught.value)


class _Writer:
    """Has nothing to say about one request."""

    fingerprint = "writer"

    async def write(self, request: ImageRequest) -> Rubric:
        if request.text == "request 3":
            raise JudgeError("There is nothing to check.", usage=Usage.zero())
        return rubric_of(WORLD, request.text)


def test_a_request_without_criteria_is_left_out_and_not_scored_zero(tmp_path: Path) -> None:
    prompts = PromptSet.of(f"request {number}" for number in range(24))
    result = study(prompts=prompts, rubric_writer=_Writer()).optimize_sync(
        seed=SEED, budget=BUDGET, run_dir=tmp_path
    )
    assert result.cost[-1].images > 100
    lines = (tmp_path / "calls.jsonl").read_text().splitlines()
    failures = [json.loads(line)["record"].get("failure", "") for line in lines]
    assert [f for f in failures if f] == ["JudgeError: There is nothing to check."]
    splits = prompts.split(0)
    if any(request.text == "request 3" for request in splits.test) and result.claim is not None:
        assert result.claim.requests == len(splits.test) - 1


def test_what_no_generator_can_honour_is_refused_before_anything_is_paid() -> None:
    called: list[str] = []
    prompts = PromptSet.of(f"request {i}" for i in range(24)).with_defaults({"guidance_scale": 3.0})
    with pytest.raises(UnsupportedSettingError, match="guidance"):
        study(called.append, prompts=prompts, rubric_writer=_Writer()).optimize_sync(
            seed=SEED, budget=BUDGET
        )
    assert not called


def test_defaults_fill_what_requests_leave_open() -> None:
    wide = {"text": "a", "aspect_ratio": "3:1"}
    plain = {"text": "b", "num_inference_steps": 9}
    requests = [{"id": str(n), "request": fields} for n, fields in enumerate((wide, plain))]
    filled = PromptSet.model_validate({"requests": requests}).with_defaults(
        {"width": 64, "height": 64, "num_inference_steps": 4}
    )
    first, second = (one.request for one in filled.requests)
    assert (first.width, first.num_inference_steps) == (None, 4)
    assert (second.width, second.num_inference_steps) == (64, 9)


class _Repeating(SimulatedReasoner):
    """Writes the same every time, under any prompt but the seed."""

    def with_system_prompt(self, prompt: SystemPrompt) -> _Repeating:
        return _Repeating(self.world, prompt)

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        if self.prompt != SEED:
            request = request.model_copy(update={"seed": 1})
        return await super().rewrite(request)


@dataclass(frozen=True)
class _Literal(SimulatedGenerator):
    """Draws the same pixels for the same words, whatever the seed."""

    def _draw(self, prompt: str, seed: int, settings: GenerationSettings) -> GeneratedImage:
        from PIL import Image

        made = super()._draw(prompt, seed, settings)
        shown = GeneratedImage.model_validate(made.model_dump()).image.info["shown"]
        draws = Draws(f"pixels:{prompt}")
        pixels = bytes(int(256 * draws.uniform()) for _ in range(72))
        return _with_pixels(made, Image.frombytes("L", (9, 8), pixels), str(shown))


def _with_pixels(made: GeneratedImage, image: Any, shown: str) -> GeneratedImage:
    import io

    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("shown", shown)
    image.save(buffer, format="PNG", pnginfo=info)
    return GeneratedImage.model_validate({**dict(made), "data": buffer.getvalue()})


def test_a_prompt_that_makes_all_pictures_alike_is_guarded() -> None:
    # The gate draws one picture per request; the guard draws the second ones it needs.
    gate = PairedSequentialGate(alpha=0.3, block_requests=4, guard_requests=4)
    parts = {"reasoner": _Repeating(WORLD, SEED), "generator": _Literal(WORLD), "gate": gate}
    budget = Budget(images=300)
    result = study(**parts).optimize_sync(seed=SEED, budget=budget)
    guarded = [d for d in result.history.decisions if d.verdict == "guarded"]
    assert guarded
    assert [finding.guard for finding in guarded[0].guards] == ["diversity"]
    assert result.end == "no_improvement"
    free = study(**parts, guards=GuardRules(min_diversity=0.0)).optimize_sync(
        seed=SEED, budget=budget
    )
    assert free.history.decisions[0].verdict == "better"


class _Foggy(SimulatedReasoner):
    """Asks for fog under any prompt but the seed."""

    def with_system_prompt(self, prompt: SystemPrompt) -> _Foggy:
        return _Foggy(self.world, prompt)

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        made = await super().rewrite(request)
        fog = "" if self.prompt == SEED else ", fog"
        return made.model_copy(update={"prompt": f"{made.prompt}{fog}"})


class _Groping(SimulatedJudge):
    """Cannot tell what failed in a fog."""

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        verdict = await super().judge(image, rubric)
        answers = verdict.model_dump()["verdicts"]
        for answer in answers:
            if image.prompt.endswith("fog") and answer["answer"] == "no":
                answer["answer"] = "cannot_tell"
        return Verdict.model_validate({**verdict.model_dump(), "verdicts": answers})


def test_a_prompt_that_hides_what_fails_is_guarded(tmp_path: Path) -> None:
    nothing = SimulatedProposer(helps=0.0, hurts=0.0, gain=0.0)
    parts = {"reasoner": _Foggy(WORLD, SEED), "judge": _Groping(WORLD), "proposer": nothing}
    result = study(**parts).optimize_sync(seed=SEED, budget=Budget(images=300))
    guarded = [d for d in result.history.decisions if d.verdict == "guarded"]
    assert guarded
    assert [finding.guard for finding in guarded[0].guards] == ["undecided"]
    assert result.end == "no_improvement"
    # What looked best says how much of it nobody could see.
    free = study(**parts, guards=GuardRules(max_undecided=1.0)).optimize_sync(
        seed=SEED, budget=Budget(images=300)
    )
    assert free.claim is not None
    before, after = free.claim.undecided or (0, 0)
    assert after > before + 0.2
    page = free.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The judge could not decide" in page


def test_a_draw_of_examples_that_is_guarded_is_not_the_last() -> None:
    def made(**changes: Any) -> list[tuple[int, bool]]:
        strategy = BootstrappedExamples(examples=2, draws=4, batch=8, pictures=1)
        result = study(strategy=strategy, **changes).optimize_sync(
            seed=SEED, budget=Budget(images=200)
        )
        records = result.history.candidates[1:]
        return [(len(r.candidate.prompt.render()), bool(r.guards)) for r in records]

    longest = made()[0][0]
    draws = made(guards=GuardRules(max_characters=longest - 1))
    assert draws[0] == (longest, True)
    assert not draws[-1][1], "the others are compared all the same"


def test_what_could_not_be_established_is_shown_with_its_interval(tmp_path: Path) -> None:
    strict = PairedSequentialGate(alpha=1e-6, block_requests=4, pictures=1)
    result = study(gate=strict).optimize_sync(seed=SEED, budget=BUDGET, run_dir=tmp_path)
    assert (result.end, result.claim) == ("no_improvement", None)
    guess = result.unproven
    assert guess is not None
    assert guess.claim is not None
    assert guess.claim.requests == 6
    assert guess.system_prompt != SEED == result.best.system_prompt
    assert PromptCard.load(tmp_path / "unproven.json") == guess
    assert result.cost[-1].images <= 170


class _Looking(SimulatedProposer):
    """Keeps what it is shown."""

    async def propose(self, brief: ProposalBrief, pictures: Mapping[str, bytes]) -> Proposals:
        _SHOWN.append((brief, dict(pictures)))
        return await super().propose(brief, pictures)


_SHOWN: list[tuple[ProposalBrief, dict[str, bytes]]] = []


def test_the_proposer_may_see_the_failed_pictures_of_its_examples() -> None:
    _SHOWN.clear()
    budget = Budget(images=120)
    study(proposer=_Looking(), show_pictures=True).optimize_sync(seed=SEED, budget=budget)
    assert _SHOWN
    for brief, pictures in _SHOWN:
        named = {f.image for mode in brief.failures.modes for f in mode.examples if f.image}
        assert pictures.keys() == named
        assert all(data.startswith(b"\x89PNG") for data in pictures.values())
    _SHOWN.clear()
    study(proposer=_Looking()).optimize_sync(seed=SEED, budget=budget)
    assert not any(pictures for _, pictures in _SHOWN)


def test_the_time_of_proposals_counts() -> None:
    result = study(proposer=SimulatedProposer(helps=0.8)).optimize_sync(
        seed=SEED, budget=Budget(seconds=22, images=1000)
    )
    # The simulated proposer says it takes 5 seconds; at most the one under way goes over.
    assert 10 <= result.cost[-1].seconds <= 28


def test_strategy_settings_are_part_of_what_a_run_is_about(tmp_path: Path) -> None:
    study().optimize_sync(seed=SEED, budget=Budget(images=100), run_dir=tmp_path)
    described = json.loads((tmp_path / "study.json").read_text())
    assert described["gate"]["guard_requests"] == PairedSequentialGate().guard_requests
    assert described["strategy"]["pairs"] == 8
    other = study(strategy=replace(FactorialSearch(), pairs=9))
    with pytest.raises(Exception, match="strategy"):
        other.optimize_sync(seed=SEED, budget=Budget(images=100), run_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0),  # No call would ever begin,
        ("concurrency", -1),
        ("confidence", 95),  # these would fail at the claim, when all is paid for,
        ("confidence", 1.0),
        ("test_pictures", 0),  # and here there would be none.
        ("shares", (0.5,)),
        ("shares", (0.5, -0.1, 0.6)),
        ("own_share", -0.1),
    ],
)
def test_numbers_that_make_no_study_are_refused_before_anything_is_paid(
    name: str, value: object
) -> None:
    with pytest.raises(StudyConfigError, match=f"^{name}="):
        study(**{name: value})
