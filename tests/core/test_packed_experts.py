"""Text encoders whose experts stay packed: the same numbers as unpacked ones, features and text."""

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig

import packed_references as reference
from golden_components import GOLDEN, cases, max_error
from lens_core import CheckpointError, ComponentError, LensPipeline, LensTextEncoder, ParameterError
from lens_core.checkpoints.convert import Target, convert
from lens_core.checkpoints.encoder import load_text_encoder
from lens_core.checkpoints.header import read_header
from lens_core.checkpoints.inspect import component_of
from lens_core.packed_experts import MATRICES, Mxfp4Packing, PackedExperts, PlainPacking
from tiny_components import tiny_tokenizer
from torch_operations import Operations

FP32 = torch.float32


@pytest.fixture(scope="module")
def golden(golden_checkpoint: Path) -> Path:
    return golden_checkpoint / "text_encoder"


@pytest.fixture(scope="module")
def layouts(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    kinds = {
        "mxfp4": ("mxfp4", None),
        "nvfp4": ("nvfp4", None),
        "gguf": ("gguf", "MXFP4"),
        "gguf Q8_0": ("gguf", "Q8_0"),
        "gguf BF16": ("gguf", "BF16"),
    }
    return {
        name: convert(golden, Target(folder / name, FP32, kind), layout).path
        for name, (layout, kind) in kinds.items()
    }


def unpacked(name: str, path: Path) -> dict[str, np.ndarray]:
    """`[experts, rows, columns]` of every expert matrix, read without the code under test."""
    found = {}
    if name.startswith("gguf"):
        tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
        whole = {n: gguf.quants.dequantize(t.data, t.tensor_type) for n, t in tensors.items()}
        for layer in range(5):
            start, stem = f"blk.{layer}.ffn", f"model.layers.{layer}.mlp.experts"
            gate, up = whole[f"{start}_gate_exps.weight"], whole[f"{start}_up_exps.weight"]
            both = np.empty((gate.shape[0], 2 * gate.shape[1], gate.shape[2]), np.float32)
            both[:, 0::2], both[:, 1::2] = gate, up
            found[f"{stem}.gate_up_proj"] = both
            found[f"{stem}.down_proj"] = whole[f"{start}_down_exps.weight"]
        return found
    raw = load_file(path / "model.safetensors" if path.is_dir() else path)
    for layer in range(5):
        for matrix in MATRICES:
            stem = f"model.layers.{layer}.mlp.experts.{matrix}"
            if name == "mxfp4":
                blocks, scales = raw[f"{stem}_blocks"], raw[f"{stem}_scales"]
                found[stem] = reference.mxfp4(blocks.numpy(), scales.numpy())
                continue
            comfy = stem.removeprefix("model.")
            scales = raw[f"{comfy}.weight_scale"].view(torch.uint8)
            overall = raw[f"{comfy}.weight_scale_2"]
            parts = zip(raw[f"{comfy}.weight"], scales, overall, strict=True)
            found[stem] = np.stack(
                [reference.nvfp4(c.numpy(), s.numpy(), float(o)) for c, s, o in parts]
            )
    return found


def dense(golden: Path, experts: Mapping[str, np.ndarray]) -> LensTextEncoder:
    """The golden encoder with other experts, in the library's own form."""
    model = LensTextEncoder.from_pretrained(golden)
    with torch.no_grad():
        for name, values in experts.items():
            turned = torch.from_numpy(values).float().transpose(1, 2)
            model.get_parameter(name).copy_(turned)
    return model


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "gguf", "gguf Q8_0", "gguf BF16"])
def test_packed_experts_are_what_the_file_says(
    golden: Path, layouts: dict[str, Path], name: str
) -> None:
    model = load_text_encoder(layouts[name], FP32)
    expected = unpacked(name, layouts[name])
    assert model.is_packed is (name != "gguf BF16")
    if model.is_packed:
        for layer, block in enumerate(model.model.layers):
            for matrix in MATRICES:
                values = expected[f"model.layers.{layer}.mlp.experts.{matrix}"]
                for expert in range(4):
                    found = block.mlp.experts.matrix(matrix, expert, FP32)
                    assert np.allclose(found.numpy(), values[expert], rtol=1e-6, atol=0)
    recorded = cases("text_encoder")
    inputs = recorded["input_ids"], recorded["attention_mask"], range(5)
    real = recorded["attention_mask"].bool()
    with torch.no_grad():
        features = model.features(*inputs)
        from_dense = dense(golden, expected).features(*inputs)
    for layer in range(5):
        assert max_error(features[layer][real], from_dense[layer][real]) < 1e-4
    # Rounding to four bits shows, but the model is recognisably the same.
    original = recorded["layer3"][real]
    assert float((features[3][real] - original).norm() / original.norm()) < 0.2


