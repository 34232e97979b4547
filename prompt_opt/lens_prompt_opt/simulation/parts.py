"""The simulated world as real parts: a reasoner, a generator, a judge and a fidelity checker."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lens_prompt_opt.requests import PromptSet, StudyRequest
from lens_prompt_opt.simulation.evaluator import (
    PRICES,
    Prices,
    answers_of,
    picture_of,
    rewrite_of,
    rubric_of,
    statements_of,
)
from lens_prompt_opt.simulation.world import Draws, World, seed_prompt
from lens_reasoner.generator import Capabilities, StepCallback
from lens_reasoner.image import GeneratedImage
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.revision import FidelityFinding, FidelityReport
from lens_reasoner.types import GenerationSettings, ImageRequest, Rewrite, Rubric, Usage
from lens_reasoner.verdict import CriterionVerdict, Verdict

OnCall = Callable[[str], None]
"""Called with a description of every call that would cost money."""


def _ignore(call: str) -> None:
    pass


def _paid(usd: float) -> Usage:
    return Usage(input_tokens=0, output_tokens=0, cached_tokens=0, usd=usd)


@dataclass(frozen=True)
class SimulatedReasoner:
    """Rewrites as the world determines; the request's seed varies the rewrite.

    Attributes:
        world: The world.
        prompt: Its system prompt.
        prices: Prices of calls.
        on_call: Called with a description of every call.
        seconds: Duration of a call.
    """

    world: World
    prompt: SystemPrompt
    prices: Prices = PRICES
    on_call: OnCall = _ignore
    seconds: float = 0.0

    def with_system_prompt(self, prompt: SystemPrompt) -> SimulatedReasoner:
        """See `PromptedReasoner.with_system_prompt`."""
        return SimulatedReasoner(self.world, prompt, self.prices, self.on_call, self.seconds)

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """See `Reasoner.rewrite`."""
        await asyncio.sleep(self.seconds)
        rendered = self.prompt.render()
        text = rewrite_of(self.world, rendered, request.text, request.seed or 0)
        self.on_call(f"rewrite {self.prompt.label} {request.text} {request.seed}")
        usage = _paid(self.prices.rewrite)
        return Rewrite(request=request.text, prompt=text, model="simulated", usage=usage)


@dataclass(frozen=True)
class SimulatedGenerator:
    """Generates small grey images that carry their content as metadata."""

    world: World
    prices: Prices = PRICES
    on_call: OnCall = _ignore
    seconds: float = 0.0
    name: str = "simulated"

    @property
    def capabilities(self) -> Capabilities:
        """See `Generator.capabilities`."""
        return Capabilities(seed=True, native_size=(9, 8), max_images=8)

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`."""
        await asyncio.sleep(self.seconds)
        images = []
        for seed in seeds:
            self.on_call(f"generate {prompt} {seed}")
            images.append(self._draw(prompt, seed, settings))
        return images

    def _draw(self, prompt: str, seed: int, settings: GenerationSettings) -> GeneratedImage:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        request = prompt.partition(", with ")[0]
        met = picture_of(self.world, prompt, request, seed)
        draws = Draws(f"{self.world.name}:pixels:{prompt}:{seed}")
        pixels = bytes(int(256 * draws.uniform()) for _ in range(72))
        shown = PngInfo()
        shown.add_text("shown", json.dumps({"rewrite": prompt, "seed": seed, "met": met}))
        buffer = io.BytesIO()
        Image.frombytes("L", (9, 8), pixels).save(buffer, format="PNG", pnginfo=shown)
        return GeneratedImage(
            data=buffer.getvalue(),
            seed=seed,
            prompt=prompt,
            settings=settings.model_copy(update={"width": 9, "height": 8}),
            generator=self.name,
            usage=_paid(self.prices.generate),
        )


@dataclass(frozen=True)
class SimulatedJudge:
    """Reads an image's content from its metadata, with the world's rate of errors."""

    world: World
    prices: Prices = PRICES
    on_call: OnCall = _ignore
    seconds: float = 0.0
    name: str = "simulated"

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`."""
        await asyncio.sleep(self.seconds)
        self.on_call(f"judge {image.sha256}")
        shown = json.loads(str(image.image.info["shown"]))
        answers = answers_of(
            self.world, shown["rewrite"], rubric.request, shown["seed"], shown["met"]
        )
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(criterion=name, answer=answer) for name, answer in answers.items()
            ),
            judge=self.name,
            usage=_paid(self.prices.judge),
        )


@dataclass(frozen=True)
class SimulatedFidelity:
    """Says, always correctly, what a simulated rewrite states."""

    world: World

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """See `FidelityChecker.check`."""
        said = statements_of(self.world, prompt, request.text)
        return FidelityReport(
            prompt=prompt,
            findings=tuple(
                FidelityFinding(criterion=name, status=status) for name, status in said.items()
            ),
            checker="simulated",
            usage=Usage.zero(),
        )


def simulated_requests(world: World, count: int) -> PromptSet:
    """Requests of the world with their rubrics."""
    names = [f"request {number}" for number in range(count)]
    return PromptSet(
        requests=tuple(
            StudyRequest(id=name, request=ImageRequest(text=name), rubric=rubric_of(world, name))
            for name in names
        )
    )


def simulated_reasoner(
    world: World, *, on_call: OnCall = _ignore, seconds: float = 0.0
) -> SimulatedReasoner:
    """The world's reasoner with its poor seed prompt."""
    return SimulatedReasoner(world, seed_prompt(), on_call=on_call, seconds=seconds)
