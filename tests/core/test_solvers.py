"""Solvers and time shifts as the pipeline uses them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lens_core import LensPipeline, ParameterError
from lens_core.packaged import packaged_folder
from lens_core.sampling import compute_mu
from lens_core.solvers import SolverName, make_solver
from tiny_components import tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


def latents(pipeline: LensPipeline, **settings: Any) -> Tensor:
    settings = {"num_inference_steps": 16, "guidance_scale": 4.0, **settings}
    found: Tensor = pipeline("a cup", seed=3, output_type="latent", **settings).images
    return found


def test_euler_is_what_lens_is_drawn_with(pipeline: LensPipeline) -> None:
    assert torch.equal(latents(pipeline, solver="euler"), latents(pipeline))


def test_second_order_ends_nearer_to_where_many_steps_end() -> None:
    nano = LensPipeline.from_pretrained(packaged_folder("lens-nano-base"))
    nano.set_progress_bar_config(disable=True)

    def drawn(steps: int, solver: str) -> Tensor:
        settings = {"num_inference_steps": steps, "solver": solver, "shift": 3, "size": "96x96"}
        prompt = "two red apples on a teal background"
        pictures = nano(
            prompt, seed=[3, 4, 5], num_images_per_prompt=3, output_type="latent", **settings
        )
        found: Tensor = pictures.images
        return found

    exact = drawn(50, "ab2")
    euler = (drawn(12, "euler") - exact).norm()
    for name in ("dpmpp_2m", "ab2"):
        assert (drawn(12, name) - exact).norm() < 0.8 * euler


def test_its_first_steps_are_eulers(pipeline: LensPipeline) -> None:
    """There is nothing to extrapolate from at first, and too little of few steps at the end."""
    euler, multistep = ({"solver": name, "shift": 3} for name in ("euler", "dpmpp_2m"))
    three = {"num_inference_steps": 3}
    assert torch.equal(latents(pipeline, **three, **multistep), latents(pipeline, **three, **euler))
    assert not torch.equal(latents(pipeline, **multistep), latents(pipeline, **euler))


@pytest.mark.parametrize("name", ["dpmpp_2m", "ab2"])
def test_nothing_is_extrapolated_across_a_change_of_guidance(name: SolverName) -> None:
    solver = make_solver(name, [0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    latents = torch.randn(2, 4)

    def extrapolates(step: int, scale: float) -> bool:
        velocity = torch.randn(2, 4)
        return not torch.equal(solver.direction(step, latents, velocity, scale), velocity)

    scales = [5.0, 5.0, 1.0, 1.0, 5.0]
    found = [extrapolates(step, scale) for step, scale in enumerate(scales)]
    assert found == [False, True, False, True, False]


def test_a_shift_replaces_the_one_of_size_and_steps(pipeline: LensPipeline) -> None:
    latents(pipeline, num_inference_steps=4, shift=3)
    expected = [3 * level / (1 + 2 * level) for level in (1, 0.75, 0.5, 0.25, 0)]
    assert pipeline.scheduler.sigmas.tolist() == pytest.approx(expected)
    own = math.exp(compute_mu(16, 4))
    same = {"num_inference_steps": 4, "height": 64, "width": 64}
    torch.testing.assert_close(latents(pipeline, shift=own, **same), latents(pipeline, **same))


@pytest.mark.parametrize(
    "settings",
    [{"solver": "heun"}, {"solver": 2}, {"shift": 0}, {"shift": True}, {"shift": "3"}],
)
def test_what_cannot_be_sampled_with_is_refused(
    pipeline: LensPipeline, settings: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(settings))} .* must be"):
        latents(pipeline, **settings)


@pytest.mark.parametrize("settings", [{"solver": "dpmpp_2m"}, {"shift": 3.0}])
def test_the_published_code_has_neither(pipeline: LensPipeline, settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="has no"):
        latents(pipeline, reference=True, **settings)
