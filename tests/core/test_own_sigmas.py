"""A checkpoint made for noise levels of its own is trained, saved and drawn on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lens_core import CheckpointError, LensPipeline, ParameterError
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.schedule import StudentSchedule, student_levels
from lens_core.training.renderer import Renderer
from tiny_components import tiny_pipeline

OWN = (1.0, 0.4, 0.1)


def _pipeline() -> LensPipeline:
    pipeline = tiny_pipeline()
    pipeline.defaults = replace(pipeline.defaults, num_inference_steps=3, sigmas=OWN)
    return pipeline


def _latents(pipeline: LensPipeline, **settings: object) -> torch.Tensor:
    latents: torch.Tensor = pipeline("a cup", seed=3, output_type="latent", **settings).images
    return latents


def test_a_checkpoint_is_drawn_on_its_own_levels_for_its_own_number_of_steps() -> None:
    own, even = _pipeline(), tiny_pipeline()
    expected = _latents(even, sigmas=OWN)
    assert torch.equal(_latents(own), expected)
    assert torch.equal(_latents(own, num_inference_steps=3), expected)
    assert not torch.equal(_latents(even, num_inference_steps=3), expected)
    assert torch.equal(_latents(own, num_inference_steps=4), _latents(even, num_inference_steps=4))


def test_own_levels_are_saved_and_read(tmp_path: Path) -> None:
    _pipeline().save_pretrained(tmp_path / "own")
    loaded = LensPipeline.from_pretrained(tmp_path / "own")
    assert loaded.defaults == _pipeline().defaults
    tiny_pipeline().save_pretrained(tmp_path / "even")
    assert "sigmas" not in (tmp_path / "even" / "model_index.json").read_text()


@pytest.mark.parametrize(
    ("sigmas", "reason"),
    [
        ([1.0, 0.5], "3 and 2 sigmas contradict"),
        ([1.0, 0.5, 0.7], "must be numbers that fall"),
        (0.5, "must be numbers that fall"),
        ("even", "must be a list of numbers"),
    ],
)
def test_levels_that_are_none_are_refused(tmp_path: Path, sigmas: object, reason: str) -> None:
    _pipeline().save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    index["_lens_defaults"]["sigmas"] = sigmas
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=reason):
        LensPipeline.from_pretrained(tmp_path)


def test_the_student_trains_where_its_checkpoint_draws() -> None:
    pipeline = _pipeline()
    config = DistillConfig(
        steps=1, batch_size=1, learning_rate=1.0, student_steps=3, student_sigmas=OWN
    )
    schedule = StudentSchedule.create(12, student_levels(config))
    renderer = Renderer(pipeline, torch.device("cpu"))
    drawn: list[float] = []
    _latents(
        pipeline,
        on_step=lambda report: drawn.append(float(pipeline.scheduler.sigmas[report.step])),
    )
    assert schedule.sigmas[1:] == pytest.approx(drawn)
    assert renderer.sigmas((64, 48), pipeline.default_sigmas()) == list(schedule.sigmas)
    assert schedule.shift(torch.tensor(schedule.levels)).tolist() == pytest.approx(
        schedule.sigmas[:3]
    )


@pytest.mark.parametrize("sigmas", [(1.0, 0.5), (0.9, 0.5, 0.2), (1.0, 0.2, 0.5)])
def test_levels_a_student_cannot_have_are_refused(sigmas: tuple[float, ...]) -> None:
    config = DistillConfig(
        steps=1, batch_size=1, learning_rate=1.0, student_steps=3, student_sigmas=sigmas
    )
    with pytest.raises(ParameterError, match="sigmas"):
        student_levels(config)
