"""Time per image by stage: encoding text, sampling, decoding and PNG."""

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from lens_core.bench.cases import SAMPLING, Case
from lens_core.bench.configs import PROMPT
from lens_core.bench.timing import FEWEST, PATIENCE, Timing, synchronise
from lens_core.pipeline import LensPipeline

Mark = Callable[[str], None]
"""Called when a stage is done."""


def sampling_settings(case: Case) -> dict[str, Any]:
    """Return size, steps, guidance and seed of a case as pipeline arguments."""
    steps, guidance = SAMPLING[case.what]
    return {
        "height": case.size,
        "width": case.size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": 0,
    }


def split_stages(pipeline: LensPipeline, case: Case) -> Callable[[Mark], None]:
    """Return a function that generates an image and reports each finished stage."""
    settings = sampling_settings(case)

    def draw(mark: Mark) -> None:
        embeds, mask = pipeline.encode_prompt(PROMPT)
        mark("encode")
        drawn: Any = pipeline(
            prompt_embeds=embeds, prompt_embeds_mask=mask, output_type="latent", **settings
        )
        mark("denoise")
        pixels = pipeline.decode(drawn.images, case.size, case.size)
        values = (pixels.float() * 255).round().to(torch.uint8)
        shown = values[0].permute(1, 2, 0).cpu().numpy()
        mark("decode")
        encode_png(Image.fromarray(shown), 1)
        mark("png")

    return draw


def time_stages(
    draw: Callable[[Mark], None], device: torch.device, warmup: int, repeats: int
) -> tuple[Timing, dict[str, float]]:
    """Time stages by the host's clock, waiting for the device between them.

    The stages do not overlap, so the whole takes slightly longer than a call of the pipeline.

    Args:
        draw: Generates an image, calling its argument after every stage.
        device: Where it computes.
        warmup: Number of unmeasured calls, at least 1.
        repeats: Number of measured calls; fewer if they take long.

    Returns:
        Timing of the whole, and median seconds by stage.
    """
    first = sum(_once(draw, device).values())
    for _ in range(warmup - 1):
        _once(draw, device)
    runs: list[dict[str, float]] = []
    begin = time.perf_counter()
    while len(runs) < repeats:
        runs.append(_once(draw, device))
        if len(runs) >= FEWEST and time.perf_counter() - begin > PATIENCE:
            break
    timing = Timing(first, tuple(sum(run.values()) for run in runs), "host")
    return timing, {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _once(draw: Callable[[Mark], None], device: torch.device) -> dict[str, float]:
    found: dict[str, float] = {}
    synchronise(device)
    before = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal before
        synchronise(device)
        now = time.perf_counter()
        found[stage], before = now - before, now

    draw(mark)
    return found


def encode_png(picture: Image.Image, level: int) -> bytes:
    """Encode as PNG with a zlib level from 0 (large) to 9 (slow); Pillow's default is 6."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()
