"""The score of a finished model: held-out prompts, drawn as inference draws."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from lens_core.errors import NonFiniteError
from lens_core.pipeline import LensPipeline
from lens_core.training.ablation.config import AblationConfig
from lens_core.training.devices import place
from lens_core.training.fields import LensField
from lens_core.training.prompts import load_prompts, read_prompts
from lens_core.training.renderer import Renderer
from lens_core.training.rewards import RewardQueue, load_reward
from lens_core.training.validation import Validation
from lens_core.training.workers import Workers

_SEED = 977
"""Of prompts and noise; the same for every cell, and none of a training's or of NanoEval's."""


class CellScore(BaseModel):
    """How well a cell's model draws.

    Attributes:
        score: Mean reward.
        strict: Share of pictures that are right in everything, where the reward tells.
        pictures: How many there were.
    """

    model_config = ConfigDict(frozen=True)

    score: float
    strict: float | None
    pictures: int


def score_pipeline(folder: Path, config: AblationConfig) -> CellScore:
    """Draw the held-out prompts with a pipeline and score the pictures.

    Raises:
        NonFiniteError: No picture could be scored.
    """
    device = place(config.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    pipeline = LensPipeline.from_pretrained(folder, dtype=dtype, device=device)
    renderer = Renderer(pipeline, device)
    queue = RewardQueue(load_reward(config.reward, config.reward_options), 16, 120.0)
    if config.prompts == "nano":
        prompts = load_prompts("nano", None, _SEED, 0.5).held_out(config.pictures)
    else:
        prompts = read_prompts(Path(config.prompts))[: config.pictures]
    validation = Validation(
        renderer, queue, prompts, config.sizes, _SEED, config.batch_size, Workers()
    )
    try:
        found = validation.run(
            lambda size: LensField(pipeline.transformer, renderer.grid(size), dtype),
            pipeline.default_sigmas(config.sampling_steps),
            config.guidance_scale,
        )
    finally:
        queue.close()
    if not found["scored"]:
        raise NonFiniteError(f"none of {len(prompts)} pictures of {folder} could be scored")
    strict = found.get("strict")
    return CellScore(
        score=_number(found["reward"]),
        strict=None if strict is None else _number(strict),
        pictures=int(_number(found["scored"])),
    )


def _number(value: float | list[float]) -> float:
    if isinstance(value, list):
        raise TypeError(f"{value} is a list")
    return float(value)
