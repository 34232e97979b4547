"""Recording forward passes, with a recorder that repeats the work on the same buffers."""

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_components import max_error
from lens_core.pipeline import LensPipeline
from lens_core.speed import PLAIN, SpeedPlan, accelerate
from lens_core.speed.graphs import StepGraphs
from tiny_components import tiny_pipeline


class Repeating:
    """Stands for CUDA: a replay sees the buffers alone, and overwrites its last result."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def can_record(self, device: torch.device) -> bool:
        return True

    def record(self, work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        self.recorded += 1
        assert device == torch.device("cpu")
        # What is recorded with gradients would keep every activation for a backward pass.
        made = work()
        assert not torch.is_grad_enabled()
        assert not made.requires_grad
        result = made.clone()

        def replay() -> Tensor:
            self.replayed += 1
            return result.copy_(work())

        return replay


def recorded(pipeline: LensPipeline, most: int = 8) -> Repeating:
    recorder = Repeating()
    graphs = StepGraphs(pipeline.transformer, recorder, most)
    pipeline.transformer.predict = graphs
    pipeline.transformer.preparations = (graphs,)
    return recorder


def draw(pipeline: LensPipeline, prompt: str = "two red apples", **arguments: Any) -> Tensor:
    settings = {"num_inference_steps": 3, "output_type": "latent", "seed": 3} | arguments
    return pipeline(prompt, **settings).images


def test_copies_record_for_themselves() -> None:
    pipeline = accelerate(tiny_pipeline(), PLAIN)
    recorder = recorded(pipeline)
    expected = draw(pipeline)
    for copied in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        (graphs,) = copied.transformer.preparations
        assert copied.transformer.predict is graphs
        assert torch.equal(draw(copied), expected)
        with torch.no_grad():
            copied.transformer.proj_out.weight.zero_()
        assert not draw(copied).equal(expected)
        assert torch.equal(draw(pipeline), expected)
    assert recorder.recorded == 2


@pytest.mark.parametrize("plan", [PLAIN, SpeedPlan(modulation_table=True)])
def test_pictures_are_the_plain_ones_whatever_changes_between_calls(plan: SpeedPlan) -> None:
    plain, pipeline = accelerate(tiny_pipeline(), plan), accelerate(tiny_pipeline(), plan)
    recorder = recorded(pipeline)
    first = draw(pipeline)
    # Both branches: the first step plainly, then recorded, then again.
    assert (recorder.recorded, recorder.replayed) == (2, 2 * 2)
    assert torch.equal(first, draw(plain))
    changes: list[dict[str, Any]] = [
        {"prompt": "two big apples"},
        {"guidance_scale": 7.0},
        {"guidance_scale": 1.0, "seed": 4},
        {"num_inference_steps": 5, "negative_prompt": "a blue cup"},
        # As many tokens, in other places.
        {"height": 48, "width": 64},
        {"num_images_per_prompt": 2},
        {},
    ]
    outcomes = [first]
    for change in changes:
        outcomes.append(draw(pipeline, **change))
        assert torch.equal(outcomes[-1], draw(plain, **change)), change
    assert torch.equal(outcomes[0], outcomes[-1])
    same = [one for one in outcomes[:-1] if one.shape == first.shape]
    pairs = [(a, b) for i, a in enumerate(same) for b in same[:i]]
    assert all(max_error(one, other) > 1e-4 for one, other in pairs)


def test_another_shape_is_recorded_anew_and_an_old_one_is_not() -> None:
    pipeline = tiny_pipeline()
    recorder = recorded(pipeline, most=2)
    for width, count in ((32, 1), (48, 2), (32, 2), (64, 3), (48, 4), (48, 4)):
        # At 64 the shape that was not drawn for longest makes room.
        draw(pipeline, guidance_scale=1.0, height=32, width=width)
        assert recorder.recorded == count
    # What is asked for once is never recorded.
    draw(pipeline, guidance_scale=1.0, num_inference_steps=1, height=16, width=16)
    assert recorder.recorded == 4


def test_changed_weights_and_loras_are_recorded_anew() -> None:
    from peft import LoraConfig

    plain, pipeline = tiny_pipeline(), tiny_pipeline()
    recorder = recorded(pipeline)

    def both(count: int) -> Tensor:
        found = draw(pipeline)
        assert torch.equal(found, draw(plain))
        assert recorder.recorded == count
        return found

    outcomes = [both(2), both(2)]
    for one in (plain, pipeline):
        block = one.transformer.transformer_blocks[0]
        block.img_mod[1].weight = torch.nn.Parameter(block.img_mod[1].weight * 3)
    outcomes.append(both(4))
    for one in (plain, pipeline):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["attn.img_qkv"], init_lora_weights=False)
        one.transformer.add_adapter(config)
    outcomes.append(both(6))
    for one in (plain, pipeline):
        one.transformer.disable_adapters()
    both(8)
    assert max_error(outcomes[0], outcomes[2]) > 1e-4
    assert max_error(outcomes[2], outcomes[3]) > 1e-4


def test_with_gradients_nothing_is_recorded_and_without_cuda_it_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline = tiny_pipeline()
    recorder = recorded(pipeline)
    tokens = torch.randn(1, 4, 16, requires_grad=True)
    for _ in range(3):
        pipeline.transformer(
            tokens, None, None, torch.tensor([0.5]), [(1, 2, 2)]
        ).sample.sum().backward()
    assert recorder.recorded == 0
    before = draw(accelerate(pipeline, PLAIN))
    with caplog.at_level(logging.WARNING):
        accelerate(pipeline, "cuda-graphs")
    assert "cuda_graphs left out: the denoiser is on cpu" in caplog.text
    assert torch.equal(draw(pipeline), before)
    # The real recorder says so too, should the model be moved later.
    pipeline.transformer.predict = StepGraphs(pipeline.transformer)
    assert torch.equal(draw(pipeline), before)
