"""Fits the preview map of a nano checkpoint: `python -m lens_core.nano.preview_map FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from lens_core.latents import decode_tokens, encode_pixels
from lens_core.loading import load_vae
from lens_core.nano.drawing import render
from lens_core.nano.sampling import sample_scene
from lens_core.previews import FILE_NAME, PreviewMap
from lens_core.source_pictures import to_pixels

SIDE = 128
FITTED, HELD_OUT = 400, 40
_GRID = SIDE // 16
_BATCH = 20


@torch.no_grad()
def scenes_and_tokens(vae: AutoencoderKLFlux2, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Encode random scenes with the autoencoder and decode them again.

    Returns:
        Tokens `[count, h, w, channels]`, and pixels `[count, 3, H, W]` in [0, 1] decoded from them.
    """
    rng = np.random.default_rng(seed)
    tokens, pixels = [], []
    for _ in range(0, count, _BATCH):
        scenes = [render(sample_scene(rng, size=(SIDE, SIDE))) for _ in range(_BATCH)]
        encoded = encode_pixels(to_pixels(scenes), vae)
        tokens.append(encoded.reshape(_BATCH, _GRID, _GRID, -1))
        pixels.append((decode_tokens(encoded, vae, _GRID, _GRID) / 2 + 0.5).clamp(0, 1))
    return torch.cat(tokens), torch.cat(pixels)


def error_of(fitted: PreviewMap, tokens: Tensor, pixels: Tensor) -> tuple[float, float]:
    """Return the RMS error of previews against decoded images, and that of one flat colour."""
    height, width = tokens.shape[1:3]
    sides = (height * fitted.cell, width * fitted.cell)
    small = torch.nn.functional.adaptive_avg_pool2d(pixels, sides)
    shown = fitted.pixels(tokens.flatten(1, 2), height, width)
    flat = small.mean((2, 3), keepdim=True)
    return float((shown - small).square().mean().sqrt()), float(
        (flat - small).square().mean().sqrt()
    )


def main() -> None:
    """Fit, measure on other scenes, and write the map into the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a nano checkpoint in the diffusers layout")
    folder: Path = parser.parse_args().folder
    vae = load_vae(folder / "vae")
    fitted = PreviewMap.fitted(*scenes_and_tokens(vae, FITTED, seed=0))
    error, flat = error_of(fitted, *scenes_and_tokens(vae, HELD_OUT, seed=1))
    fitted.save(folder / "vae" / FILE_NAME)
    print(f"error on {HELD_OUT} other scenes: {error:.4f} (one flat colour per scene: {flat:.4f})")


if __name__ == "__main__":
    main()
