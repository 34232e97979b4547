"""The shipped checkpoint: its size, and what its parts can do by themselves."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lens_core
from lens_core import LensPipeline
from lens_core.latents import decode_tokens, encode_pixels
from lens_core.nano.captions import dense_caption
from lens_core.nano.detector import detect
from lens_core.nano.drawing import render
from lens_core.nano.sampling import sample_scene
from lens_core.training.objective import noised

FOLDER = Path(lens_core.__file__).parent / "weights" / "lens-nano"


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return LensPipeline.from_pretrained(FOLDER)


def test_weights_are_under_16_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.safetensors")) < 16e6


@torch.inference_mode()
def test_autoencoder_keeps_what_the_detector_needs(pipeline: LensPipeline) -> None:
    """The ceiling of every later measurement: scenes read back exactly after encode and decode."""
    rng = np.random.default_rng(20_011)
    exact = 0
    for _ in range(100):
        scene = sample_scene(rng)
        pixels = torch.from_numpy(np.array(render(scene))).permute(2, 0, 1)[None] / 127.5 - 1
        height, width = scene.height // 16, scene.width // 16
        decoded = decode_tokens(encode_pixels(pixels, pipeline.vae), pipeline.vae, height, width)
        levels = ((decoded[0].clamp(-1, 1) + 1) * 127.5).round().byte()
        found = detect(Image.fromarray(levels.permute(1, 2, 0).numpy()))
        truth = Counter((item.cls, item.color) for item in scene.objects)
        exact += Counter((item.cls, item.color) for item in found) == truth
    assert exact >= 98


@torch.inference_mode()
def test_right_caption_predicts_the_picture_better_than_another(pipeline: LensPipeline) -> None:
    """The denoiser reads its text: at sigma 0.9 a scene's own caption lowers the error."""
    rng = np.random.default_rng(20_021)
    scenes = [sample_scene(rng, size=(128, 128)) for _ in range(24)]
    pictures = torch.stack([torch.from_numpy(np.array(render(scene))) for scene in scenes])
    latents = encode_pixels(pictures.permute(0, 3, 1, 2) / 127.5 - 1, pipeline.vae)
    features, mask = pipeline.encode_prompt([dense_caption(scene, rng) for scene in scenes])
    sigmas = torch.full((24,), 0.9)
    noisy, velocity = noised(latents, sigmas, torch.Generator().manual_seed(0))

    def error(shift: int) -> float:
        rows = [part.roll(shift, 0) for part in features]
        arguments = (noisy, rows, mask.roll(shift, 0), sigmas, [(1, 8, 8)], False)
        predicted = pipeline.transformer(*arguments)[0]
        return float((predicted - velocity).square().mean())

    assert error(0) < 0.9 * error(1)
