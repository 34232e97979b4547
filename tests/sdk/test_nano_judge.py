"""Offline judging on scenes whose truth is known."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lens_core.nano import COLORS, Scene, brief_caption, render, sample_scene
from lens_core.nano.checks import Observation
from lens_reasoner import (
    STRUCTURE,
    AgentLoop,
    FunctionGenerator,
    GeneratedImage,
    GenerationSettings,
    ImageRequest,
    Judge,
    JudgeError,
    Rubric,
    RubricWriter,
    Verdict,
)
from lens_sdk import nano_judge
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter


def _picture(scene: Scene) -> GeneratedImage:
    return GeneratedImage.from_pil(
        render(scene), prompt="", seed=1, settings=GenerationSettings(), generator="truth"
    )


async def _judged(scene: Scene, text: str) -> tuple[Rubric, Verdict]:
    rubric = await NanoRubricWriter().write(ImageRequest(text=text))
    return rubric, await NanoJudge().judge(_picture(scene), rubric)


def _answers(rubric: Rubric, verdict: Verdict) -> dict[str, str]:
    assert [line.criterion for line in verdict.verdicts] == [c.name for c in rubric.criteria]
    return {line.criterion: line.answer for line in verdict.verdicts}


async def test_true_pictures_satisfy_their_requests() -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        scene = sample_scene(rng)
        text = brief_caption(scene, rng)
        _, verdict = await _judged(scene, text)
        assert verdict.all_satisfied, (text, verdict)
        assert all(line.evidence for line in verdict.verdicts)


async def test_a_wrong_colour_fails_its_criterion_alone() -> None:
    rng = np.random.default_rng(12)
    scene = sample_scene(rng, "color_attr")
    text = " and ".join(f"a {item.color} {item.cls}" for item in scene.objects)
    first = scene.objects[0]
    taken = {item.color for item in scene.objects}
    other = next(color for color in COLORS if color not in taken)
    wrong = replace(scene, objects=(replace(first, color=other), *scene.objects[1:]))
    rubric, verdict = await _judged(wrong, text)
    answers = _answers(rubric, verdict)
    assert [name for name, answer in answers.items() if answer == "no"] == [
        f"color:{first.color} {first.cls}"
    ]
    assert other in next(v.evidence for v in verdict.verdicts if v.answer == "no")
    assert verdict.score == pytest.approx(1 - 1 / len(answers))


async def test_counts_and_positions_are_read_from_the_request() -> None:
    rng = np.random.default_rng(13)
    scene = sample_scene(rng, "position")
    target, mover = scene.objects
    text = f"two {mover.cls}s left of a {target.cls}".replace("fishs", "fish")
    rubric, _ = await _judged(scene, text)
    assert [(c.kind, c.source) for c in rubric.criteria] == [
        ("count", f"a {target.cls}"),
        ("object", text.split(" left")[0]),
        ("count", text.split(" left")[0]),
        ("position", text),
    ]
    assert len({c.name for c in rubric.criteria}) == 4


async def test_words_it_does_not_know_leave_a_question_open() -> None:
    scene = sample_scene(np.random.default_rng(14), "single_object")
    rubric, verdict = await _judged(scene, f"a {scene.objects[0].cls} and a dragon")
    assert _answers(rubric, verdict)["everything else"] == "cannot_tell"
    assert rubric.criteria[-1].source == "dragon"
    assert verdict.score == 1
    assert verdict.coverage < 1
    assert not verdict.all_satisfied


async def test_criteria_of_others_are_not_answered() -> None:
    rubric = Rubric(request="a star", criteria=(STRUCTURE,))
    verdict = await NanoJudge().judge(_picture(sample_scene(np.random.default_rng(1))), rubric)
    assert verdict.verdicts[0].answer == "cannot_tell"
    assert verdict.score is None


async def test_nothing_known_means_no_score_and_a_note() -> None:
    judge, writer = NanoJudge(), NanoRubricWriter()
    assert isinstance(judge, Judge)
    assert isinstance(writer, RubricWriter)
    with pytest.raises(JudgeError, match="dragon"):
        await writer.write(ImageRequest(text="a dragon in the rain"))
    scene = sample_scene(np.random.default_rng(15))
    generator = FunctionGenerator(lambda prompt, seed: render(scene))
    loop = AgentLoop(generator=generator, judge=judge, rubric_writer=writer)
    result = await loop.run("a dragon in the rain")
    assert result.best is not None
    assert result.best.score is None
    assert result.stop_reason == "unjudged"
    assert "not judged" in result.failures[0].message


async def test_judgements_that_wait_hold_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on, observe = threading.Event(), threading.Event(), nano_judge.observe

    def slow(picture: Image.Image) -> Observation:
        begun.set()
        assert may_go_on.wait(10)
        return observe(picture)

    monkeypatch.setattr(nano_judge, "observe", slow)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
    scene, judge = sample_scene(np.random.default_rng(16)), NanoJudge()
    rubric = await NanoRubricWriter().write(ImageRequest(text="a cup"))
    waiting = [asyncio.create_task(judge.judge(_picture(scene), rubric)) for _ in range(4)]
    try:
        while not begun.is_set():
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 2) == "free"
    finally:
        may_go_on.set()
        assert len(await asyncio.gather(*waiting)) == 4
