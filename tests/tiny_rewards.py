"""Rewards that training tests name by import path."""

import asyncio

import numpy as np
from PIL import Image

from lens_core.training.prompts import Prompt


def brightness(unscored: str = "") -> object:
    """Mean brightness of a picture; prompts with the word `unscored` get none."""

    async def score(image: Image.Image, prompt: Prompt) -> float | None:
        await asyncio.sleep(0)
        if unscored and unscored in prompt.text:
            return None
        return float(np.asarray(image).mean() / 255)

    return score


def broken() -> object:
    """A judge that is never there."""

    def score(image: Image.Image, prompt: Prompt) -> float:
        raise ConnectionError("judge is away")

    return score
