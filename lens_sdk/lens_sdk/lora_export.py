"""LoRAs in the form that other programs read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.errors import CheckpointError, ParameterError

if TYPE_CHECKING:
    import torch

LAYOUT = "comfy"
_PAIR = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.|transformer\.)*(.+)\.lora_([AB])(?:\.\w+)?\.weight"
)


def export_lora(source: str | Path, target: Path, layout: str, dtype: torch.dtype) -> None:
    """Write a LoRA as one file with the names that ComfyUI knows, and its strength inside.

    PEFT's folders name modules in their own way and keep the strength in a second file: other
    programs leave such tensors out, or take the strength to be 1.

    Args:
        source: PEFT's folder or file, such as `lora/weights` of `lens train lora`.
        target: The file; it must not exist.
        layout: "comfy".
        dtype: Of the matrices.

    Raises:
        CheckpointError: The source is no LoRA with PEFT's names; the target exists.
        ParameterError: There is no such layout.
    """
    import torch
    from safetensors.torch import save_file

    from lens_core.checkpoints.lora_files import ADAPTER_STEM, read_lora
    from lens_core.checkpoints.weights import open_weights

    if layout != LAYOUT:
        raise ParameterError(f"{source} is a LoRA, which can be written as {LAYOUT}, not {layout}")
    if target.exists():
        raise CheckpointError(f"{target} exists already")
    sides: dict[str, dict[str, tuple[int, ...]]] = {"A": {}, "B": {}}
    for name, tensor in open_weights(source, ADAPTER_STEM).tensors.items():
        if found := _PAIR.fullmatch(name):
            sides[found[2]][found[1]] = tuple(tensor.shape)
    both = sides["A"].keys() & sides["B"].keys()
    if not both:
        raise CheckpointError(f"{source} has no pairs with PEFT's names (lora_A, lora_B)")
    lora = read_lora(source, {name: (sides["B"][name][0], sides["A"][name][1]) for name in both})
    tensors = {}
    for module in sorted(lora.down):
        place = f"diffusion_model.{module}"
        tensors[f"{place}.lora_A.weight"] = lora.down[module].to(dtype).contiguous()
        tensors[f"{place}.lora_B.weight"] = lora.up[module].to(dtype).contiguous()
        tensors[f"{place}.alpha"] = torch.tensor(lora.alpha[module])
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
