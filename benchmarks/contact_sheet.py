"""Generate docs/images/contact-sheet.png from held-out dense captions, one row per GenEval task.

Run from the repository: python benchmarks/contact_sheet.py
"""

from pathlib import Path

import torch

import lens_core
from lens_core import LensPipeline
from lens_core.training.grids import grid_prompts, save_sheet

COLUMNS = 6

model = Path(lens_core.__file__).parent / "weights" / "lens-nano"
pipeline = LensPipeline.from_pretrained(model)
prompts = grid_prompts(per_task=COLUMNS)
generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
output = pipeline(prompts, generator=generators, return_dict=False)
save_sheet(list(output[0]), Path("docs/images/contact-sheet.png"), COLUMNS)
