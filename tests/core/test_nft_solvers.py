"""Solvers of the rollouts: their order, their ends, and the pipeline's own."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lens_core.sampling import guide
from lens_core.solvers import SolverName, multistep_orders
from lens_core.text_features import TextFeatures
from lens_core.training.fields import GuidedField
from lens_core.training.nft.policy import Policy
from lens_core.training.renderer import Renderer
from lens_core.training.solvers import integrate
from tiny_components import tiny_pipeline, tiny_transformer
from tiny_stages import tiny_rl


class GaussianField:
    """The exact velocity where clean latents are normal with mean `m` and deviation `s`."""

    def __init__(self, m: float, s: float) -> None:
        self.m, self.s = m, s

    def __call__(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        t = timesteps[:, None, None]
        mean, variance = (1 - t) * self.m, (1 - t) ** 2 * self.s**2 + t**2
        clean = self.m + (1 - t) * self.s**2 / variance * (latents - mean)
        return (latents - clean) / t


# The solver.


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpmpp_2m", 2), ("ab2", 2)])
def test_solver_has_its_order(solver: SolverName, order: int) -> None:
    """The error on a problem with a known flow shrinks by 2 ** order when steps double.

    Away from pure noise and pure data, where log(alpha / sigma) is infinite.
    """
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None]

    def exact(sigma: float) -> Tensor:
        return (1 - sigma) * 0.7 + math.hypot((1 - sigma) * 2.0, sigma) * latents

    def error(steps: int) -> float:
        sigmas = torch.linspace(3.0, -2.0, steps + 1, dtype=torch.float64).sigmoid().tolist()
        found = integrate(GaussianField(0.7, 2.0), exact(sigmas[0]), None, sigmas, solver)
        return float((found - exact(sigmas[-1])).abs().max())

    assert error(32) / error(64) == pytest.approx(2**order, rel=0.2)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ab2"])
def test_solver_ends_at_the_data(solver: SolverName) -> None:
    noise = torch.linspace(-2, 2, 9)[None, :, None]
    sigmas = np.linspace(1, 0, 51).tolist()
    found = integrate(GaussianField(0.7, 0.3), noise, None, sigmas, solver)
    torch.testing.assert_close(found, 0.7 + 0.3 * noise, atol=0.01, rtol=0)


def test_solver_is_first_order_at_its_ends() -> None:
    assert multistep_orders(10) == (1, 2, 2, 2, 2, 2, 2, 2, 1, 1)
    assert multistep_orders(16) == (1, *(2,) * 14, 1)
    assert multistep_orders(1) == (1,)


def test_euler_draws_what_the_pipeline_draws() -> None:
    pipeline = tiny_pipeline()
    renderer = Renderer(pipeline, torch.device("cpu"))
    noise = renderer.noise((64, 48), [torch.Generator().manual_seed(5)])
    config = tiny_rl()
    field = Policy.create(config, tiny_transformer()).field(renderer.grid((64, 48)))
    text = renderer.features(["a red cup"])
    found = integrate(
        field, noise, text, renderer.sigmas((64, 48), pipeline.default_sigmas(3)), "euler"
    )
    expected = pipeline(
        "a red cup",
        latents=noise,
        num_inference_steps=3,
        guidance_scale=1.0,
        output_type="latent",
    ).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_guidance_is_that_of_inference() -> None:
    calls: list[bool] = []

    def field(latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        calls.append(text is not None)
        return latents if text is None else latents.flip(-1)

    x, t = torch.randn(2, 3, 4), torch.ones(2)
    text = TextFeatures(torch.zeros(1, 2, 1, 4), torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(GuidedField(field, 5.0)(x, t, text), guide(x.flip(-1), x, 5.0))
    assert calls == [True, False]
    torch.testing.assert_close(GuidedField(field, 1.0)(x, t, text), x.flip(-1))
    assert calls == [True, False, True]
