"""Fine-tuning beside weights in 8 bits: the gradients are those of the rounded weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchao")

from lens_core.memory.dry_run import Work
from lens_core.memory.footprint import planned_footprint
from lens_core.memory.plan import PLANS, MemoryPlan
from lens_core.memory.quantise import is_quantised, quantise, quantised_layers
from lens_core.memory.tensors import cast_parameters, module_bytes
from lens_core.training.lora.dry_run import dry_run_step
from lens_core.transformer import LensTransformer2DModel
from memory_probes import Cloning, measured
from mid_lora import SIDE, TOKENS, learn, mid_lora, vivid_transformer
from mid_size import mid_transformer


def unpacked(form: str) -> LensTransformer2DModel:
    """The rounded values in full, without torchao's tensors."""
    model = vivid_transformer()
    quantise(model, form)  # type: ignore[arg-type]
    for layer in quantised_layers(model):
        weight: Any = layer.weight
        layer.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
    assert not is_quantised(model)
    return model


@pytest.mark.parametrize("form", ["fp8", "int8"])
@pytest.mark.parametrize("checkpointing", ["none", "selective"])
def test_adapters_learn_what_they_would_beside_the_rounded_values(
    form: str, checkpointing: str
) -> None:
    plan = MemoryPlan(transformer_weights=form)  # type: ignore[arg-type]
    expected_losses, expected = learn(mid_lora(PLANS["resident"], model=unpacked(form)))
    made = mid_lora(plan, activation_checkpointing=checkpointing)
    assert is_quantised(made.network.model)
    losses, adapters = learn(made)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(adapters[name], tensor, atol=2e-4, rtol=1e-3)
    plain, _ = learn(mid_lora(PLANS["resident"]))
    assert losses != pytest.approx(plain, rel=1e-5)


def test_rounded_blocks_are_streamed_to_the_same_bits() -> None:
    plan = MemoryPlan(transformer_weights="int8")

    def learnt(placed: MemoryPlan) -> tuple[list[float], dict[str, Tensor]]:
        return learn(mid_lora(placed, Cloning()))

    losses, adapters = learnt(plan)
    streamed_losses, streamed = learnt(replace(plan, transformer="stream"))
    assert streamed_losses == losses
    assert all(torch.equal(streamed[name], tensor) for name, tensor in adapters.items())


def test_a_step_takes_what_was_predicted() -> None:
    """Also in bfloat16, as on a card: one block's matrices are in full at a time."""
    model = vivid_transformer()
    cast_parameters(model, torch.bfloat16)
    made = mid_lora(MemoryPlan(transformer_weights="fp8"), model=model, precision="bfloat16")
    for block in made.network.blocks:
        block.attn.backend = None
    learn(made, 1)
    found = measured(lambda: learn(made, 1))
    settings = made.config.model_copy(update={"activation_checkpointing": "full"})
    step, _ = dry_run_step(settings, Work(SIDE, SIDE, 2, TOKENS))  # type: ignore[arg-type]
    block = mid_transformer().to(torch.bfloat16).transformer_blocks[0]
    assert found == pytest.approx(step + module_bytes(quantised_layers(block)), rel=0.2)
    whole = planned_footprint(model, "full", False).total
    assert found < whole
