"""Checkpoint folders: exact round trips, and nothing missing, unexpected or pickled let through."""

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_components import max_error, write_diffusers
from lens_core import (
    CheckpointError,
    ComponentError,
    LensPipeline,
    LensTransformer2DModel,
    ParameterError,
    PrecisionError,
)
from lens_core.checkpoints.vae import load_vae_weights
from lens_core.loading import LensDefaults, load_tokenizer, load_vae
from lens_core.tokenizer import load_packaged_tokenizer
from tiny_components import tiny_pipeline

WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "lens"))


def tensors(pipeline: LensPipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in WEIGHTS
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def picture(pipeline: LensPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images: Tensor = pipeline("a red cup", generator=generator, output_type="pt").images
    return images


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    content = load_file(path)
    change(content)
    save_file(content, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_pipeline_reloads_bit_for_bit(folder: Path) -> None:
    original, loaded = tiny_pipeline(), LensPipeline.from_pretrained(folder)
    before, after = tensors(original), tensors(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # Weights mapped from a file are aligned differently in memory, which changes the last bit of a
    # matrix product on some processors; two loads are identical.
    assert max_error(picture(original), picture(loaded)) < 1e-5
    assert torch.equal(picture(loaded), picture(LensPipeline.from_pretrained(folder)))
    assert loaded.defaults == LensDefaults(64, 48, 2, 3.0)
    assert loaded.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    assert not list(folder.rglob("*.bin"))


def test_a_saved_copy_does_not_tell_where_it_came_from(folder: Path, tmp_path: Path) -> None:
    LensPipeline.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    for part in WEIGHTS:
        assert str(tmp_path) not in (tmp_path / "copy" / part / "config.json").read_text()


def test_bfloat16_survives_saving(folder: Path, tmp_path: Path) -> None:
    half = LensPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    again = LensPipeline.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    before, after = tensors(half), tensors(again)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert half.transformer.dtype == half.text_encoder.dtype == half.vae.dtype == torch.bfloat16
    assert torch.equal(half.vae.bn.running_mean, tiny_pipeline().vae.bn.running_mean)
    cast = tiny_pipeline().to(torch.bfloat16)
    assert cast.vae.dtype == torch.bfloat16
    assert torch.equal(cast.vae.bn.running_var, half.vae.bn.running_var)
    assert torch.equal(picture(half), picture(again))


def test_the_autoencoders_statistics_are_never_rounded(folder: Path) -> None:
    given, loaded = tiny_pipeline().vae, load_vae(folder / "vae")
    exact = given.bn.running_mean.clone(), given.bn.running_var.clone()
    LensPipeline(**{**tiny_pipeline().components, "vae": given})
    for vae in (given, loaded, copy.deepcopy(given), load_vae_weights(folder / "vae")):
        vae.to(torch.bfloat16)
        assert vae.dtype == torch.bfloat16
        assert vae.to("meta").bn.running_mean.is_meta
        vae = vae.to_empty(device="cpu")
        assert vae.bn.running_mean.dtype == vae.bn.running_var.dtype == torch.float32
    later = tiny_pipeline()
    later.vae = AutoencoderKLFlux2.from_pretrained(folder / "vae")
    assert later.to(torch.bfloat16).vae.bn.running_mean.dtype == torch.float32
    half = tiny_pipeline().vae
    LensPipeline(**{**tiny_pipeline().components, "vae": half})
    half.bfloat16().float()
    assert torch.equal(half.bn.running_mean, exact[0])
    assert torch.equal(half.bn.running_var, exact[1])


def test_shards_are_read_and_a_lost_one_is_named(folder: Path) -> None:
    whole = LensPipeline.from_pretrained(folder)
    whole.save_pretrained(folder.with_name("shards"), max_shard_size="20KB")
    shards = sorted((folder.with_name("shards") / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    sharded = tensors(LensPipeline.from_pretrained(folder.with_name("shards")))
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in tensors(whole).items())
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=shards[1].name):
        LensPipeline.from_pretrained(folder.with_name("shards"))


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_and_unexpected_tensors_are_named(folder: Path, part: str) -> None:
    path = folder / part / WEIGHTS[part]
    name = next(n for n in sorted(load_file(path)) if n.endswith(".weight") and "head" not in n)

    def rename(content: dict[str, Tensor]) -> None:
        content[f"{name}_lora"] = content.pop(name)

    edit(path, rename)
    with pytest.raises(CheckpointError, match=f"missing: {name}; unexpected: {name}_lora$"):
        LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", WEIGHTS)
def test_another_shape_is_named(folder: Path, part: str) -> None:
    path = folder / part / WEIGHTS[part]
    name = next(n for n in sorted(load_file(path)) if n.endswith(".weight"))
    edit(path, lambda content: content.update({name: torch.zeros(3, 2, 1)}))
    with pytest.raises(CheckpointError, match=rf"other shape: {name} \(3, 2, 1\) instead of"):
        LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e8m0fnu])
def test_whole_numbers_are_no_weights(folder: Path, part: str, dtype: torch.dtype) -> None:
    path = folder / part / WEIGHTS[part]
    name = next(n for n in sorted(load_file(path)) if n.endswith(".weight"))
    edit(path, lambda content: content.update({name: content[name].to(dtype)}))
    with pytest.raises(CheckpointError, match=f"other kind: {name} [BFIU]"):
        LensPipeline.from_pretrained(folder)


def test_only_the_language_model_head_may_be_absent(folder: Path) -> None:
    path = folder / "text_encoder" / WEIGHTS["text_encoder"]
    edit(path, lambda content: content.pop("lm_head.weight"))
    loaded = LensPipeline.from_pretrained(folder)
    assert not loaded.text_encoder.has_lm_head
    assert max_error(picture(loaded), picture(tiny_pipeline())) < 1e-5


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_pickles_are_refused(folder: Path, part: str, suffix: str) -> None:
    path = folder / part / WEIGHTS[part]
    torch.save(load_file(path), path.with_suffix(suffix))
    path.unlink()
    with pytest.raises(CheckpointError, match="pickle"):
        LensPipeline.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="pickle"):
        LensPipeline.from_pretrained(path.with_suffix(suffix))


def test_pickles_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="safe_serialization"):
        tiny_pipeline().save_pretrained(tmp_path, safe_serialization=False)


