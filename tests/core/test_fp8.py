"""Products in 8 bits: the arithmetic, the layers it is for, and what must not change."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lens_core import ComponentError, LensTransformer2DModel, ParameterError
from lens_core.bench.configs import open_gates
from lens_core.memory.plan import MemoryPlan
from lens_core.speed import PLAIN, SpeedPlan, accelerate, fp8
from lens_core.speed.accelerate import accelerate_transformer
from lens_core.speed.fp8 import Fp8Linear, multiply, quantise_rows
from tiny_components import tiny_pipeline, tiny_transformer


def _torch_scales_rows() -> bool:
    one = torch.ones(16, 16).to(torch.float8_e4m3fn)
    scales = torch.ones(16, 1)
    try:
        torch._scaled_mm(one, one.t(), scales, scales.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not _torch_scales_rows(), reason="this torch has no such product on the CPU"
)

FACTOR = 6
"""How much further from float32 a path in 8 bits may be than the plain one in bfloat16."""

CAREFUL = {"attn.img_qkv", "attn.to_out.0"}
OTHERS = {"img_mlp.w2", "attn.txt_qkv", "attn.to_add_out", "txt_mlp.w2"}


def small(dtype: torch.dtype = torch.bfloat16) -> LensTransformer2DModel:
    """Deep enough for rounding to add up; all sides are multiples of 16."""
    torch.manual_seed(0)
    sizes = {"num_layers": 6, "num_attention_heads": 3, "inner_dim": 192, "enc_hidden_dim": 64}
    model = LensTransformer2DModel(**sizes).eval()
    open_gates(model)
    return model.to(dtype)


@torch.no_grad()
def velocity(model: LensTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 64, 128, generator=generator).to(model.dtype)
    # A few channels far beyond the others, as in the real text features.
    features = [torch.randn(1, 24, 64, generator=generator) * 100 for _ in range(4)]
    for layer in features:
        layer[..., :2] *= 50
    layers = [layer.to(model.dtype) for layer in features]
    model.follow_schedule(torch.tensor([0.9]))
    return model(tokens, layers, None, torch.tensor([0.9]), [(1, 8, 8)]).sample.float()


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def rounded_layers(model: nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(layer, Fp8Linear)}


def test_rows_are_rounded_by_their_own_scale_and_products_are_exact_sums_of_codes() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    x[1] *= 1e5
    x[2] *= 1e-6
    x[3] = 0
    x[4, 3] = torch.inf
    codes, scales = quantise_rows(x)
    back = codes.float() * scales
    # Three bits of mantissa; what is 2^14 times smaller than the largest may vanish.
    assert bool(((back - x.float()).abs() <= x.float().abs() / 16 + scales / 512)[:4].all())
    assert back[:4].abs().amax(1).tolist() == pytest.approx(x[:4].float().abs().amax(1).tolist())
    assert bool(back[4].isnan().all())
    weight, bias = torch.randn(48, 64), torch.randn(48, dtype=torch.bfloat16)
    weights = quantise_rows(weight)
    found = multiply(x[:4].view(2, 2, 64), *weights, bias)
    expected = back[:4].double() @ (weights[0].double() * weights[1]).T + bias.double()
    assert found.shape == (2, 2, 48)
    assert found.dtype == torch.bfloat16
    assert distance(found.view(4, 48), expected) < 2**-8


@pytest.mark.parametrize(("layers", "names"), [("careful", CAREFUL), ("all", CAREFUL | OTHERS)])
def test_the_chosen_layers_are_within_the_stated_error(layers: Any, names: set[str]) -> None:
    exact = velocity(small(torch.float32))
    model = small()
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = velocity(model)
    yardstick = distance(plain, exact)
    accelerate_transformer(model, SpeedPlan(fp8=layers))
    error = distance(velocity(model), exact)
    assert 1.5 * yardstick < error <= FACTOR * yardstick
    assert rounded_layers(model.transformer_blocks[3]) == names
    mlps = [name for name, _ in model.transformer_blocks[0].named_buffers() if "mlp" in name]
    assert any(name.startswith("img_mlp.gate_up") for name in mlps)
    assert any(name.startswith("txt_mlp") for name in mlps) == (layers == "all")
    # The weights themselves, and their names, are as they were.
    assert [*model.state_dict()] == [*saved]
    assert all(torch.equal(model.state_dict()[name], saved[name]) for name in saved)
    accelerate_transformer(model, PLAIN)
    assert torch.equal(velocity(model), plain)
    assert not rounded_layers(model)
    assert not [*model.buffers()]


def test_the_compiler_takes_a_block_whole() -> None:
    model = small()
    accelerate_transformer(model, SpeedPlan(fp8="all", fused_mlp=True))
    plain = velocity(model)
    for block in model.transformer_blocks[:2]:
        block.compile(backend="eager", fullgraph=True)
    assert torch.equal(velocity(model), plain)
    # A change of precision casts codes as well; they are made anew.
    model.to(torch.bfloat16)
    assert torch.equal(velocity(model), plain)


def test_the_8_bit_form_follows_the_weights() -> None:
    model, other = small(), small()
    with torch.no_grad():
        for name in ("attn.img_qkv", "img_mlp.w1"):
            other.transformer_blocks[0].get_submodule(name).weight.mul_(1.5)
    accelerate_transformer(model, SpeedPlan(fp8="all"))
    before = velocity(model)
    codes = model.transformer_blocks[1].attn.img_qkv.codes
    velocity(model)
    assert model.transformer_blocks[1].attn.img_qkv.codes is codes
    model.load_state_dict(other.state_dict())
    accelerate_transformer(other, SpeedPlan(fp8="all"))
    assert torch.equal(velocity(model), velocity(other))
    assert distance(velocity(model), before) > 1e-2


@pytest.mark.parametrize("plan", [SpeedPlan(fp8="all"), SpeedPlan(fp8="careful", fused_mlp=True)])
def test_copies_and_pickles_make_their_own_8_bit_form(plan: SpeedPlan) -> None:
    model = small()
    accelerate_transformer(model, plan)
    expected = velocity(model)
    sizes = len(pickle.dumps(small())), len(pickle.dumps(model))
    assert sizes[1] < 1.2 * sizes[0]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(velocity(copied), expected)
        assert rounded_layers(copied) == rounded_layers(model)
        with torch.no_grad():
            copied.transformer_blocks[0].img_mlp.w1.weight.mul_(1.5)
            copied.transformer_blocks[0].attn.img_qkv.weight.mul_(1.5)
        changed = velocity(copied)
        assert distance(changed, expected) > 1e-2
        assert torch.equal(velocity(model), expected)
        accelerate_transformer(copied, PLAIN)
        assert 0 < distance(velocity(copied), changed) < 0.2
        assert not [*copied.buffers()]
    pipeline = accelerate(tiny_pipeline().to(torch.bfloat16), plan)
    arguments = {"seed": 1, "num_inference_steps": 2, "output_type": "latent"}
    again = pickle.loads(pickle.dumps(pipeline))
    assert torch.equal(again("a cup", **arguments)[0], pipeline("a cup", **arguments)[0])


def test_loras_work_on_top_whenever_they_come(tmp_path: Path) -> None:
    from peft import LoraConfig

    def adapted(model: LensTransformer2DModel) -> LensTransformer2DModel:
        torch.manual_seed(3)
        targets = ["attn.img_qkv", "img_mlp.w1", "img_mlp.w2"]
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        return model

    plan = SpeedPlan(fp8="all")
    plain = adapted(small())
    expected = velocity(plain)
    after, before = small(), adapted(small())
    accelerate_transformer(after, plan)
    without = velocity(after)
    adapted(after)
    accelerate_transformer(before, plan)
    assert torch.equal(velocity(before), velocity(after))
    assert distance(velocity(after), expected) < 0.3 * distance(without, expected)
    # Fused into the weights, whose version does not tell: the adapters' state does.
    for model in (plain, after):
        model.fuse_lora()
    assert distance(velocity(after), velocity(plain)) < 0.3 * distance(without, expected)
    after.unload_lora()
    accelerate_transformer(after, PLAIN)
    after.save_pretrained(tmp_path)
    loaded = LensTransformer2DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert torch.equal(velocity(loaded), velocity(after))


def test_where_it_cannot_run_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ComponentError, match="fp8 cannot be used: the denoiser is in"):
        accelerate(tiny_pipeline(), "fp8")
    assert "'mps'" in str(fp8.fp8_problem(torch.device("mps"), torch.bfloat16))
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    with pytest.raises(ComponentError, match=r"A100 has compute capability 8\.0, .* need 8\.9"):
        fp8.require_fp8(device, torch.bfloat16)
    with pytest.raises(ParameterError, match="fp8 'some' must be"):
        SpeedPlan(fp8="some")  # type: ignore[arg-type]
    pipeline = tiny_pipeline()
    pipeline.transformer.to(torch.bfloat16)
    moving = MemoryPlan(transformer="offload")
    pipeline.apply_memory(moving, "cpu")
    with pytest.raises(ComponentError, match="memory plan moves"):
        accelerate(pipeline, SpeedPlan(fp8="careful"))
    pipeline.release_memory()
    accelerate(pipeline, SpeedPlan(fp8="careful"))
    with pytest.raises(ParameterError, match="keeps other forms"):
        pipeline.apply_memory(moving, "cpu")


def test_layers_of_other_sides_stay_as_they_are() -> None:
    model = tiny_transformer(inner_dim=48, num_attention_heads=3).to(torch.bfloat16)
    narrow = tiny_transformer(inner_dim=24, num_attention_heads=3, attention_head_dim=8,
                              axes_dims_rope=(4, 2, 2)).to(torch.bfloat16)  # fmt: skip
    for one, rounded in ((model, True), (narrow, False)):
        accelerate_transformer(one, SpeedPlan(fp8="all"))
        assert bool(rounded_layers(one)) == rounded
