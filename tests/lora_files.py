"""LoRA files of random weights in every known key style, and what they should do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from golden_components import max_error
from lens_core import LensPipeline
from lens_core.checkpoints.lora_files import linear_shapes
from tiny_components import tiny_transformer

SHAPES = linear_shapes(tiny_transformer())
MODULES = [name for name in SHAPES if ".attn." in name or "_mlp." in name]
Pairs = dict[str, tuple[Tensor, Tensor]]
Change = tuple[Pairs, float]


def random_pairs(rank: int, seed: int, modules: Sequence[str] = MODULES) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(rank, SHAPES[name][1], generator=generator) * 0.2,
            torch.randn(SHAPES[name][0], rank, generator=generator) * 0.2,
        )
        for name in modules
    }


def peft(prefix: str, suffix: str = "") -> Callable[[str], tuple[str, str, str]]:
    def keys(module: str) -> tuple[str, str, str]:
        start = f"{prefix}{module}"
        sides = [f"{start}.lora_{side}{suffix}.weight" for side in ("A", "B")]
        return sides[0], sides[1], f"{start}.alpha"

    return keys


def kohya(prefix: str) -> Callable[[str], tuple[str, str, str]]:
    def keys(module: str) -> tuple[str, str, str]:
        start = f"{prefix}{module.replace('.', '_')}"
        return f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"

    return keys


STYLES = {
    "bare": peft(""),
    "adapter name": peft("", ".default"),
    "base_model": peft("base_model.model."),
    "base_model.transformer": peft("base_model.model.transformer."),
    "diffusion_model": peft("diffusion_model."),
    "transformer": peft("transformer."),
    "kohya": kohya("lora_unet_"),
    "lora_transformer": kohya("lora_transformer_"),
}


def write(path: Path, pairs: Pairs, style: str = "bare", alpha: float | None = None) -> Path:
    content = {}
    for module, (down, up) in pairs.items():
        names = STYLES[style](module)
        content |= {names[0]: down, names[1]: up}
        if alpha is not None:
            content[names[2]] = torch.tensor(alpha)
    save_file(content, path)
    return path


def output(model: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 16, 16, generator=generator)
    text = [torch.randn(1, 5, 16, generator=generator) for _ in range(2)]
    with torch.no_grad():
        sample: Tensor = model(image, text, None, torch.tensor([0.5]), [(1, 4, 4)]).sample
    return sample


def with_changes(*changes: Change) -> Tensor:
    """The same by adding matrices to a fresh model's weights."""
    model = tiny_transformer()
    with torch.no_grad():
        for pairs, scale in changes:
            for module, (down, up) in pairs.items():
                model.get_submodule(module).weight += scale * up @ down
    return output(model)


FIRST, SECOND = random_pairs(4, 1), random_pairs(2, 2, MODULES[::2])


def with_loras(pipeline: LensPipeline, folder: Path) -> LensPipeline:
    pipeline.load_lora_weights(write(folder / "1.safetensors", FIRST), "one", 0.8)
    pipeline.load_lora_weights(write(folder / "2.safetensors", SECOND), "two", 0.4)
    return pipeline


def is_as(pipeline: LensPipeline, first: float, second: float) -> bool:
    """Whether the denoiser computes what it should with these weights, and the records say them."""
    expected = with_changes((FIRST, first), (SECOND, second))
    records = pipeline.lora_records
    said = [records[name]["weight"] for name in ("one", "two") if name in records]
    assert said in ([], pytest.approx([first, second]))
    return max_error(output(pipeline.transformer), expected) < 2e-6
