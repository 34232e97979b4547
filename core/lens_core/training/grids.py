"""Sample grids: the same captions and seeds each time, so that progress shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lens_core.nano.captions import dense_caption
from lens_core.nano.sampling import sample_scene
from lens_core.nano.vocabulary import TASKS
from lens_core.pipeline import LensPipeline


def grid_prompts(per_task: int = 4, seed: int = 20_000_003) -> list[str]:
    """Dense captions of held-out scenes, a few per task."""
    rng = np.random.default_rng((seed, 9))
    return [
        dense_caption(sample_scene(rng, task, (128, 128)), rng)
        for task in TASKS
        for _ in range(per_task)
    ]


def save_grid(
    pipeline: LensPipeline, path: Path, given: Sequence[str] = (), columns: int = 8
) -> None:
    """Draw prompts with seeds 0, 1, ... and save them as one picture.

    Args:
        pipeline: Draws.
        path: Of the picture file.
        given: The prompts; `grid_prompts` without any.
        columns: Pictures side by side.
    """
    prompts = list(given) or grid_prompts()
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    output = pipeline(prompts, generator=generators, output_type="pil", return_dict=False)
    save_sheet(list(output[0]), path, columns)


def save_sheet(pictures: list[Image.Image], path: Path, columns: int, gap: int = 4) -> None:
    """Lay pictures of one size out in rows, on white."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap), rows * (height + gap)), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
