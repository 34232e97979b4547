"""What a weight file is, told from its header alone, without torch and before loading."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lens_core.checkpoints import names
from lens_core.checkpoints.header import FileHeader, TensorHeader, read_header
from lens_core.errors import CheckpointError

Component = Literal["denoiser", "text encoder", "autoencoder", "LoRA", "unknown"]
Tensors = Mapping[str, TensorHeader]

_WIDTH = {"denoiser": 1536, "text encoder": 2880}
_BLOCKS = {"denoiser": 48, "text encoder": 24}
_EXPERT_PARTS = {
    "MXFP4": ("_blocks", "_scales"),
    "NVFP4": (".weight", ".weight_scale", ".weight_scale_2"),
    "plain": ("",),
}
_SUBFOLDERS = (
    ("transformer", "diffusion_pytorch_model"),
    ("text_encoder", "model"),
    ("vae", "diffusion_pytorch_model"),
)


@dataclass(frozen=True)
class CheckpointInfo:
    """What was found out about a file, or the files of one component.

    Attributes:
        path: File or folder.
        component: Which part of a pipeline it is.
        layout: How its weights are kept, in words.
        container: `safetensors` or `gguf`.
        size: Bytes of all files.
        tensors: Their count.
        parameters: Their values in number format, most used first, by the container's type names.
        blocks: Transformer blocks or layers; 0 where there are none.
        has_lm_head: Whether a text encoder can also write; None for other components.
        carries: What else is inside, such as a tokenizer.
        missing: Names that this component needs and the file lacks.
        unexpected: Names that this component does not have.
    """

    path: Path
    component: Component
    layout: str
    container: str
    size: int
    tensors: int
    parameters: Mapping[str, int]
    blocks: int = 0
    has_lm_head: bool | None = None
    carries: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(default=(), repr=False)
    unexpected: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor is there and none too many, by name."""
        return self.component != "unknown" and not self.missing and not self.unexpected


@dataclass(frozen=True)
class _Names:
    """The names of a file, read as those of one component."""

    layout: str
    found: set[str]
    expected: set[str]
    optional: frozenset[str] = frozenset()
    blocks: int = 0
    has_lm_head: bool | None = None
    carries: tuple[str, ...] = ()


def inspect_checkpoint(path: str | Path) -> list[CheckpointInfo]:
    """Look into a file, a component's folder or a whole Lens folder.

    Returns:
        One entry for each component.

    Raises:
        CheckpointError: Nothing readable is there; a pickle; a file that ends too early.
    """
    source = Path(path)
    if not source.is_dir():
        return [_info(source, [read_header(source)])]
    parts = [(source / name, stem) for name, stem in _SUBFOLDERS if (source / name).is_dir()]
    if parts:
        return [_component(folder, (stem,)) for folder, stem in parts]
    return [_component(source, ("model", "diffusion_pytorch_model", "adapter_model"))]


def _component(folder: Path, stems: tuple[str, ...]) -> CheckpointInfo:
    from lens_core.checkpoint_files import has_weights, variants_in, weight_files

    stem = next((stem for stem in stems if any(folder.glob(f"{stem}*"))), stems[0])
    variants = [] if has_weights(folder, stem) else variants_in(folder, stem)
    files = weight_files(folder, stem, variants[0] if variants else None)
    return _info(folder, [read_header(file) for file in files])


def _info(path: Path, headers: list[FileHeader]) -> CheckpointInfo:
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    component = _recognise(tensors)
    container = headers[0].container
    reading = _READERS[component](tensors, container)
    parameters: dict[str, int] = {}
    for header in headers:
        for dtype, count in header.dtypes.items():
            parameters[dtype] = parameters.get(dtype, 0) + count
    return CheckpointInfo(
        path=path,
        component=component,
        layout=reading.layout,
        container=container,
        size=sum(header.size for header in headers),
        tensors=len(tensors),
        parameters=dict(sorted(parameters.items(), key=lambda item: -item[1])),
        blocks=reading.blocks,
        has_lm_head=reading.has_lm_head,
        carries=reading.carries,
        missing=tuple(sorted(reading.expected - reading.found)),
        unexpected=tuple(sorted(reading.found - reading.expected - reading.optional)),
    )


def component_of(path: str | Path) -> CheckpointInfo:
    """The one component that a file or folder is.

    Raises:
        CheckpointError: It is a whole model, or nothing that is known.
    """
    found = inspect_checkpoint(path)
    if len(found) > 1:
        raise CheckpointError(f"{path} is a whole model; name one of its subfolders")
    if found[0].component == "unknown":
        raise CheckpointError(f"{path} holds no part of Lens that is known by its tensors' names")
    return found[0]


def _recognise(tensors: Iterable[str]) -> Component:
    listed = list(tensors)

    def any_has(*parts: str) -> bool:
        return any(part in name for name in listed for part in parts)

    if any_has(".lora_", "lora_A.", "lora_B.", "lora.down.") or names.other_adapters(listed):
        return "LoRA"
    if any_has(".attn.img_qkv.", ".attn.norm_added_q.", ".img_mlp.w1."):
        return "denoiser"
    if any_has("self_attn.sinks", "attn_sinks", "mlp.router.", "ffn_gate_inp."):
        return "text encoder"
    if any_has("decoder.conv_in.", "decoder.mid_block.", "decoder.mid."):
        return "autoencoder"
    return "unknown"


