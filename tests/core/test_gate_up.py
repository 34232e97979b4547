"""The two products that an MLP begins with, computed as one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lens_core import LensTransformer2DModel
from lens_core.blocks import SwiGLU
from lens_core.memory.plan import MemoryPlan
from lens_core.speed import PLAIN, SpeedPlan, accelerate
from lens_core.speed.accelerate import accelerate_transformer
from lens_core.speed.gate_up import tie, untie
from tiny_components import tiny_pipeline, tiny_transformer

FUSED = SpeedPlan(fused_mlp=True)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func._schema.name in {"aten::mm", "aten::addmm"}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def velocity(model: LensTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 12, 16, generator=generator).to(model.dtype)
    layers = [torch.randn(1, 5, 16, generator=generator).to(model.dtype) for _ in range(2)]
    model.follow_schedule(torch.tensor([0.9]))
    return model(tokens, layers, None, torch.tensor([0.9]), [(1, 3, 4)]).sample


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_one_product_gives_what_two_give(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mlp, x = SwiGLU(192).to(dtype), torch.randn(2, 70, 192, dtype=dtype)
    with torch.no_grad(), Products() as two:
        plain = mlp(x)
    tie(mlp)
    with torch.no_grad(), Products() as one:
        fused = mlp(x)
    assert (two.count, one.count) == (3, 2)
    # Of the same numbers, each sum in an order that the library may choose anew.
    assert float((fused - plain).abs().max()) <= 2 * torch.finfo(dtype).eps * plain.abs().max()
    untie(mlp)
    assert torch.equal(mlp(x), plain)


def test_weights_keep_names_and_memory_and_both_ways_see_what_is_loaded(tmp_path: Path) -> None:
    model, other = tiny_transformer(), tiny_transformer()
    with torch.no_grad():
        other.transformer_blocks[0].img_mlp.w3.weight.mul_(-2)
    plain, changed = velocity(model), velocity(other)
    names = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerate_transformer(model, FUSED)
    mlp = model.transformer_blocks[0].txt_mlp
    assert mlp.w1.weight.data_ptr() == mlp.gate_up.data_ptr()
    assert mlp.w3.weight.data_ptr() == mlp.gate_up[mlp.w1.out_features :].data_ptr()
    assert [*model.state_dict()] == [*names]
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], names[name]) for name in names)
    assert torch.allclose(velocity(model), plain, atol=1e-6)
    model.load_state_dict(other.state_dict())
    assert torch.allclose(velocity(model), changed, atol=1e-6)
    # A move gives weights other places; they become halves of one tensor again.
    model.to(torch.bfloat16)
    velocity(model)
    assert mlp.w1.weight.data_ptr() == mlp.gate_up.data_ptr()
    accelerate_transformer(model.float(), PLAIN)
    assert not [*model.buffers()]
    assert mlp.w1.weight.untyped_storage().data_ptr() != mlp.w3.weight.untyped_storage().data_ptr()


def test_adapters_on_the_layers_are_not_passed_over() -> None:
    from peft import LoraConfig

    def adapted(model: LensTransformer2DModel) -> LensTransformer2DModel:
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["img_mlp.w1"], init_lora_weights=False)
        model.add_adapter(config)
        return model

    plain = velocity(adapted(tiny_transformer()))
    model = tiny_transformer()
    accelerate_transformer(model, FUSED)
    without = velocity(model)
    adapted(model)
    assert torch.allclose(velocity(model), plain, atol=1e-6)
    model.fuse_lora()
    assert torch.allclose(velocity(model), plain, atol=1e-5)
    model.unload_lora()
    assert torch.allclose(velocity(model), plain, atol=1e-5)
    assert not torch.allclose(without, plain, atol=1e-3)
    with Products() as products:
        velocity(model)
    accelerate_transformer(model, PLAIN)
    with Products() as apart:
        velocity(model)
    # Both streams of the first block, the image of the second.
    assert apart.count - products.count == 3


def test_a_memory_plan_that_moves_weights_leaves_it_out() -> None:
    pipeline = tiny_pipeline()
    pipeline.apply_memory(MemoryPlan(transformer="offload"), "cpu")
    accelerate(pipeline, FUSED)
    assert not any("gate_up" in name for name, _ in pipeline.transformer.named_buffers())
