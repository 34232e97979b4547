"""The modulation table against the layers it stands for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_components import GOLDEN, case, max_error, read_json
from lens_core import ParameterError
from lens_core.branch import BranchCache
from lens_core.transformer import LensTransformer2DModel
from tiny_components import tiny_pipeline, tiny_transformer

TIMES = [1.0, 0.9674, 0.9081, 0.7672]


def golden(dtype: torch.dtype) -> LensTransformer2DModel:
    transformer = LensTransformer2DModel.from_config(read_json("transformer_config.json"))
    transformer.load_state_dict(load_file(GOLDEN / "transformer.safetensors"))
    return transformer.eval().to(dtype)


@torch.no_grad()
def run(model: LensTransformer2DModel, time: Tensor, cache: BranchCache | None = None) -> Tensor:
    data = case("transformer", "even")
    features = [data[f"feat{i}"][:1].to(model.dtype) for i in range(4)]
    tokens = data["hidden_states"][:1].to(model.dtype)
    batch = len(time)
    return model(
        tokens.expand(batch, -1, -1),
        [part.expand(batch, -1, -1) for part in features],
        None,
        time,
        [(1, *data["hw"].tolist())],
        branch_cache=cache,
    ).sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_gives_the_layers_own_values_to_the_bit(dtype: torch.dtype) -> None:
    model = golden(dtype)
    times = torch.tensor(TIMES)
    plain = [run(model, time[None]) for time in times]
    with model.with_modulation_table(times):
        tabulated = [run(model, time[None]) for time in times]
        rows = run(model, times)
    assert all(map(torch.equal, plain, tabulated))
    # In a batch each row finds its own time; matrix products of other shapes round differently.
    assert max_error(rows, torch.cat(plain)) < (1e-5 if dtype == torch.float32 else 0.1)
    assert torch.equal(run(model, times[:1]), plain[0])
    assert model.modulation_table is None


def test_the_weights_leave_the_device_and_come_back() -> None:
    model = golden(torch.float32)
    names, before = {*model.state_dict()}, run(model, torch.tensor(TIMES[:1]))
    total = sum(p.numel() for p in model.parameters())
    model.precompute_modulations(TIMES)
    assert {*model.state_dict()} == names
    model.to("meta")
    kept = [p for _, p in model.named_parameters() if p.device.type == "cpu"]
    config = model.config
    linear = config.inner_dim * 6 * config.inner_dim + 6 * config.inner_dim
    assert sum(p.numel() for p in kept) == 2 * config.num_layers * linear > 0.3 * total
    model = golden(torch.float32)
    model.precompute_modulations(TIMES)
    model.restore_modulations()
    model.restore_modulations()
    assert torch.equal(run(model, torch.tensor(TIMES[:1])), before)


def test_the_full_model_keeps_two_thirds() -> None:
    with torch.device("meta"):
        model = LensTransformer2DModel()
    away = sum(p.numel() for name, p in model.named_parameters() if "_mod." in name)
    assert away == 48 * 2 * (1536 * 9216 + 9216) == 1_359_839_232


def test_a_time_that_is_not_in_the_table_is_named() -> None:
    model = golden(torch.float32)
    model.precompute_modulations(TIMES)
    with pytest.raises(ParameterError, match=r"0\.5.*not in the modulation table"):
        run(model, torch.tensor([0.5]))
    assert model.modulation_table is not None
    assert model.modulation_table.rows[-1].isnan().all()
    with pytest.raises(ParameterError, match="from 0 to 1"):
        model.precompute_modulations([900.0])
    with pytest.raises(ParameterError, match="one or more"):
        model.precompute_modulations([])


def pictures(pipeline: object, **arguments: object) -> Tensor:
    settings = {"guidance_scale": 3.0, "output_type": "latent"} | arguments
    generator = torch.Generator().manual_seed(3)
    return pipeline("two red apples", generator=generator, **settings).images


def test_a_pipeline_makes_its_tables_itself() -> None:
    pipeline = tiny_pipeline()
    plain = [pictures(pipeline, num_inference_steps=steps) for steps in (2, 3)]
    pipeline.transformer.keeps_modulation_table = True
    made = [pictures(pipeline, num_inference_steps=steps) for steps in (2, 3)]
    table = pipeline.transformer.modulation_table
    again = pictures(pipeline, num_inference_steps=3)
    assert table is not None
    assert pipeline.transformer.modulation_table is table
    assert torch.equal(again, plain[1])
    assert all(map(torch.equal, made, plain))


@pytest.mark.parametrize(
    "layer", ["transformer_blocks.0.img_mod.1", "time_text_embed.timestep_embedder.linear_1"]
)
def test_changed_weights_make_a_new_table(layer: str) -> None:
    pipeline = tiny_pipeline()
    pipeline.transformer.keeps_modulation_table = True
    before = pictures(pipeline)
    with torch.no_grad():
        pipeline.transformer.get_parameter(f"{layer}.weight").mul_(3)
    changed = pictures(pipeline)
    assert max_error(changed, before) > 1e-3
    pipeline.transformer.keeps_modulation_table = False
    pipeline.transformer.restore_modulations()
    assert torch.equal(pictures(pipeline), changed)


@pytest.mark.parametrize("targets", [["img_mod.1", "attn.img_qkv"], ["linear_1", "linear_2"]])
def test_a_lora_on_what_the_table_says_works_through_it(tmp_path: Path, targets: list[str]) -> None:
    from peft import LoraConfig

    source = tiny_pipeline()
    source.transformer.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    source.transformer.save_lora_adapter(tmp_path, adapter_name="default")

    def draw(tabulated: bool) -> list[Tensor]:
        pipeline = tiny_pipeline()
        pipeline.transformer.keeps_modulation_table = tabulated
        found = [pictures(pipeline)]
        name = pipeline.load_lora_weights(tmp_path / "pytorch_lora_weights.safetensors")
        found.append(pictures(pipeline))
        pipeline.set_adapters([name], [0.5])
        found.append(pictures(pipeline))
        pipeline.unload_lora_weights()
        found.append(pictures(pipeline))
        assert (pipeline.transformer.modulation_table is not None) == tabulated
        return found

    plain, tabulated = draw(False), draw(True)
    assert max_error(plain[1], plain[0]) > 1e-3
    assert max_error(plain[2], plain[1]) > 1e-3
    assert all(map(torch.equal, tabulated, plain))


def test_constants_of_a_branch_are_computed_once_and_only_for_the_same_inputs() -> None:
    model = tiny_transformer()
    calls: list[Tensor] = []
    model.txt_in.register_forward_hook(lambda _module, _inputs, output: calls.append(output))
    features = [torch.randn(1, 5, 16) for _ in range(2)]
    others = [torch.randn(1, 5, 16) for _ in range(2)]
    cache, grid = BranchCache(), (3, 4)
    tokens = torch.randn(1, 12, 16)

    @torch.no_grad()
    def step(features: list[Tensor], grid: tuple[int, int], cache: BranchCache | None) -> Tensor:
        return model(
            tokens, features, None, torch.tensor([0.5]), [(1, *grid)], branch_cache=cache
        ).sample

    for inputs, size in ((features, grid), (features, grid), (others, grid), (others, (2, 6))):
        assert torch.equal(step(inputs, size, cache), step(inputs, size, None))
    assert len(calls) == 4 + 3
