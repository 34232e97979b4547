"""Choosing the parts of the loop by name."""

from pathlib import Path

import pytest
from PIL import Image

from lens_reasoner import (
    AgentLoop,
    ChatError,
    FunctionGenerator,
    ImageRequest,
    LLMReasoner,
    LLMReviser,
    LoopConfigError,
    LoopLimits,
    MissingKeyError,
    PassThrough,
    Rubric,
    RubricJudge,
)
from lens_sdk import UnknownPartError, build_loop, local_generator
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.nano_reasoner import NanoReasoner
from lens_sdk.nano_reviser import NanoReviser
from lens_sdk.session import (
    choose_fidelity_checker,
    choose_judge,
    choose_reasoner,
    choose_reviser,
)


def _function() -> FunctionGenerator:
    return FunctionGenerator(lambda prompt, seed: Image.new("RGB", (8, 8)), name="mine")


def test_the_nano_model_needs_no_key(nano_folder: Path) -> None:
    runtime = local_generator(str(nano_folder)).runtime
    assert isinstance(choose_reasoner("auto", runtime), NanoReasoner)
    judge, writer = choose_judge("auto", runtime)
    assert isinstance(judge, NanoJudge)
    assert isinstance(writer, NanoRubricWriter)
    assert not runtime.loaded


def test_other_models_use_the_language_model_there_is_a_key_for(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = local_generator(str(tiny_folder)).runtime
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert isinstance(choose_reasoner("auto", runtime), LLMReasoner)
    judge, _ = choose_judge("openai:my-model", None)
    assert isinstance(judge, RubricJudge)
    assert judge.name == "my-model"


@pytest.mark.parametrize("part", ["reasoner", "judge"])
def test_no_key_and_no_offline_choice_says_what_to_do(tiny_folder: Path, part: str) -> None:
    others = {"reasoner": "none", "judge": "none"} | {part: "auto"}
    with pytest.raises(MissingKeyError, match=f"no offline {part} for tiny") as error:
        build_loop(str(tiny_folder), **others)
    assert "OPENAI_API_KEY" in error.value.hint
    assert "--no-reason" in error.value.hint
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        build_loop(str(tiny_folder), **(others | {part: "openai:gpt-x"}))


@pytest.mark.parametrize("choice", ["gpt-5", "nano:big", "none:", "auto:x", ""])
def test_an_unknown_part_lists_the_choices(nano_folder: Path, choice: str) -> None:
    if choice == "none:":
        choice = "none:x"
    with pytest.raises(UnknownPartError, match="openai:MODEL"):
        build_loop(str(nano_folder), reasoner=choice)
    with pytest.raises(UnknownPartError, match="openai:MODEL"):
        build_loop(str(nano_folder), judge=choice)


@pytest.mark.parametrize("choice", ["nano", "local"])
def test_reasoners_in_a_text_encoder_need_a_lens_model(choice: str) -> None:
    with pytest.raises(UnknownPartError, match="text encoder"):
        build_loop(_function(), reasoner=choice, judge="none")


def test_the_text_encoder_in_memory_rewrites_and_revises(tiny_folder: Path) -> None:
    runtime = local_generator(str(tiny_folder)).runtime
    assert isinstance(choose_reasoner("local", runtime), LLMReasoner)
    assert isinstance(choose_reviser("auto", "local", runtime), LLMReviser)
    assert not runtime.loaded


def test_a_gguf_file_rewrites_for_any_generator_and_never_judges(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=r"no file .*absent\.gguf"):
        choose_reasoner(f"gguf:{tmp_path / 'absent.gguf'}", None)
    with pytest.raises(UnknownPartError, match="gguf"):
        choose_judge("gguf", None)


async def test_parts_of_ones_own_are_taken_as_they_are() -> None:
    loop = build_loop(_function(), reasoner=PassThrough(), judge=None)
    result = await loop.run("a red apple")
    assert result.best is not None
    assert result.best.image.generator == "mine"
    assert result.rewrite is not None
    judged = build_loop(_function(), reasoner=None, judge=NanoJudge())
    with pytest.raises(LoopConfigError, match="criteria"):
        await judged.run("a red apple")


async def test_the_nano_judge_serves_any_generator() -> None:
    result = await build_loop(_function(), reasoner="none", judge="nano").run("a red apple")
    assert isinstance(result.rubric, Rubric)
    assert result.best is not None
    assert result.best.score == 0


def test_offline_parts_of_further_rounds(nano_folder: Path) -> None:
    runtime = local_generator(str(nano_folder)).runtime
    assert isinstance(choose_reviser("auto", "auto", runtime), NanoReviser)
    assert isinstance(choose_fidelity_checker("auto", "auto", runtime), NanoFidelityChecker)
    assert choose_reviser("none", "auto", runtime) is None
    assert choose_reviser("auto", "none", runtime) is None
    assert choose_reviser("auto", PassThrough(), runtime) is None
    assert choose_fidelity_checker("none", "auto", runtime) is None
    assert choose_fidelity_checker("auto", None, runtime) is None
    mine = NanoFidelityChecker()
    assert choose_fidelity_checker(mine, "none", None) is mine
    with pytest.raises(UnknownPartError, match="reviser 'nano'"):
        choose_reviser("nano", "auto", runtime)


async def test_rounds_go_on_offline(nano_folder: Path, tmp_path: Path) -> None:
    def loop() -> AgentLoop:
        return build_loop(
            str(nano_folder), limits=LoopLimits(max_rounds=3), cache=tmp_path / "cache"
        )

    request = ImageRequest(text="a red apple", seed=1, num_images=2, num_inference_steps=1)
    result = await loop().run(request, record=tmp_path / "run")
    assert (result.stop_reason, len(result.candidates)) == ("max_rounds", 6)
    assert all(problem.fault == "generator" for c in result.candidates for problem in c.problems)
    # The random encoder writes nothing of use, so what was not drawn is said again.
    assert [p.prompt for p in result.prompts][1] == "a red apple The picture shows one red apple."
    assert [report.prompt for report in result.fidelity] == [p.prompt for p in result.prompts]
    assert result.usage.usd == 0
    again = await loop().run(request)
    assert [c.image for c in again.candidates] == [
        c.image.model_copy(update={"timings": {}}) for c in result.candidates
    ]
    assert (await loop().resume(tmp_path / "run")).best == result.best
