"""Packed number formats and every file layout, written from the golden models and read back."""

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import packed_references as reference
from golden_components import GOLDEN, case, max_error, read_json
from lens_core import CheckpointError, LensPipeline, LensTransformer2DModel, ParameterError
from lens_core.checkpoints import names
from lens_core.checkpoints.convert import Target, convert, layouts
from lens_core.checkpoints.denoiser import load_denoiser
from lens_core.checkpoints.formats import blocked_scales, e2m1, mxfp4, mxfp8, nvfp4
from lens_core.checkpoints.formats import gguf as ggml
from lens_core.checkpoints.inspect import component_of, inspect_checkpoint
from lens_core.checkpoints.vae import load_vae_weights
from tiny_components import tiny_tokenizer, tiny_vae

FP32 = torch.float32


@pytest.fixture
def golden(golden_checkpoint: Path) -> Path:
    return golden_checkpoint


def written(golden: Path, part: str, target: Path, layout: str, **settings: object) -> Path:
    return convert(golden / part, Target(target, **({"dtype": FP32} | settings)), layout).path


def weights(rows: int, columns: int, experts: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    spread = torch.rand(experts, rows, 1, generator=generator) * 0.1
    values = torch.randn(experts, rows, columns, generator=generator) * spread
    values[0, 0] = 0
    return values


def test_four_bit_floats_round_to_nearest_and_ties_to_even() -> None:
    every = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(e2m1.decode(every), torch.from_numpy(reference.e2m1(every.numpy())).float())
    assert torch.equal(e2m1.encode(e2m1.decode(every)), every)
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.75, 1e9, -7.0])
    nearest = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -1.0, 6.0, -6.0])
    assert torch.equal(e2m1.decode(e2m1.encode(ties)), nearest)