def _blocks(component: str, width: int, counted: int) -> int:
    """How many there must be: the published number at the published width."""
    return _BLOCKS[component] if width == _WIDTH[component] else counted


def _found(known_as: Mapping[str, str]) -> set[str]:
    """The names that a file has, and what it holds twice under different ones."""
    return {*known_as.values(), *names.repeated(known_as)}


def _side(tensor: TensorHeader | None, axis: int, otherwise: int) -> int:
    return tensor.shape[axis] if tensor is not None and len(tensor.shape) > axis else otherwise


def _read_denoiser(tensors: Tensors, container: str) -> _Names:
    wanted = names.strip_denoiser(tensors)
    plain = {wanted[name]: tensor for name, tensor in tensors.items() if name in wanted}
    carries = () if len(wanted) == len(tensors) else ("autoencoder",)
    width = _side(plain.get("img_in.weight"), 0, _WIDTH["denoiser"])
    blocks = _blocks("denoiser", width, names.count_blocks(plain, "transformer_blocks."))
    expected = names.denoiser_names(blocks, max(names.count_blocks(plain, "txt_norm."), 1))
    floats = {name for name, tensor in plain.items() if tensor.dtype == "F8_E4M3"}
    layout = "GGUF" if container == "gguf" else "plain"
    if floats:
        layout = "MXFP8"
        expected |= {f"{name}_scale" for name in floats}
    optional = frozenset(f"{name.removesuffix('.weight')}.comfy_quant" for name in floats)
    return _Names(layout, _found(wanted), expected, optional, blocks, None, carries)


def _read_encoder(tensors: Tensors, container: str) -> _Names:
    if container == "gguf":
        return _read_gguf_encoder(tensors)
    known = names.encoder_from_comfy(tensors)
    plain = {known[name]: tensor for name, tensor in tensors.items()}
    carries = ("tokenizer",) if names.TOKENIZER in plain else ()
    packing = "plain"
    if any(name.endswith("_proj_blocks") for name in plain):
        packing = "MXFP4"
    elif any(name.endswith(".weight_scale_2") for name in plain):
        packing = "NVFP4"
    blocks = _encoder_blocks(plain, "layers.")
    expected = names.encoder_names(blocks)
    bases = {
        f"model.layers.{layer}.mlp.experts.{matrix}"
        for layer in range(blocks)
        for matrix in ("gate_up_proj", "down_proj")
    }
    expected |= {base + part for base in bases for part in _EXPERT_PARTS[packing]}
    optional = {names.TOKENIZER, "lm_head.weight"} | {f"{base}.comfy_quant" for base in bases}
    return _Names(
        f"{packing} experts",
        _found(known),
        expected,
        frozenset(optional),
        blocks,
        "lm_head.weight" in plain,
        carries,
    )


def _read_gguf_encoder(tensors: Tensors) -> _Names:
    known = {name: names.encoder_from_gguf(name) for name in tensors}
    found = {known[name]: tensor for name, tensor in tensors.items()}
    blocks = _encoder_blocks(found, "blk.")
    expected = {name for name in names.encoder_names(blocks) if ".mlp.experts." not in name}
    expected |= {
        f"blk.{layer}.ffn_{part}_exps.{kind}"
        for layer in range(blocks)
        for part in ("gate", "up", "down")
        for kind in ("weight", "bias")
    }
    kinds = {t.dtype for name, t in found.items() if name.endswith("_exps.weight")}
    head = "lm_head.weight" in found
    layout = f"GGUF, {' and '.join(sorted(kinds))} experts"
    return _Names(layout, _found(known), expected, frozenset({"lm_head.weight"}), blocks, head)


def _encoder_blocks(tensors: Tensors, stem: str) -> int:
    width = _side(tensors.get("model.embed_tokens.weight"), 1, _WIDTH["text encoder"])
    return _blocks("text encoder", width, names.count_blocks(tensors, stem))


def _read_vae(tensors: Tensors, container: str) -> _Names:
    prefix = names.find_prefix(tensors, names.VAE_PREFIXES, names.VAE_ROOTS)
    known = {name: name.removeprefix(prefix) for name in tensors}
    layout = "diffusers names"
    if names.uses_bfl_vae(known.values()):
        theirs = names.vae_to_diffusers(set(known.values()))
        layout, known = "Black Forest Labs' names", {n: theirs[k] for n, k in known.items()}
    found = _found(known)
    levels = names.count_blocks(found, "up_blocks.")
    per_level = names.count_blocks([n for n in found if ".down_blocks.0." in n], "resnets.")
    expected = names.vae_names(levels, per_level)
    optional = {name for name in found if ".conv_shortcut." in name}
    return _Names(layout, found, expected, frozenset(optional | {"bn.num_batches_tracked"}))


def _read_lora(tensors: Tensors, container: str) -> _Names:
    found = set(tensors)
    blocks = names.count_blocks((name.replace("_", ".") for name in found), "transformer.blocks.")
    kinds = names.other_adapters(found)
    layout = f"{' and '.join(kinds)}, which cannot be loaded" if kinds else "LoRA"
    return _Names(layout, found, found, blocks=blocks)


def _read_unknown(tensors: Tensors, container: str) -> _Names:
    return _Names("unknown", set(tensors), set(tensors))


_READERS = {
    "denoiser": _read_denoiser,
    "text encoder": _read_encoder,
    "autoencoder": _read_vae,
    "LoRA": _read_lora,
    "unknown": _read_unknown,
}
