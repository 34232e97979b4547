"""LoRAs in the form that other programs read."""

import re
from pathlib import Path

import torch

from lens_core.checkpoints.lora_files import ADAPTER_STEM, read_lora
from lens_core.checkpoints.weights import open_weights
from lens_core.checkpoints.writers import NamedTensors, write_file
from lens_core.errors import CheckpointError

_PAIR = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.|transformer\.)*(.+)\.lora_([AB])(?:\.\w+)?\.weight"
)


def write_comfy_lora(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a LoRA as one file with the names that ComfyUI knows, and its strength inside.

    PEFT's folders name modules in their own way and keep the strength in a second file: other
    programs leave such tensors out, or take the strength to be 1.

    Args:
        source: PEFT's folder or file, such as `lora/weights` of `lens train lora`.
        target: The file; it must not exist.
        dtype: Of the matrices.

    Raises:
        CheckpointError: The source is no LoRA with PEFT's names; the target exists.
    """
    lora = read_lora(source, _named_modules(source))

    def named() -> NamedTensors:
        for module in sorted(lora.down):
            place = f"diffusion_model.{module}"
            yield f"{place}.lora_A.weight", lora.down[module].to(dtype)
            yield f"{place}.lora_B.weight", lora.up[module].to(dtype)
            yield f"{place}.alpha", torch.tensor(lora.alpha[module])

    write_file(target, named())


def _named_modules(source: Path) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the modules that a file with PEFT's names changes."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {"A": {}, "B": {}}
    for name, tensor in open_weights(source, ADAPTER_STEM).tensors.items():
        if found := _PAIR.fullmatch(name):
            sides[found[2]][found[1]] = tuple(tensor.shape)
    both = sides["A"].keys() & sides["B"].keys()
    if not both:
        raise CheckpointError(f"{source} has no pairs with PEFT's names (lora_A, lora_B)")
    return {name: (sides["B"][name][0], sides["A"][name][1]) for name in both}
