"""A server for replicas: it draws slowly, and writes down which process drew what."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    StepCallback,
    StepProgress,
)
from lens_reasoner.parts import LoopParts
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.limits import ServerLimits

KEY = "a-key-of-more-than-16-characters"
STEP_SECONDS = 0.05


class Painter(BlockingGenerator):
    """Paints a picture in the colour of its seed."""

    name = "painter"
    capabilities = Capabilities(seed=True, steps=True)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._drawn = folder / "drawn.txt"

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        with self._drawn.open("a") as drawn:
            drawn.write(f"{os.getpid()} {prompt}\n")
        steps = settings.num_inference_steps or 1
        for step in range(1, steps + 1):
            time.sleep(STEP_SECONDS)
            on_step(StepProgress(step=step, total=steps))
        return [
            GeneratedImage.from_pil(
                Image.new("RGB", (8, 8), (seed % 256, 0, 0)),
                prompt=prompt,
                seed=seed,
                settings=settings,
                generator=self.name,
            )
            for seed in seeds
        ]


def configure(folder: Path) -> ServerConfig:
    """A replica's server; its generator draws, and nobody rewrites or judges."""
    parts, limits = LoopParts(generator=Painter(folder)), ServerLimits(steps=10_000)
    return ServerConfig(parts, folder=folder, keys=ApiKeys([KEY]), limits=limits)
