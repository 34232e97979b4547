"""Guidance at some of the noise levels only."""

from typing import Any

import pytest
import torch

from lens_core import LensPipeline, ParameterError
from tiny_components import tiny_pipeline

STEPS = 8


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


def latents(pipeline: LensPipeline, **settings: Any) -> torch.Tensor:
    settings = {"num_inference_steps": STEPS, "guidance_scale": 4.0, **settings}
    found: torch.Tensor = pipeline("a cup", seed=3, output_type="latent", **settings).images
    return found


def sigmas(pipeline: LensPipeline) -> list[float]:
    latents(pipeline)
    return pipeline.scheduler.sigmas.tolist()[:-1]


def forwards(pipeline: LensPipeline, **settings: Any) -> int:
    calls: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    latents(pipeline, **settings)
    hook.remove()
    return len(calls)


def test_at_all_levels_and_at_none_it_is_what_guidance_and_its_absence_are(
    pipeline: LensPipeline,
) -> None:
    always, never = latents(pipeline), latents(pipeline, guidance_scale=1.0)
    assert torch.equal(latents(pipeline, guidance_interval=(0, 1)), always)
    lowest = sigmas(pipeline)[-1]
    assert torch.equal(latents(pipeline, guidance_interval=[0.0, lowest / 2]), never)
    assert not torch.equal(always, never)


def test_only_steps_that_begin_between_the_levels_run_both_branches(pipeline: LensPipeline) -> None:
    levels = sigmas(pipeline)
    assert forwards(pipeline, guidance_interval=(levels[5], levels[2])) == STEPS + 4
    assert forwards(pipeline, guidance_interval=(levels[2], 1)) == STEPS + 3
    assert forwards(pipeline, guidance_interval=(0, levels[6])) == STEPS + 2
    # Entering the schedule in its middle does not move the levels.
    image = torch.zeros(1, 3, 64, 64)
    half = {"image": image, "strength": 0.5, "height": 64, "width": 64}
    assert forwards(pipeline, guidance_interval=(levels[5], levels[2]), **half) == 4 + 2


def test_guidance_that_ends_at_a_level_is_guidance_that_a_callback_ends(
    pipeline: LensPipeline,
) -> None:
    levels = sigmas(pipeline)

    def end(pipe: LensPipeline, step: int, _: object, __: object) -> dict[str, Any]:
        if step == 2:
            pipe.guidance_scale = 1.0
        return {}

    ended = latents(pipeline, callback_on_step_end=end)
    assert torch.equal(latents(pipeline, guidance_interval=(levels[2], 1.0)), ended)
    # Both together: what either leaves out is left out.
    both = latents(pipeline, guidance_interval=(levels[1], 1.0), callback_on_step_end=end)
    assert torch.equal(both, latents(pipeline, guidance_interval=(levels[1], 1.0)))


@pytest.mark.parametrize(
    "wrong",
    [(0.9, 0.3), (-0.1, 1), (0, 1.5), (0.5,), 0.5, "01", (True, 1), ("a", 1), (0, float("nan"))],
)
def test_levels_that_are_none_are_refused(pipeline: LensPipeline, wrong: object) -> None:
    with pytest.raises(ParameterError, match="guidance_interval"):
        latents(pipeline, guidance_interval=wrong)


def test_the_published_code_has_none(pipeline: LensPipeline) -> None:
    with pytest.raises(ParameterError, match="no guidance_interval"):
        latents(pipeline, reference=True, guidance_interval=(0.1, 0.9))
    assert latents(pipeline, reference=True, guidance_interval=(0, 1)).shape[0] == 1