def test_a_truncated_file_is_reported(folder: Path) -> None:
    path = folder / "vae" / WEIGHTS["vae"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        LensPipeline.from_pretrained(folder)


def test_an_index_may_not_reach_outside_its_folder(folder: Path) -> None:
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../vae/model.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        LensPipeline.from_pretrained(folder)
    for places in (None, [1], {"a": 3}):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(CheckpointError, match="no weight_map"):
            LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "steps", "guidance"),
    [("Lens-Turbo", 4, 1.0), ("lens-base", 50, 5.0), ("Lens", 20, 5.0), ("my-turbo", 20, 5.0)],
)
def test_a_copy_of_a_published_folder_is_run_as_what_it_is_called(
    folder: Path, name: str, steps: int, guidance: float
) -> None:
    """The published folders do not say how they are run."""
    edit_json(folder / "model_index.json", _lens_defaults={})
    copy = folder.rename(folder.with_name(name))
    loaded = LensPipeline.from_pretrained(copy, text_encoder=None).defaults
    assert loaded == LensDefaults(num_inference_steps=steps, guidance_scale=guidance)
    edit_json(copy / "model_index.json", _lens_defaults={"num_inference_steps": 8})
    loaded = LensPipeline.from_pretrained(copy, text_encoder=None).defaults
    assert loaded == LensDefaults(num_inference_steps=8, guidance_scale=guidance)


def test_foreign_class_names_and_absent_parts(folder: Path) -> None:
    edit_json(
        folder / "model_index.json",
        text_encoder=["transformers", "LensGptOssEncoder"],
        transformer=["diffusers", "LensTransformer2DModel"],
    )
    shutil.rmtree(folder / "scheduler")
    assert max_error(picture(LensPipeline.from_pretrained(folder)), picture(tiny_pipeline())) < 1e-5
    (folder / "model_index.json").unlink()
    assert LensPipeline.from_pretrained(folder).defaults == LensDefaults()
    assert load_tokenizer(folder / "nowhere") is load_packaged_tokenizer()
    shutil.rmtree(folder / "vae")
    with pytest.raises(CheckpointError, match=r"vae.config\.json does not exist"):
        LensPipeline.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="not a folder"):
        LensPipeline.from_pretrained(folder / "nothing")


def test_components_can_be_given(folder: Path) -> None:
    other = tiny_pipeline()
    shutil.rmtree(folder / "vae")
    loaded = LensPipeline.from_pretrained(folder, vae=other.vae, text_encoder=None)
    assert loaded.vae is other.vae
    assert loaded.text_encoder is None
    with pytest.raises(ParameterError, match="unet"):
        LensPipeline.from_pretrained(folder, unet=None)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_float16_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(PrecisionError, match="float16"):
        LensPipeline.from_pretrained(folder, **{name: torch.float16})