@pytest.mark.parametrize("shape", [(128, 4), (130, 5), (5, 9), (341, 12)])
def test_scales_are_reordered_as_addressed(shape: tuple[int, int]) -> None:
    scales = torch.randint(0, 256, shape, dtype=torch.uint8)
    blocked = blocked_scales.to_blocked(scales)
    assert tuple(blocked.shape) == (128 * -(-shape[0] // 128), 4 * -(-shape[1] // 4))
    assert np.array_equal(reference.unswizzled(blocked.numpy(), *shape), scales.numpy())
    assert torch.equal(blocked_scales.from_blocked(blocked, *shape), scales)


def test_mxfp4_agrees_with_its_bits_and_repacks_exactly() -> None:
    original = weights(6, 64)
    blocks, scales = mxfp4.pack(original)
    values = mxfp4.unpack(blocks, scales)
    assert np.array_equal(values.numpy(), reference.mxfp4(blocks.numpy(), scales.numpy()))
    assert torch.equal(mxfp4.unpack(*mxfp4.pack(values)), values)
    assert torch.equal(mxfp4.unpack(blocks, scales, torch.bfloat16).float(), values)
    assert max_error(values, original) < 0.25 * float(original.abs().max())
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 16)
    extremes = torch.tensor([0, 1, 60, 127, 200, 251], dtype=torch.uint8)
    for scale in extremes:
        byte = scale.expand(16, 1)
        expected = reference.mxfp4(every.numpy(), byte.numpy()).astype(np.float32)
        assert np.array_equal(mxfp4.unpack(every, byte).numpy(), expected)


def test_nvfp4_agrees_with_its_bits() -> None:
    original = weights(130, 80)
    packed, scales, overall = nvfp4.pack(original)
    assert tuple(scales.shape) == (3, 256, 8)
    values = nvfp4.unpack(packed, scales, overall)
    raw = scales.view(torch.uint8).numpy()
    for expert in range(3):
        expected = reference.nvfp4(packed[expert].numpy(), raw[expert], float(overall[expert]))
        assert np.allclose(values[expert].numpy(), expected, rtol=1e-6, atol=0)
    assert max_error(values, original) < 0.2 * float(original.abs().max())


def test_every_scale_of_nvfp4_is_what_float8_says() -> None:
    scales = torch.arange(256, dtype=torch.uint8).repeat(2).view(128, 4)
    expected = blocked_scales.from_blocked(scales, 128, 4).view(torch.float8_e4m3fn).float()
    ones = torch.full((128, 32), 0x22, dtype=torch.uint8)
    for given in (scales, scales.view(torch.float8_e4m3fn)):
        values = nvfp4.unpack(ones, given, torch.tensor(1.0))
        assert torch.equal(values.nan_to_num(-1), expected.nan_to_num(-1).repeat_interleave(16, 1))


def test_mxfp8_agrees_with_its_bits_and_fits_bfloat16() -> None:
    original = weights(70, 96)[1]
    packed, scales = mxfp8.pack(original)
    values = mxfp8.unpack(packed, scales)
    expected = reference.mxfp8(packed.view(torch.uint8).numpy(), scales.numpy())
    assert np.array_equal(values.numpy(), expected)
    assert torch.equal(mxfp8.unpack(packed, scales, torch.bfloat16).float(), values)
    assert max_error(values, original) < 0.0626 * float(original.abs().max())


@pytest.mark.parametrize("kind", reference.GGML)
def test_ggml_blocks_agree_with_their_bits(kind: str) -> None:
    size, halves, read = reference.GGML[kind]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (6, size), np.uint8)
    for place in halves:
        scales = random.normal(size=(6, 1)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = random.integers(100, 150, 6)
    expected = np.concatenate([read(block.tobytes()) for block in blocks])
    found = ggml.unpack(blocks.reshape(2, -1), kind)
    assert found.shape == (2, expected.size // 2)
    assert np.allclose(found.numpy().reshape(-1), expected, rtol=1e-5, atol=1e-4)


def test_ggml_mxfp4_is_the_same_numbers_in_another_order() -> None:
    blocks, scales = mxfp4.pack(weights(4, 96))
    data = ggml.blocks_to_mxfp4(blocks, scales)
    theirs = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType.MXFP4)
    assert np.array_equal(theirs, reference.mxfp4(blocks.numpy(), scales.numpy()))
    again = ggml.mxfp4_to_blocks(data)
    assert torch.equal(again[0], blocks)
    assert torch.equal(again[1], scales)


@pytest.mark.parametrize("pack", [mxfp4.pack, nvfp4.pack, mxfp8.pack])
def test_columns_that_do_not_fill_groups_are_refused(pack: object) -> None:
    with pytest.raises(CheckpointError, match="columns, not 24"):
        pack(torch.ones(4, 24))  # type: ignore[operator]


def test_generated_names_are_those_of_the_models() -> None:
    released = read_json("lens_state_dict.json")
    assert names.denoiser_names(48, 4) == set(released)
    assert len(released) == 1264
    state = tiny_vae().state_dict()
    extra = {name for name in state if ".conv_shortcut." in name} | {"bn.num_batches_tracked"}
    assert names.vae_names(4, 1) == state.keys() - extra
    bfl = names.vae_to_bfl(state)
    assert len(set(bfl.values())) == len(state)
    assert names.vae_to_diffusers(bfl.values()) == {new: old for old, new in bfl.items()}
    assert bfl["decoder.up_blocks.0.resnets.1.conv1.weight"] == "decoder.up.3.block.1.conv1.weight"


def test_ggufs_own_map_agrees_on_the_encoders_names() -> None:
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, 2)
    for name in names.encoder_names(2) | {"lm_head.weight"}:
        if ".experts." in name:
            continue
        ours = names.encoder_to_gguf(name)
        assert names.encoder_from_gguf(ours) == name
        expected = theirs.get_name(name, try_suffixes=(".weight", ".bias"))
        assert ours == (f"{expected}.weight" if name.endswith("sinks") else expected)


@pytest.mark.parametrize("layout", ["diffusers", "single"])
def test_a_plain_denoiser_comes_back_bit_for_bit(golden: Path, tmp_path: Path, layout: str) -> None:
    path = written(golden, "transformer", tmp_path / "out.safetensors", layout)
    original = load_file(GOLDEN / "transformer.safetensors")
    loaded = load_denoiser(path, FP32).state_dict()
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    half = load_denoiser(path)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.proj_out.weight, original["proj_out.weight"].bfloat16())


