"""Generators made from blocking code: a base class, and a wrapper for functions."""

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
"""Encodes what was generated as image files."""


class GenerationCancelled(Exception):  # noqa: N818 - ends a thread; no error is reported
    """Raised inside a generating thread, by its step callback, when the caller has gone."""


class BlockingGenerator(ABC):
    """A generator whose code blocks, such as a model in this process.

    Subclasses implement `name`, `capabilities` and `draw`. `draw` runs in a worker thread, one call
    at a time. If the waiting task is cancelled, sampling stops at its next step. If `draw` returns
    a function, that function runs while the next call may already be sampling.
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
        """What it supports."""

    @abstractmethod
    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage] | Finish:
        """Generate one image per seed, in a worker thread; the settings are already checked.

        Returns:
            The images, or a function that makes them without the model, for example by encoding.
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
        """Call `work`, with errors that can leave a thread."""
        try:
            return work()
        except StopIteration as error:
            # A future cannot carry StopIteration out of a thread: the waiting task would hang.
            raise GeneratorError(
                f"The generator {self.name!r} raised StopIteration.",
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
            on_unsupported: Whether to refuse settings other than prompt and seed, or to drop them
                with a warning.
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
        """A prompt, and a seed if declared; one image per call."""
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
                hint = "Return a PIL.Image.Image, such as Image.open(io.BytesIO(data))."
                if inspect.iscoroutine(picture):
                    picture.close()
                    hint = (
                        "FunctionGenerator does not accept async functions; write a Generator: an "
                        "object with name, capabilities and 'async def generate'."
                    )
                raise GeneratorError(
                    f"The function of generator {self.name!r} returned "
                    f"{type(picture).__name__}, not a PIL image.",
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
