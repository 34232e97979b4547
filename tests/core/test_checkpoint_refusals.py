"""Files that must not be loaded, and what is found out about files before loading."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_components import GOLDEN
from lens_core import CheckpointError, PrecisionError
from lens_core.checkpoints.convert import Target, convert
from lens_core.checkpoints.denoiser import load_denoiser
from lens_core.checkpoints.encoder import load_text_encoder
from lens_core.checkpoints.header import read_header
from lens_core.checkpoints.inspect import CheckpointInfo, component_of, inspect_checkpoint
from lens_core.checkpoints.vae import load_vae_weights

Loader = Callable[..., object]
LAYOUTS = {
    ("transformer", "single"): load_denoiser,
    ("transformer", "mxfp8"): load_denoiser,
    ("transformer", "gguf"): load_denoiser,
    ("text_encoder", "mxfp4"): load_text_encoder,
    ("text_encoder", "nvfp4"): load_text_encoder,
    ("text_encoder", "gguf"): load_text_encoder,
    ("vae", "bfl"): load_vae_weights,
}
EXPERTS = "layers.3.mlp.experts.down_proj"


@pytest.fixture(scope="module")
def files(
    golden_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    golden = golden_checkpoint
    folder = tmp_path_factory.mktemp("layouts")
    target = {key: folder / "-".join(key) for key in LAYOUTS}
    return {
        key: convert(golden / key[0], Target(path, torch.float32), key[1]).path
        for key, path in target.items()
    }


def weight_file(path: Path) -> Path:
    return path / "model.safetensors" if path.is_dir() else path


def changed(
    files: dict[tuple[str, str], Path],
    key: tuple[str, str],
    folder: Path,
    change: Callable[[dict[str, Tensor]], object],
) -> Path:
    """A copy of a safetensors layout with other tensors, and its configuration."""
    original = files[key]
    content = load_file(weight_file(original))
    change(content)
    if original.is_dir():
        path = folder / "changed"
        path.mkdir()
        save_file(content, path / "model.safetensors")
        (path / "config.json").write_text((original / "config.json").read_text())
        return path
    metadata = {"lens_config": str(read_header(original).metadata["lens_config"])}
    save_file(content, folder / "changed.safetensors", metadata=metadata)
    return folder / "changed.safetensors"


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda content: content.pop(name)


def crop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda content: content.update({name: content[name][:-1].clone()})


@pytest.mark.parametrize("key", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("cut", [1, 5000])
def test_files_that_end_too_early_are_refused(
    files: dict[tuple[str, str], Path], tmp_path: Path, key: tuple[str, str], cut: int
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(weight_file(files[key]).read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        LAYOUTS[key](path)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        inspect_checkpoint(path)


def test_a_gguf_whose_words_are_none_is_refused(
    files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    original = weight_file(files["text_encoder", "gguf"]).read_bytes()
    at = original.index(b"gpt-oss")
    path = tmp_path / "model.gguf"
    path.write_bytes(original[:at] + b"\xff\xfe" + original[at + 2 :])
    with pytest.raises(CheckpointError, match="is damaged"):
        inspect_checkpoint(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_text_encoder(path)


def test_a_vae_of_no_known_blocks_is_refused(golden_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(golden_checkpoint / "vae", tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    stated = json.loads(config.read_text()) | {"down_block_types": ["DownNothing"] * 4}
    config.write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"not the configuration of a FLUX\.2 autoencoder"):
        load_vae_weights(tmp_path / "vae")


@pytest.mark.parametrize("start", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00", b"1234567", b"\x40" * 40])
def test_files_that_are_nothing_are_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=r"damaged|neither safetensors nor GGUF|no safet"):
        load_denoiser(path)
    with pytest.raises(CheckpointError, match="is not a file"):
        load_denoiser(tmp_path / "nothing")


@pytest.mark.parametrize("loader", [load_denoiser, load_text_encoder, load_vae_weights])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.gguf", "model"])
def test_pickles_are_refused_whatever_they_are_called(
    tmp_path: Path, loader: Loader, name: str
) -> None:
    for content in ({"img_in.weight": torch.zeros(2)}, {"a": 1}):
        path = tmp_path / name
        if "a" in content:
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path)
        with pytest.raises(CheckpointError, match="is a pickle, which can run any code"):
            loader(path)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight", "w1.weight"),
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight_scale", "weight_scale"),
        (("transformer", "single"), "txt_norm.2.weight", "missing: txt_norm.2.weight"),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_blocks", f"missing: model.{EXPERTS}_blocks"),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_bias", f"missing: model.{EXPERTS}_bias"),
        (("text_encoder", "nvfp4"), f"{EXPERTS}.weight_scale_2", f"missing: model.{EXPERTS}"),
        (("vae", "bfl"), "decoder.up.3.block.0.conv1.bias", "decoder.up_blocks.0.resnets.0.conv1"),
    ],
)
def test_one_missing_tensor_is_named(
    files: dict[tuple[str, str], Path],
    tmp_path: Path,
    key: tuple[str, str],
    name: str,
    message: str,
) -> None:
    path = changed(files, key, tmp_path, drop(name))
    with pytest.raises(CheckpointError, match=message):
        LAYOUTS[key](path)
    info = component_of(path)
    assert not info.is_complete
    assert len(info.missing) == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight"),
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight_scale"),
        (("transformer", "single"), "proj_out.weight"),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_blocks"),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_scales"),
        (("text_encoder", "nvfp4"), f"{EXPERTS}.weight"),
        (("text_encoder", "nvfp4"), f"{EXPERTS}.weight_scale"),
        (("text_encoder", "nvfp4"), f"{EXPERTS}.bias"),
        (("vae", "bfl"), "bn.running_mean"),
    ],
)
def test_one_expert_or_row_too_few_is_named(
    files: dict[tuple[str, str], Path], tmp_path: Path, key: tuple[str, str], name: str
) -> None:
    path = changed(files, key, tmp_path, crop(name))
    with pytest.raises(CheckpointError, match=r"other shape: \S+ \(.*instead of"):
        LAYOUTS[key](path)


def test_a_missing_expert_matrix_of_a_gguf_is_named(
    files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    import gguf

    reader = gguf.GGUFReader(files["text_encoder", "gguf"])
    path = tmp_path / "lacking.gguf"
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_string("lens_config", reader.fields["lens_config"].contents())
    for tensor in reader.tensors:
        if tensor.name != "blk.2.ffn_gate_exps.weight":
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = r"missing: .*layers\.2\.mlp\.experts\.gate_up_proj.*unexpected: blk\.2\.ffn_up_exps"
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(path)
    assert component_of(path).missing == ("blk.2.ffn_gate_exps.weight",)


@pytest.mark.parametrize(
    ("key", "name", "old"),
    [
        (("transformer", "single"), "diffusion_model.img_in.weight", "img_in.weight"),
        (
            ("transformer", "single"),
            "transformer_blocks.0.img_mod.weight",
            "transformer_blocks.0.img_mod.1.weight",
        ),
        (("text_encoder", "nvfp4"), "model.norm.weight", "norm.weight"),
        (
            ("vae", "bfl"),
            "encoder.mid_block.resnets.0.conv1.bias",
            "encoder.mid.block_1.conv1.bias",
        ),
    ],
)
def test_a_tensor_under_two_names_is_refused(
    files: dict[tuple[str, str], Path], tmp_path: Path, key: tuple[str, str], name: str, old: str
) -> None:
    """Which of them counts would be chance."""

    def twice(content: dict[str, Tensor]) -> None:
        if name.startswith("diffusion_model."):
            content |= {f"diffusion_model.{n}": content.pop(n) for n in [*content] if n != old}
        content[name] = torch.zeros_like(content[old])

    path = changed(files, key, tmp_path, twice)
    assert sorted(component_of(path).unexpected[0].split(" and ")) == sorted([name, old])
    with pytest.raises(CheckpointError, match="has the same tensor twice"):
        LAYOUTS[key](path)


@pytest.mark.parametrize(
    ("key", "name", "dtype"),
    [
        (("transformer", "single"), "img_in.weight", torch.int32),
        (("transformer", "single"), "img_in.bias", torch.bool),
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight_scale", torch.float32),
        (("transformer", "mxfp8"), "transformer_blocks.1.img_mlp.w1.weight_scale", torch.int8),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_blocks", torch.int8),
        (("text_encoder", "mxfp4"), f"model.{EXPERTS}_scales", torch.float32),
        (("text_encoder", "nvfp4"), f"{EXPERTS}.weight_scale", torch.float8_e5m2),
        (("text_encoder", "nvfp4"), "tokenizer_json", torch.bfloat16),
        (("vae", "bfl"), "bn.running_mean", torch.int64),
    ],
)
def test_numbers_of_another_kind_are_refused(
    files: dict[tuple[str, str], Path],
    tmp_path: Path,
    key: tuple[str, str],
    name: str,
    dtype: torch.dtype,
) -> None:
    """Packed bits are never taken for others, nor whole numbers for weights."""

    def turn(content: dict[str, Tensor]) -> None:
        content[name] = content[name].to(dtype)

    path = changed(files, key, tmp_path, turn)
    with pytest.raises(CheckpointError, match=name.rpartition(".")[2]):
        LAYOUTS[key](path)


def test_a_configuration_of_no_such_model_is_refused(
    files: dict[tuple[str, str], Path],
) -> None:
    with pytest.raises(CheckpointError, match="not the configuration of a Lens denoiser"):
        load_denoiser(files["transformer", "single"], config={"num_layers": "two"})
    stated = json.loads(read_header(files["text_encoder", "nvfp4"]).metadata["lens_config"])
    for wrong in ({"num_hidden_layers": "two"}, {"num_attention_heads": 0}, {"vocab_size": -1}):
        with pytest.raises(CheckpointError, match="not the configuration of a GPT-OSS"):
            load_text_encoder(files["text_encoder", "nvfp4"], config={**stated, **wrong})
    with pytest.raises(CheckpointError, match="not the configuration of a FLUX"):
        load_vae_weights(files["vae", "bfl"], config={"act_fn": None, "norm_num_groups": 0})


def test_notes_of_other_formats_are_refused(
    files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    def rename(content: dict[str, Tensor]) -> None:
        note = torch.frombuffer(bytearray(b'{"format": "fp3"}'), dtype=torch.uint8)
        content["transformer_blocks.0.img_mlp.w1.comfy_quant"] = note

    path = changed(files, ("transformer", "mxfp8"), tmp_path, rename)
    with pytest.raises(CheckpointError, match="'fp3'"):
        load_denoiser(path)

    def empty(content: dict[str, Tensor]) -> None:
        content["transformer_blocks.0.img_mlp.w1.comfy_quant"] = torch.tensor(3)

    with pytest.raises(CheckpointError, match="says no format"):
        load_denoiser(changed(files, ("transformer", "mxfp8"), tmp_path, empty))


def test_float16_is_refused_everywhere(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    for key, loader in LAYOUTS.items():
        with pytest.raises(PrecisionError, match="float16"):
            loader(files[key], torch.float16)
    with pytest.raises(PrecisionError, match="float16"):
        convert(files["vae", "bfl"], Target(tmp_path / "x", torch.float16), "single")


def test_a_file_of_unknown_widths_asks_for_its_configuration() -> None:
    with pytest.raises(CheckpointError, match=r"inner_dim 128, the published Lens 1536: give its"):
        load_denoiser(GOLDEN / "transformer.safetensors")
    with pytest.raises(CheckpointError, match="not a Lens denoiser"):
        load_denoiser(GOLDEN / "vae.safetensors")


@pytest.mark.parametrize(
    ("key", "component", "layout", "container"),
    [
        (("transformer", "single"), "denoiser", "plain", "safetensors"),
        (("transformer", "mxfp8"), "denoiser", "MXFP8", "safetensors"),
        (("transformer", "gguf"), "denoiser", "GGUF", "gguf"),
        (("text_encoder", "mxfp4"), "text encoder", "MXFP4 experts", "safetensors"),
        (("text_encoder", "nvfp4"), "text encoder", "NVFP4 experts", "safetensors"),
        (("text_encoder", "gguf"), "text encoder", "GGUF, MXFP4 experts", "gguf"),
        (("vae", "bfl"), "autoencoder", "Black Forest Labs' names", "safetensors"),
    ],
)
def test_files_are_recognised(
    files: dict[tuple[str, str], Path],
    key: tuple[str, str],
    component: str,
    layout: str,
    container: str,
) -> None:
    info = component_of(files[key])
    assert (info.component, info.layout, info.container) == (component, layout, container)
    assert info.is_complete, (info.missing, info.unexpected)
    assert info.blocks == {"denoiser": 2, "text encoder": 5, "autoencoder": 0}[component]
    assert info.size == weight_file(files[key]).stat().st_size
    assert info.has_lm_head is (False if component == "text encoder" else None)
    assert sum(info.parameters.values()) > 100_000


def test_the_released_size_is_expected_at_the_released_width(tmp_path: Path) -> None:
    content = {
        "img_in.weight": torch.zeros(1536, 128, dtype=torch.bfloat16),
        "transformer_blocks.0.attn.img_qkv.weight": torch.zeros(1),
    }
    save_file(content, tmp_path / "little.safetensors")
    info: CheckpointInfo = component_of(tmp_path / "little.safetensors")
    assert info.blocks == 48
    assert not info.is_complete
    assert "transformer_blocks.47.txt_mod.1.bias" in info.missing


def test_strangers_are_said_to_be_unknown(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert inspect_checkpoint(tmp_path / "other.safetensors")[0].component == "unknown"
    with pytest.raises(CheckpointError, match="no part of Lens"):
        component_of(tmp_path / "other.safetensors")


def test_looking_into_files_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from lens_core.checkpoints.inspect import inspect_checkpoint\n"
        f"info, = inspect_checkpoint({str(GOLDEN / 'transformer.safetensors')!r})\n"
        "assert info.is_complete\n"
        "assert not {'torch', 'diffusers', 'transformers', 'safetensors'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