def test_a_loaded_denoiser_computes_as_published(golden: Path, tmp_path: Path) -> None:
    model = load_denoiser(
        written(golden, "transformer", tmp_path / "d.safetensors", "single"), FP32
    )
    recorded = case("transformer", "even")
    with torch.no_grad():
        found = model(
            recorded["hidden_states"],
            [recorded[f"feat{i}"] for i in range(4)],
            recorded["mask"].bool(),
            recorded["timestep"],
            [(1, *(int(side) for side in recorded["hw"]))],
        ).sample
    assert max_error(found, recorded["output"]) < 1e-4


@pytest.mark.parametrize("prefix", names.DENOISER_PREFIXES)
def test_known_prefixes_are_stripped(tmp_path: Path, prefix: str) -> None:
    original = load_file(GOLDEN / "transformer.safetensors")
    path = tmp_path / "d.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in original.items()}, path)
    loaded = load_denoiser(path, FP32, GOLDEN / "transformer_config.json").state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    assert inspect_checkpoint(path)[0].is_complete


def test_an_unknown_prefix_and_two_prefixes_are_not(tmp_path: Path) -> None:
    original = load_file(GOLDEN / "transformer.safetensors")
    path = tmp_path / "d.safetensors"
    save_file({f"other.{name}": tensor for name, tensor in original.items()}, path)
    with pytest.raises(CheckpointError, match=r"missing: .*unexpected: other\."):
        load_denoiser(path, FP32, GOLDEN / "transformer_config.json")
    mixed = dict(original)
    mixed["net.proj_out.bias"] = mixed.pop("proj_out.bias")
    save_file(mixed, path)
    with pytest.raises(CheckpointError, match=r"missing: proj_out.bias; unexpected: net\."):
        load_denoiser(path, FP32, GOLDEN / "transformer_config.json")


def test_short_modulation_names_and_a_bundled_autoencoder(golden: Path, tmp_path: Path) -> None:
    original = load_file(GOLDEN / "transformer.safetensors")
    vae = load_file(GOLDEN / "vae.safetensors")
    content = {f"net.{name.replace('_mod.1.', '_mod.')}": t for name, t in original.items()}
    path = tmp_path / "finetune.safetensors"
    save_file(content | {f"first_stage_model.{name}": t for name, t in vae.items()}, path)
    loaded = load_denoiser(path, FP32, GOLDEN / "transformer_config.json").state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    state = load_vae_weights(path, FP32, GOLDEN / "vae_config.json").state_dict()
    assert all(torch.equal(state[name], vae[name]) for name in vae)
    assert component_of(path).carries == ("autoencoder",)


def test_an_mxfp8_denoiser_is_its_bits(golden: Path, tmp_path: Path) -> None:
    path = written(golden, "transformer", tmp_path / "d.safetensors", "mxfp8")
    raw, original = load_file(path), load_file(GOLDEN / "transformer.safetensors")
    loaded = load_denoiser(path, FP32).state_dict()
    packed = [name for name in original if raw[name].dtype == torch.float8_e4m3fn]
    assert any(".attn.img_qkv." in name for name in packed)
    assert not any("_mod." in name or "proj_out" in name for name in packed)
    for name, expected in original.items():
        if name not in packed:
            assert torch.equal(loaded[name], expected)
            continue
        scales = raw[f"{name}_scale"].numpy()
        bits = reference.mxfp8(raw[name].view(torch.uint8).numpy(), scales)
        assert np.array_equal(loaded[name].numpy(), bits)
        assert max_error(loaded[name], expected) < 0.0626 * float(expected.abs().max())
    note = bytes(raw["transformer_blocks.0.attn.img_qkv.comfy_quant"].numpy())
    assert json.loads(note) == {"format": "mxfp8"}
    assert component_of(path).layout == "MXFP8"


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_denoiser_is_what_the_library_reads(golden: Path, tmp_path: Path, kind: str) -> None:
    path = written(golden, "transformer", tmp_path / "d.gguf", "gguf", gguf_type=kind)
    loaded = load_denoiser(path, FP32).state_dict()
    original = load_file(GOLDEN / "transformer.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert tensors.keys() == original.keys()
    used = set()
    for name, tensor in tensors.items():
        used.add(tensor.tensor_type.name)
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(loaded[name].numpy(), theirs.reshape(original[name].shape))
    assert kind in used
    if kind == "F32":
        assert all(torch.equal(loaded[name], original[name]) for name in original)


@pytest.mark.parametrize("layout", ["diffusers", "single", "bfl"])
def test_an_autoencoder_comes_back_bit_for_bit(golden: Path, tmp_path: Path, layout: str) -> None:
    path = written(golden, "vae", tmp_path / "vae.safetensors", layout)
    original = load_file(GOLDEN / "vae.safetensors")
    state = load_vae_weights(path, FP32).state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], original[name]) for name in original)
    half = load_vae_weights(path)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.bn.running_var, original["bn.running_var"].float())