def test_mxfp4_passes_through_gguf_without_rounding(
    layouts: dict[str, Path], tmp_path: Path
) -> None:
    back = convert(layouts["gguf"], Target(tmp_path / "back", FP32), "mxfp4").path
    first = load_file(layouts["mxfp4"] / "model.safetensors")
    second = load_file(back / "model.safetensors")
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    plain = convert(back, Target(tmp_path / "plain", FP32), "plain").path
    again = convert(plain, Target(tmp_path / "again", FP32), "mxfp4").path
    repacked = unpacked("mxfp4", again)
    for name, values in unpacked("mxfp4", layouts["mxfp4"]).items():
        assert np.array_equal(repacked[name], values)


@pytest.mark.parametrize("name", ["nvfp4", "gguf Q8_0"])
def test_packed_experts_are_not_rounded_again(
    layouts: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Others choose scales in other ways: here no group of NVFP4 has the largest code."""
    if name == "nvfp4":
        content = load_file(layouts[name])
        for key, codes in content.items():
            if key.endswith("_proj.weight") and ".experts." in key:
                for shift in (0, 4):
                    largest = (codes >> shift & 7) == 7
                    codes[largest] -= 1 << shift
        metadata = {"lens_config": str(read_header(layouts[name]).metadata["lens_config"])}
        save_file(content, tmp_path / "other.safetensors", metadata=metadata)
        target = Target(tmp_path / "again.safetensors", FP32)
        again = load_file(convert(tmp_path / "other.safetensors", target, "nvfp4").path)
        assert all(torch.equal(again[key], value) for key, value in content.items())
        return
    before = {t.name: t.data for t in gguf.GGUFReader(layouts[name]).tensors}
    target = Target(tmp_path / "again.gguf", FP32, "Q8_0")
    after = gguf.GGUFReader(convert(layouts[name], target, "gguf").path).tensors
    assert all(np.array_equal(t.data, before[t.name]) for t in after)


def test_only_the_chosen_experts_are_unpacked_one_at_a_time(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_text_encoder(layouts["mxfp4"], FP32)
    shapes: list[tuple[int, ...]] = []
    unpack = Mxfp4Packing.unpack

    def watched(self: Mxfp4Packing, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        values = unpack(self, parts, dtype)
        shapes.append(tuple(values.shape))
        return values

    monkeypatch.setattr(Mxfp4Packing, "unpack", watched)
    with torch.no_grad():
        model.features(torch.tensor([[5]]), None, [4])
    assert set(shapes) == {(64, 32), (32, 32)}
    assert len(shapes) == 5 * 2 * 2  # layers, matrices, experts of the only token


def test_packed_experts_are_small_and_survive_casts(layouts: dict[str, Path]) -> None:
    model = load_text_encoder(layouts["nvfp4"], FP32)
    experts = model.model.layers[0].mlp.experts
    before = {name: buffer.clone() for name, buffer in experts.named_buffers()}
    # Types that every device has: Apple's GPUs have no float8.
    assert {buffer.dtype for buffer in before.values()} == {torch.uint8, FP32}
    packed = sum(b.numel() for n, b in before.items() if n.endswith("_weight"))
    assert packed == 4 * (64 * 32 + 32 * 32) // 2
    model.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    for name, buffer in experts.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer.view(torch.uint8), before[name].view(torch.uint8))
    assert experts.gate_up_proj_bias.dtype == torch.bfloat16
    with torch.no_grad():
        assert model.features(torch.tensor([[5, 6]]), None, [4])[0].dtype == torch.bfloat16


def small_writer(folder: Path) -> LensTextEncoder:
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(3)
    model = LensTextEncoder(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def test_the_same_packed_weights_write_and_give_features(tmp_path: Path) -> None:
    small_writer(tmp_path / "whole")
    packed = convert(tmp_path / "whole", Target(tmp_path / "packed", FP32), "mxfp4")
    assert packed.has_lm_head
    model = LensTextEncoder.from_pretrained(tmp_path / "packed")
    plain = convert(tmp_path / "packed", Target(tmp_path / "plain", FP32), "plain").path
    unpacked_model = LensTextEncoder.from_pretrained(plain)
    assert (model.is_packed, unpacked_model.is_packed) == (True, False)
    ids = torch.tensor([[7, 8, 9]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(ids, **settings), unpacked_model.generate(ids, **settings))
    with torch.no_grad():
        pairs = zip(
            model.features(ids, None, [0, 1]),
            unpacked_model.features(ids, None, [0, 1]),
            strict=True,
        )
        assert all(max_error(*pair) < 1e-5 for pair in pairs)


def test_a_packed_encoder_is_saved_as_it_was_published(tmp_path: Path) -> None:
    small_writer(tmp_path / "whole")
    convert(tmp_path / "whole", Target(tmp_path / "packed", FP32), "mxfp4")
    model = LensTextEncoder.from_pretrained(tmp_path / "packed")
    model.save_pretrained(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert stored["model.layers.1.mlp.experts.down_proj_blocks"].dtype == torch.uint8
    again = LensTextEncoder.from_pretrained(tmp_path / "saved").state_dict()
    state = model.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    stated = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert stated["quantization_config"]["quant_method"] == "mxfp4"


def test_comfys_file_has_a_tokenizer_and_no_head(tmp_path: Path) -> None:
    small_writer(tmp_path / "whole")
    path = convert(tmp_path / "whole", Target(tmp_path / "c.safetensors"), "nvfp4").path
    info = component_of(path)
    assert (info.has_lm_head, info.carries, info.is_complete) == (False, ("tokenizer",), True)
    model = load_text_encoder(path)
    with pytest.raises(ComponentError, match=r"lm_head\.weight"):
        model.generate(torch.tensor([[7]]))
    raw = load_file(path)
    assert raw["tokenizer_json"].numel() > 20_000_000
    assert bytes(raw["tokenizer_json"][:12].numpy()).startswith(b"{")
    content = {f"gpt_oss.transformer.{name}": tensor for name, tensor in raw.items()}
    save_file(content, tmp_path / "prefixed.safetensors")
    config = tmp_path / "whole" / "config.json"
    prefixed = load_text_encoder(tmp_path / "prefixed.safetensors", config=config).state_dict()
    assert all(torch.equal(prefixed[name], value) for name, value in model.state_dict().items())


def test_the_carried_tokenizer_is_used(layouts: dict[str, Path], tmp_path: Path) -> None:
    content = load_file(layouts["nvfp4"])
    text = tiny_tokenizer().backend_tokenizer.to_str().encode()
    content["tokenizer_json"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    path = tmp_path / "comfy.safetensors"
    save_file(content, path)
    configs = {
        "text_encoder": layouts["mxfp4"] / "config.json",
        "denoiser": GOLDEN / "transformer_config.json",
        "vae": GOLDEN / "vae_config.json",
    }
    parts = [GOLDEN / "transformer.safetensors", path, GOLDEN / "vae.safetensors"]
    pipeline = LensPipeline.from_components(*parts, configs=configs)
    assert tiny_tokenizer().get_vocab().items() <= pipeline.tokenizer.get_vocab().items()
    embeds, mask = pipeline.encode_prompt("a red cup")
    assert embeds.dtype == torch.bfloat16
    assert embeds.shape[:2] == (4, 1)
    assert mask.all()
    given = LensPipeline.from_components(*parts, tokenizer=tiny_tokenizer(), configs=configs)
    assert given.tokenizer is tiny_tokenizer()
    with pytest.raises(CheckpointError, match=r"config\.json is not a tokenizer\.json"):
        LensPipeline.from_components(*parts, tokenizer=GOLDEN / "vae_config.json", configs=configs)
    content["tokenizer_json"] = torch.zeros(9, dtype=torch.uint8)
    save_file(content, path)
    with pytest.raises(CheckpointError, match=r"tokenizer_json is not a tokenizer\.json"):
        LensPipeline.from_components(*parts, configs=configs)


def test_hyperparameters_are_read_from_llama_cpps_entries(
    layouts: dict[str, Path], tmp_path: Path
) -> None:
    reader = gguf.GGUFReader(layouts["gguf"])
    writer = gguf.GGUFWriter(tmp_path / "plain.gguf", "gpt-oss")
    for name, field in reader.fields.items():
        if name.startswith("gpt-oss."):
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = load_text_encoder(tmp_path / "plain.gguf", FP32)
    stated = load_text_encoder(layouts["gguf"], FP32)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        pairs = zip(model.features(ids, None, [4]), stated.features(ids, None, [4]), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_gates_and_ups_of_different_types_are_refused(
    layouts: dict[str, Path], tmp_path: Path
) -> None:
    reader = gguf.GGUFReader(layouts["gguf"])
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "gpt-oss")
    writer.add_string("lens_config", reader.fields["lens_config"].contents())
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name == "blk.2.ffn_up_exps.weight":
            data, kind = gguf.quants.dequantize(data, kind), gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"layers\.2\..*differ in type \['F32', 'MXFP4'\]"):
        load_text_encoder(tmp_path / "mixed.gguf")


def test_arguments_for_the_library_are_refused_with_packed_weights(
    layouts: dict[str, Path],
) -> None:
    with pytest.raises(ParameterError, match="device_map"):
        LensTextEncoder.from_pretrained(layouts["mxfp4"], device_map="auto")


def test_the_host_waits_once_however_many_experts_there_are() -> None:
    """A wait for each expert would take longer on a GPU than everything else."""
    config = GptOssConfig(
        hidden_size=32, intermediate_size=32, num_local_experts=16, num_experts_per_tok=2
    )
    torch.manual_seed(0)
    experts = PackedExperts(config, PlainPacking(FP32), PlainPacking(FP32))
    for tensor in (*experts.parameters(), *experts.buffers()):
        torch.nn.init.normal_(tensor)
    hidden, weights = torch.randn(40, 32), torch.rand(40, 2)
    chosen = torch.stack([torch.randperm(16)[:2] for _ in range(40)])
    with torch.no_grad(), Operations() as seen:
        found = experts(hidden, chosen, weights)
        expected = torch.zeros_like(hidden)
        counts = dict(seen.counts)
        for row, (pair, strengths) in enumerate(zip(chosen.tolist(), weights, strict=True)):
            for expert, strength in zip(pair, strengths, strict=True):
                counted = [0] * expert + [1]
                expected[row] += strength * experts.compute(hidden[row : row + 1], counted)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert not counts.keys() & {"nonzero", "_local_scalar_dense", "_unique2"}
    assert counts["addmm"] == 2 * 16
