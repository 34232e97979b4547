"""Generators made from code that blocks: a base class, and plain functions."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lens_reasoner.errors import GeneratorError
from lens_reasoner.generator import Capabilities, OnUnsupported, StepCallback, StepProgress
from lens_reasoner.image import GeneratedImage
from lens_reasoner.settings import check_seeds, check_settings, rules_of
from lens_reasoner.turns import Turns
from lens_reasoner.types import GenerationSettings

if TYPE_CHECKING:
    from PIL.Image import Image


T = TypeVar("T")

Finish = Callable[[], list[GeneratedImage]]
"""Makes image files of what was drawn."""


class GenerationCancelled(Exception):  # noqa: N818 - ends a thread; no error is reported
    """Raised inside a drawing thread, through its step callback, when nobody waits any more."""


class BlockingGenerator(ABC):
    """A generator whose drawing code blocks, such as a model in this process.

    Subclasses give `name`, `capabilities` and `draw`. Drawing happens in a worker thread, one call
    at a time; cancelling the waiting task ends the drawing at its next step. What `draw` returns as
    a function is called when the next call may draw already.
    """

    def __init__(self) -> None:
        self._turns = Turns()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for records."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can honour."""

    @abstractmethod
    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage] | Finish:
        """Draw one image per seed; settings are already checked. Runs in a worker thread.

        Returns:
            The images; or what is left to do without the model, such as encoding them.
        """

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`."""
        settings = check_settings(
            settings, self.capabilities, backend=self.name, rules=rules_of(self)
        )
        check_seeds(seeds, self.capabilities, backend=self.name)
        abandoned = threading.Event()

        def report(progress: StepProgress) -> None:
            if abandoned.is_set():
                raise GenerationCancelled
            if on_step is not None:
                on_step(progress)

        def work() -> list[GeneratedImage] | Finish:
            if abandoned.is_set():
                raise GenerationCancelled
            return self.draw(prompt, seeds=seeds, settings=settings, on_step=report)

        try:
            drawn = await self._turns.run(lambda: self._carried(work))
            if callable(drawn):
                drawn = await asyncio.to_thread(self._carried, drawn)
            return list(drawn)
        finally:
            abandoned.set()

    def _carried(self, work: Callable[[], T]) -> T:
        """What `work` returns, its errors in a form that gets out of a thread."""
        try:
            return work()
        except StopIteration as error:
            # No future carries it from a thread: who waits would wait for ever.
            raise GeneratorError(
                f"The generator {self.name!r} ran out of what it iterates over.",
                hint="The original error is the cause of this one.",
            ) from error


class FunctionGenerator(BlockingGenerator):
    """A generator made from a function of prompt and seed.

    Example:
        ```python
        generator = FunctionGenerator(lambda prompt, seed: my_model(prompt, seed), name="mine")
        ```
    """

    def __init__(
        self,
        function: Callable[[str, int], Image],
        *,
        name: str = "function",
        seed: bool = True,
        on_unsupported: OnUnsupported = "raise",
    ) -> None:
        """Wrap `function`.

        Args:
            function: Takes the prompt and a seed and returns a PIL image; may block.
            name: Name for records.
            seed: Whether the same seed gives the same image.
            on_unsupported: Refuse settings beyond the prompt and the seed, or warn.
        """
        super().__init__()
        self._function = function
        self._name = name
        self._capabilities = Capabilities(seed=seed, on_unsupported=on_unsupported)

    @property
    def name(self) -> str:
        """Name for records."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """A prompt, and a seed if so declared; one image per call."""
        return self._capabilities

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        """Call the function once per seed."""
        from PIL.Image import Image

        images = []
        for index, seed in enumerate(seeds):
            started = time.perf_counter()
            picture: object = self._function(prompt, seed)
            if not isinstance(picture, Image):
                hint = "Return a PIL.Image.Image; Image.open(io.BytesIO(data)) makes one of bytes."
                if inspect.iscoroutine(picture):
                    picture.close()
                    hint = (
                        "Async functions are not for FunctionGenerator; write a Generator: an "
                        "object with name, capabilities and 'async def generate'."
                    )
                raise GeneratorError(
                    f"The function of generator {self.name!r} returned "
                    f"{type(picture).__name__}, not a PIL picture.",
                    hint=hint,
                )
            on_step(StepProgress(step=1, total=1, index=index))
            images.append(
                GeneratedImage.from_pil(
                    picture,
                    prompt=prompt,
                    seed=seed if self.capabilities.seed else None,
                    settings=settings,
                    generator=self.name,
                    timings={"generate": time.perf_counter() - started},
                )
            )
        return images