def test_the_authors_file_has_their_names_and_shapes(golden: Path, tmp_path: Path) -> None:
    content = load_file(written(golden, "vae", tmp_path / "vae.safetensors", "bfl"))
    assert content["decoder.mid.attn_1.q.weight"].shape[2:] == (1, 1)
    assert {"encoder.quant_conv.bias", "decoder.post_quant_conv.bias"} <= content.keys()
    del content["bn.num_batches_tracked"]
    save_file(content, tmp_path / "without.safetensors")
    load_vae_weights(tmp_path / "without.safetensors", FP32, GOLDEN / "vae_config.json")


def test_a_pipeline_of_separate_files_draws_the_same_picture(golden: Path, tmp_path: Path) -> None:
    parts = {
        "denoiser": written(golden, "transformer", tmp_path / "d.safetensors", "single"),
        "text_encoder": written(golden, "text_encoder", tmp_path / "te", "plain"),
        "vae": written(golden, "vae", tmp_path / "vae.safetensors", "bfl"),
    }
    pipelines = (
        LensPipeline.from_pretrained(golden, tokenizer=tiny_tokenizer()),
        LensPipeline.from_components(
            **parts, tokenizer=tiny_tokenizer(), dtype=FP32, defaults="lens-turbo"
        ),
    )
    assert pipelines[1].defaults.num_inference_steps == 4
    assert pipelines[1].defaults.guidance_scale == 1.0
    pictures = []
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        pictures.append(
            pipeline(
                "a red cup",
                height=64,
                width=64,
                num_inference_steps=2,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
            ).images
        )
    # Mapped and owned memory differ in alignment, and so in the last bit of matrix products.
    assert max_error(*pictures) < 1e-5


def test_modules_and_no_text_encoder_can_be_given(golden: Path) -> None:
    vae = load_vae_weights(golden / "vae", FP32)
    pipeline = LensPipeline.from_components(golden / "transformer", None, vae, dtype=FP32)
    assert pipeline.vae is vae
    assert pipeline.text_encoder is None
    assert pipeline.tokenizer is None
    with pytest.raises(ParameterError, match="unet"):
        LensPipeline.from_components(golden / "transformer", None, vae, configs={"unet": {}})
    with pytest.raises(ParameterError, match=r"'lens-mini'.*lens-turbo"):
        LensPipeline.from_components(golden / "transformer", None, vae, defaults="lens-mini")


def test_converting_refuses_what_it_cannot_do(golden: Path, tmp_path: Path) -> None:
    for part in ("denoiser", "text encoder", "autoencoder"):
        assert len(layouts(part)) >= 3
    with pytest.raises(ParameterError, match=r"denoiser.*not 'bfl'"):
        written(golden, "transformer", tmp_path / "x", "bfl")
    with pytest.raises(CheckpointError, match="exists already"):
        written(golden, "transformer", golden, "single")
    with pytest.raises(CheckpointError, match="whole model"):
        convert(golden, Target(tmp_path / "x"), "single")
    with pytest.raises(CheckpointError, match=r"'Q4_K' cannot be written"):
        written(golden, "transformer", tmp_path / "x.gguf", "gguf", gguf_type="Q4_K")
    assert list(tmp_path.iterdir()) == []


def test_large_components_are_written_in_shards(golden: Path, tmp_path: Path) -> None:
    from lens_core.checkpoints.writers import write_folder

    original = load_file(GOLDEN / "transformer.safetensors")
    config = read_json("transformer_config.json")
    folder = tmp_path / "shards"
    write_folder(folder, "diffusion_pytorch_model", original.items(), config, shard=1_000_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    loaded = LensTransformer2DModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield from list(original.items())[:3]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_folder(tmp_path / "broken", "diffusion_pytorch_model", broken(), config, shard=1)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
