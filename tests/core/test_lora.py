"""LoRAs: every key style, several at once, fused, swapped, saved."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fake_hub import serve
from golden_components import max_error
from lens_core import CheckpointError, LensPipeline, ParameterError
from lens_core.checkpoints.hub import Hub
from lens_core.checkpoints.inspect import component_of
from lens_core.checkpoints.lora_files import lora_digest, read_lora
from lora_files import MODULES, SHAPES, STYLES, output, random_pairs, with_changes, write
from tiny_components import tiny_pipeline, tiny_transformer


@pytest.fixture
def pipeline() -> LensPipeline:
    return tiny_pipeline()


@pytest.mark.parametrize("style", STYLES)
def test_every_key_style_does_the_same(pipeline: LensPipeline, tmp_path: Path, style: str) -> None:
    pairs = random_pairs(4, 1)
    alpha = 2.0 if style in ("kohya", "lora_transformer", "diffusion_model") else None
    path = write(tmp_path / "lora.safetensors", pairs, style, alpha)
    name = pipeline.load_lora_weights(path, weight=0.7)
    scale = 0.7 if alpha is None else 0.7 * alpha / 4
    expected = with_changes((pairs, scale))
    assert max_error(output(pipeline.transformer), expected) < 2e-6
    assert max_error(expected, output(tiny_transformer())) > 1e-2
    assert pipeline.loras == {name: 0.7}
    info = component_of(path)
    assert info.component == "LoRA"


def test_several_work_at_once_each_with_its_weight(pipeline: LensPipeline, tmp_path: Path) -> None:
    first, second = random_pairs(4, 1), random_pairs(2, 2, MODULES[::2])
    pipeline.load_lora_weights(write(tmp_path / "1.safetensors", first), "style_one")
    second_path = write(tmp_path / "2.safetensors", second, "kohya", 1.0)
    pipeline.load_lora_weights(second_path, "style_two", weight=0.4)
    both = with_changes((first, 1.0), (second, 0.4 * 0.5))
    assert max_error(output(pipeline.transformer), both) < 2e-6
    pipeline.set_adapters(["style_two", "style_one"], [2.0, -0.5])
    found = output(pipeline.transformer)
    assert max_error(found, with_changes((first, -0.5), (second, 1.0))) < 2e-6
    pipeline.set_adapters("style_two")
    assert pipeline.loras == {"style_one": 0.0, "style_two": 1.0}
    assert max_error(output(pipeline.transformer), with_changes((second, 0.5))) < 2e-6
    pipeline.set_adapters([])
    assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))
    pipeline.set_adapters("style_one")
    pipeline.delete_adapters("style_two")
    assert max_error(output(pipeline.transformer), with_changes((first, 1.0))) < 2e-6
    pipeline.delete_adapters("style_one")
    assert pipeline.loras == {}
    assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))


def test_fused_loras_do_the_same_and_can_be_taken_out(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    first, second = random_pairs(4, 1), random_pairs(2, 2)
    path = write(tmp_path / "1.safetensors", first)
    pipeline.load_lora_weights(path, "one", 0.8)
    pipeline.load_lora_weights(write(tmp_path / "2.safetensors", second), "two", 0.0)
    pipeline.fuse_lora()
    assert max_error(output(pipeline.transformer), with_changes((first, 0.8))) < 2e-6
    weight = pipeline.transformer.get_submodule(MODULES[0]).base_layer.weight.detach()
    original = tiny_transformer().get_submodule(MODULES[0]).weight.detach()
    assert max_error(weight, original) > 1e-2
    for change in (
        lambda: pipeline.load_lora_weights(path, "three"),
        lambda: pipeline.set_adapters("one"),
        lambda: pipeline.delete_adapters("one"),
        pipeline.fuse_lora,
    ):
        with pytest.raises(ParameterError, match="unfuse_lora"):
            change()
    pipeline.unfuse_lora()
    assert torch.equal(weight, original)
    pipeline.set_adapters("two")
    assert max_error(output(pipeline.transformer), with_changes((second, 1.0))) < 2e-6
    with pytest.raises(ParameterError, match="not fused"):
        pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))
    with pytest.raises(ParameterError, match="no LoRA to fuse"):
        pipeline.fuse_lora()


@pytest.mark.parametrize("target_rank", [None, 8])
def test_loras_are_swapped_in_place(
    pipeline: LensPipeline, tmp_path: Path, target_rank: int | None
) -> None:
    # One name is part of the other, and both are part of the modules' names.
    first, second, third = random_pairs(4, 1), random_pairs(2, 2), random_pairs(8, 3)
    fewer = random_pairs(3, 4, MODULES[1::2])
    if target_rank is not None:
        pipeline.enable_lora_hotswap(target_rank)
    pipeline.load_lora_weights(write(tmp_path / "1.safetensors", first), "b", 0.5)
    if target_rank is None:
        pipeline.load_lora_weights(write(tmp_path / "2.safetensors", second), "bl", 0.5)
    rest = [] if target_rank else [(second, 0.5)]
    larger = write(tmp_path / "3.safetensors", third, "kohya", 4.0)
    pipeline.load_lora_weights(larger, "b", 0.9, hotswap=True)
    found = output(pipeline.transformer)
    assert max_error(found, with_changes((third, 0.9 * 0.5), *rest)) < 2e-6
    pipeline.load_lora_weights(write(tmp_path / "4.safetensors", fewer), "b", hotswap=True)
    found = output(pipeline.transformer)
    assert max_error(found, with_changes((fewer, 1.0), *rest)) < 2e-6
    pipeline.save_lora_weights(tmp_path / "saved", "b")
    saved = read_lora(tmp_path / "saved", SHAPES)
    assert all(torch.equal(saved.down[name], pair[0]) for name, pair in fewer.items())


def test_what_cannot_be_swapped_is_refused_before_anything_changes(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    pipeline.enable_lora_hotswap(4)
    first = random_pairs(4, 1, MODULES[1:])
    pipeline.load_lora_weights(write(tmp_path / "1.safetensors", first), "one")
    before = output(pipeline.transformer)
    more = write(tmp_path / "2.safetensors", random_pairs(2, 2))
    with pytest.raises(ParameterError, match=MODULES[0]):
        pipeline.load_lora_weights(more, "one", hotswap=True)
    large = write(tmp_path / "3.safetensors", random_pairs(8, 2, MODULES[1:]))
    with pytest.raises(ParameterError, match="rank 8, but there is room for 4"):
        pipeline.load_lora_weights(large, "one", hotswap=True)
    with pytest.raises(ParameterError, match="needs the name of a loaded LoRA"):
        pipeline.load_lora_weights(more, "two", hotswap=True)
    with pytest.raises(ParameterError, match="already"):
        pipeline.load_lora_weights(more, "one")
    with pytest.raises(ParameterError, match="before the first"):
        pipeline.enable_lora_hotswap(8)
    assert torch.equal(output(pipeline.transformer), before)


def test_saving_is_in_pefts_form(pipeline: LensPipeline, tmp_path: Path) -> None:
    from peft import PeftModel

    pairs = random_pairs(4, 1, MODULES[:5]) | random_pairs(2, 2, MODULES[5:9])
    path = write(tmp_path / "1.safetensors", pairs, "kohya", 3.0)
    pipeline.load_lora_weights(path, "mine")
    pipeline.save_lora_weights(tmp_path / "peft", "mine")
    expected = output(pipeline.transformer)
    theirs = PeftModel.from_pretrained(tiny_transformer(), tmp_path / "peft")
    assert max_error(output(theirs), expected) < 2e-6
    again = tiny_pipeline()
    again.load_lora_weights(tmp_path / "peft")
    assert max_error(output(again.transformer), expected) < 2e-6
    file = tiny_pipeline()
    file.load_lora_weights(tmp_path / "peft" / "adapter_model.safetensors")
    assert max_error(output(file.transformer), expected) < 2e-6
    with pytest.raises(ParameterError, match=r"'other'; there are \['mine'\]"):
        pipeline.save_lora_weights(tmp_path / "x", "other")


def test_files_are_named_as_for_diffusers(
    pipeline: LensPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = random_pairs(4, 1)
    folder = tmp_path / "hub" / "someone" / "style" / ("1" * 40)
    (folder / "old").mkdir(parents=True)
    write(folder / "style.safetensors", pairs)
    write(folder / "old" / "pytorch_lora_weights.safetensors", pairs, "kohya", 4.0)
    expected = with_changes((pairs, 1.0))
    named: list[dict[str, str]] = [
        {"weight_name": "style.safetensors"},
        {},
        {"subfolder": "old"},
        {"weight_name": "pytorch_lora_weights.safetensors", "subfolder": "old"},
    ]
    monkeypatch.chdir(tmp_path)
    with serve(tmp_path / "hub") as served:
        hub = Hub(served.endpoint, tmp_path / "cache")
        for source in (folder, str(folder), "someone/style"):
            for number, words in enumerate(named):
                pipeline.load_lora_weights(source, adapter_name=f"a{number}", hub=hub, **words)
                assert max_error(output(pipeline.transformer), expected) < 2e-6
                pipeline.unload_lora_weights()
        pipeline.load_lora_weights(folder / "old")
        assert lora_digest(folder / "old") == pipeline.lora_records["lora_0"]["sha256"]
        for wrong in ({"weight_name": "x.safetensors"}, {"subfolder": "new"}):
            with pytest.raises(CheckpointError):
                pipeline.load_lora_weights("someone/style", hub=hub, **wrong)
    file = folder / "style.safetensors"
    with pytest.raises(ParameterError, match="weight_name"):
        pipeline.load_lora_weights(file, weight_name="style.safetensors")
    pipeline.set_adapters(["lora_0"], adapter_weights=[0.5])
    assert pipeline.loras == {"lora_0": 0.5}
    both = LensPipeline.from_pipe(pipeline)
    assert both.loras == {"lora_0": 0.5}
    with pytest.raises(CheckpointError, match="bake_lora"):
        both.save_pretrained(tmp_path / "both")


def test_stated_alphas_are_used(tmp_path: Path) -> None:
    pairs = random_pairs(4, 1, MODULES[:3])
    write(tmp_path / "adapter_model.safetensors", pairs, "base_model")
    config = {"lora_alpha": 6, "alpha_pattern": {MODULES[1]: 3}, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert read_lora(tmp_path, SHAPES).alpha == {
        MODULES[0]: 12.0,
        MODULES[1]: 6.0,
        MODULES[2]: 12.0,
    }
    content = {name: torch.zeros(1) for name in ()}
    for module, (down, up) in pairs.items():
        content |= {f"transformer.{module}.lora_A.weight": down}
        content |= {f"transformer.{module}.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}
    save_file(content, tmp_path / "by_diffusers.safetensors", metadata=metadata)
    alphas = read_lora(tmp_path / "by_diffusers.safetensors", SHAPES).alpha
    assert set(alphas.values()) == {8.0}


def test_a_model_with_loras_is_saved_only_deliberately(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    pairs = random_pairs(4, 1)
    pipeline.load_lora_weights(write(tmp_path / "1.safetensors", pairs), weight=0.3)
    with pytest.raises(CheckpointError, match=r"lora_0.*bake_lora"):
        pipeline.save_pretrained(tmp_path / "model")
    pipeline.bake_lora()
    assert pipeline.loras == {}
    pipeline.save_pretrained(tmp_path / "model")
    baked = LensPipeline.from_pretrained(tmp_path / "model")
    assert max_error(output(baked.transformer), with_changes((pairs, 0.3))) < 2e-6


def test_the_picture_follows_the_lora_in_bfloat16(tmp_path: Path) -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    path = write(tmp_path / "1.safetensors", random_pairs(4, 1))

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline("a red cup", generator=generator, output_type="pt").images

    before = draw()
    pipeline.load_lora_weights(path)
    changed = draw()
    assert changed.dtype == before.dtype
    assert max_error(changed, before) > 1e-3
    pipeline.unload_lora_weights()
    assert torch.equal(draw(), before)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_lora(path, SHAPES)
    return str(caught.value)


def test_what_is_no_lora_for_this_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    down, up = random_pairs(4, 1)[MODULES[0]]
    keys = STYLES["bare"](MODULES[0])
    save_file({keys[0]: down}, path)
    assert f"missing the other half of: {MODULES[0]}" in refused(path)
    save_file({keys[0]: down, keys[1]: up[:-1].clone()}, path)
    assert f"other shape: {MODULES[0]}" in refused(path)
    for stranger in ("lora_te_layers_0.lora_down.weight", "unet.x.lora_A.weight"):
        save_file({keys[0]: down, keys[1]: up, stranger: down.clone()}, path)
        assert f"unexpected: {stranger}" in refused(path)
    for part, kind in (("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("dora_scale", "DoRA")):
        save_file({keys[0]: down, keys[1]: up, f"{MODULES[0]}.{part}": down.clone()}, path)
        assert f"it is a {kind}, and only plain LoRAs are read; unexpected" in refused(path)
        assert component_of(path).layout == f"{kind}, which cannot be loaded"
    magnitude = f"base_model.model.{MODULES[0]}.lora_magnitude_vector.weight"
    save_file({keys[0]: down, keys[1]: up, magnitude: down.clone()}, path)
    assert "it is a DoRA" in refused(path)
    save_file({keys[2]: torch.tensor(1.0)}, path)
    assert "alpha without matrices" in refused(path)
    save_file({}, path)
    assert "no low-rank matrices" in refused(path)
    torch.save({keys[0]: down, keys[1]: up}, tmp_path / "lora.pt")
    assert "pickle" in refused(tmp_path / "lora.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer.KEY.lora_A.weight": torch.zeros(4, 1)}, "twice: transformer.KEY.lora_A"),
        ({"KEY.lora_A.other.weight": torch.zeros(4, 1)}, "the same tensor twice: KEY.lora_A"),
        ({"KEY.alpha": torch.ones(2)}, "not a single number: KEY"),
        ({"KEY.alpha": torch.tensor(float("nan"))}, "alpha of KEY is not a finite number"),
        ({"KEY.lora_A.weight": torch.tensor(1.0)}, "other shape: KEY"),
        ({"KEY.lora_A.weight": "none", "KEY.lora_B.weight": "none"}, "other shape: KEY"),
        ({"KEY.lora_A.weight": "whole"}, "integer matrices: KEY"),
    ],
    ids=["prefix", "name", "alphas", "nan", "scalar", "rank", "whole"],
)
def test_odd_loras_are_refused(
    tmp_path: Path, changes: dict[str, Tensor | str], message: str
) -> None:
    module = MODULES[0]
    down, up = random_pairs(4, 1)[module]
    content = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    for key, value in changes.items():
        name = key.replace("KEY", module)
        if value == "none":
            content[name] = down[:0].clone() if "lora_A" in name else up[:, :0].clone()
        else:
            content[name] = down.int() if isinstance(value, str) else value
    save_file(content, tmp_path / "lora.safetensors")
    assert message.replace("KEY", module) in refused(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": "much"},
        {"lora_alpha": float("inf")},
        {"alpha_pattern": [1]},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": {"img_qkv": None}},
        {"lora_alpha": 4, "use_dora": True},
        {"lora_alpha": 4, "peft_type": "LOHA"},
    ],
    ids=str,
)
def test_an_odd_configuration_of_peft_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    write(tmp_path / "adapter_model.safetensors", random_pairs(2, 1, MODULES[:2]))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert str(tmp_path) in refused(tmp_path)


def test_unknown_names_and_counts_are_refused(pipeline: LensPipeline, tmp_path: Path) -> None:
    pipeline.load_lora_weights(write(tmp_path / "1.safetensors", random_pairs(2, 1)), "one")
    with pytest.raises(ParameterError, match=r"\['two'\]; there are \['one'\]"):
        pipeline.set_adapters(["one", "two"])
    with pytest.raises(ParameterError, match="named once each"):
        pipeline.set_adapters(["one", "one"], [1.0, 0.5])
    with pytest.raises(ParameterError, match="2 weights for 1"):
        pipeline.set_adapters("one", [1.0, 2.0])
    with pytest.raises(ParameterError, match="two"):
        pipeline.delete_adapters("two")