@pytest.mark.parametrize("entry", [{"steps": 4}, {"height": "tall"}, {"num_inference_steps": 2.5}])
def test_malformed_defaults_are_refused(folder: Path, entry: dict[str, object]) -> None:
    edit_json(folder / "model_index.json", _lens_defaults=entry)
    with pytest.raises(CheckpointError, match=next(iter(entry))):
        LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize("entry", [None, [1], "square"])
def test_defaults_that_are_no_object_are_refused(folder: Path, entry: object) -> None:
    edit_json(folder / "model_index.json", _lens_defaults=entry)
    with pytest.raises(CheckpointError, match="_lens_defaults must be a JSON object"):
        LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("transformer/config.json", {"num_layers": "two"}),
        ("transformer/config.json", {"axes_dims_rope": 16}),
        ("transformer/config.json", {"inner_dim": 33}),
        ("vae/config.json", {"patch_size": 2}),
        ("vae/config.json", {"block_out_channels": "many"}),
        ("text_encoder/config.json", {"num_hidden_layers": "x"}),
        ("text_encoder/config.json", {"num_attention_heads": 0}),
        ("tokenizer/tokenizer.json", {"added_tokens": None}),
        ("tokenizer/tokenizer.json", {"model": {"type": "?"}}),
    ],
)
def test_a_configuration_of_nothing_is_named(
    folder: Path, file: str, changes: dict[str, object]
) -> None:
    edit_json(folder / file, **changes)
    with pytest.raises(CheckpointError, match=str((folder / file).parent)):
        LensPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae", "tokenizer"])
def test_a_path_is_no_component(folder: Path, part: str) -> None:
    with pytest.raises(ComponentError, match=f"{part} .* must be loaded"):
        LensPipeline.from_pretrained(folder, **{part: str(folder / part)})
    if part in ("transformer", "vae"):
        with pytest.raises(ComponentError, match=f"{part} None must be loaded"):
            LensPipeline.from_pretrained(folder, **{part: None})


class TestTheModelsOwnLoader:
    """`LensTransformer2DModel.from_pretrained`, which diffusers leaves lenient."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_diffusers(tmp_path / "lens" / "transformer", "transformer")
        return tmp_path / "lens" / "transformer"

    def test_it_loads_with_the_librarys_arguments(self, folder: Path) -> None:
        loaded = LensTransformer2DModel.from_pretrained(
            folder.parent, subfolder="transformer", torch_dtype=torch.bfloat16
        )
        assert loaded.dtype == torch.bfloat16
        assert not loaded.training
        model, report = LensTransformer2DModel.from_pretrained(folder, output_loading_info=True)
        assert isinstance(model, LensTransformer2DModel)
        assert not any(report.values())

    @pytest.mark.parametrize("variant", [None, "ema"])
    def test_missing_and_unexpected_tensors_are_named(
        self, folder: Path, variant: str | None
    ) -> None:
        path = folder / "diffusion_pytorch_model.safetensors"
        content = load_file(path)
        content["renamed"] = content.pop("proj_out.bias")
        path.unlink()
        save_file(content, path if variant is None else path.with_suffix(".ema.safetensors"))
        with pytest.raises(CheckpointError, match=r"proj_out\.bias.*renamed"):
            LensTransformer2DModel.from_pretrained(folder, variant=variant)

    @pytest.mark.parametrize("part", ["transformer", "text_encoder"])
    def test_a_variant_is_checked_as_the_usual_files_are(
        self, folder: Path, tmp_path: Path, part: str
    ) -> None:
        pipeline = tiny_pipeline()
        model, path = getattr(pipeline, part), tmp_path / part
        model.save_pretrained(path, variant="ema", max_shard_size="20KB")
        load = partial(type(model).from_pretrained, path, variant="ema")
        before, after = model.state_dict(), load().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        shard = sorted(path.glob("*.safetensors"))[0]
        content, whole = load_file(shard), shard.read_bytes()
        name = next(iter(content))
        shard.write_bytes(whole[:-40])
        with pytest.raises(CheckpointError, match="incomplete"):
            load()
        save_file({**content, name: content[name].int()}, shard, {"format": "pt"})
        with pytest.raises(CheckpointError, match=f"other kind: {name} I32"):
            load()
        shard.unlink()
        with pytest.raises(CheckpointError, match=shard.name):
            load()

    def test_pickles_and_float16_are_refused(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match="pickle"):
            LensTransformer2DModel.from_pretrained(folder, use_safetensors=False)
        with pytest.raises(PrecisionError, match="float16"):
            LensTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float16)
