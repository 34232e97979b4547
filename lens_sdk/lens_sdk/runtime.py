"""A Lens checkpoint in memory, loaded once and shared by all its users."""

from __future__ import annotations

import hashlib
import json
from asyncio import get_running_loop
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lens_core.errors import LensCoreError
from lens_core.memory.plan import AUTO, find_plan
from lens_reasoner.errors import GeneratorError
from lens_sdk.models import LensModel
from lens_sdk.turn_lock import TurnLock

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline
    from lens_core.sizes import SizeRules

T = TypeVar("T")


class LensRuntime:
    """Loads a model's pipeline on first use and gives it to one thread at a time.

    The nano model's generator and reasoner share one runtime, so that the text encoder is in memory
    only once.
    """

    def __init__(self, model: LensModel) -> None:
        self.model = model
        self._pipeline: LensPipeline | None = None
        self._lock = TurnLock()
        self._memory: str | None = None
        self._feature_cache: Path | None = None
        self._speed: str | None = None
        self._loras: tuple[tuple[Path, float], ...] = ()

    @classmethod
    def of_pipeline(cls, model: LensModel, pipeline: LensPipeline) -> LensRuntime:
        """Wrap a pipeline that is already in memory."""
        runtime = cls(model)
        runtime._pipeline = pipeline
        return runtime

    @cached_property
    def fingerprint(self) -> str:
        """Identifies weights, settings, LoRAs, plans and the versions of computing libraries.

        Weight files too large to hash are identified by path, size and modification time.
        """
        from lens_sdk.metadata import versions

        weights = {
            name: what if what["sha256"] else [str(path), path.stat().st_mtime_ns, what["bytes"]]
            for name, what in self.model.weights.items()
            for path in [self.model.files[name].resolve()]
        }
        loras = [[_digest(path), weight] for path, weight in self._loras]
        plans = [plan for plan in (self._memory, self._speed) if plan is not None]
        text = json.dumps([weights, self._index(), versions(), *loras, *plans], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _index(self) -> str | None:
        """Digest of the file with the checkpoint's own steps, guidance and noise levels."""
        path = None if self.model.folder is None else self.model.folder / "model_index.json"
        if path is None or not path.is_file():
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def plan_memory(self, memory: str | None = None, feature_cache: Path | None = None) -> None:
        """Set how the weights use the device's memory, before they are loaded.

        Args:
            memory: `auto` or the name of a plan; see `lens_core.memory.plan`.
            feature_cache: Folder where text features are kept and reused.

        Raises:
            ParameterError: There is no such plan.
        """
        if memory not in {None, AUTO}:
            find_plan(str(memory))
        self._memory, self._feature_cache = memory, feature_cache

    def plan_loras(self, loras: Sequence[tuple[Path, float]]) -> None:
        """Set which LoRAs to apply, and how strongly, before the weights are loaded.

        Args:
            loras: Files in any known key style or PEFT folders, each with its weight.

        Raises:
            GeneratorError: A file does not exist or is not safetensors.
        """
        for path, _ in loras:
            _digest(path)
        self._loras = tuple(loras)

    def plan_speed(self, speed: str | None = None) -> None:
        """Set which faster code paths to use, before the weights are loaded.

        Args:
            speed: The name of a plan, see `lens_core.speed.plan`; None changes nothing.

        Raises:
            ParameterError: There is no such plan.
        """
        if speed is not None:
            from lens_core.speed import named_plan

            named_plan(speed)
        self._speed = speed

    @property
    def speed(self) -> str | None:
        """The name of the speed plan; None for the pipeline's usual code paths."""
        return self._speed

    @property
    def size_rules(self) -> SizeRules:
        """The sizes the model supports; available without loading it.

        Raises:
            GeneratorError: The checkpoint's settings cannot be read.
        """
        if self._pipeline is not None:
            return self._pipeline.size_rules
        from lens_core.checkpoints.size_rules import read_size_rules

        try:
            return read_size_rules(self.model.source, self.model.vae)
        except LensCoreError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: LensCoreError) -> GeneratorError:
        return GeneratorError(
            f"The model {self.model.name!r} from {self.model.source} cannot be loaded: {error}",
            hint="Fetch the checkpoint again or choose another model.",
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._pipeline is not None

    def load(self) -> LensPipeline:
        """Return the pipeline; the first call takes seconds, or minutes for the large models.

        Raises:
            GeneratorError: The checkpoint cannot be loaded.
        """
        # Callers that only read something need not wait while an image is being generated.
        if self._pipeline is not None:
            return self._pipeline
        with self._lock, no_loading_bars():
            if self._pipeline is None:
                self._pipeline = self._read()
            return self._pipeline

    async def write(self, work: Callable[[], T]) -> T:
        """Run a text-writing job in a separate thread, one job at a time.

        Writing thus takes turns with image generation, and does not occupy the shared thread pool.
        A job that is cancelled before its turn is never started.
        """
        return await get_running_loop().run_in_executor(self._writer, copy_context().run, work)

    @cached_property
    def _writer(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="lens-writer")

    @contextmanager
    def exclusive(self) -> Iterator[LensPipeline]:
        """Lock the pipeline for one thread: reading text features changes its layers temporarily.

        Threads get it in the order in which they ask.
        """
        # Under a memory plan the text encoder is loaded on first use.
        with self._lock, no_loading_bars():
            pipeline = self.load()
            if not self.model.nano:
                yield pipeline
                return
            with _one_thread():
                yield pipeline

    def _read(self) -> LensPipeline:
        import torch

        from lens_core.checkpoints.hub import Hub
        from lens_core.pipeline import LensPipeline
        from lens_core.speed import accelerate

        try:
            pipeline = LensPipeline.from_pretrained(
                self.model.source,
                dtype=torch.float32 if self.model.nano else torch.bfloat16,
                hub=Hub(local_only=True),
                # The large models belong on the accelerator, whichever way they fit.
                memory=self._memory or (None if self.model.nano else AUTO),
                feature_cache=self._feature_cache,
            )
            for path, weight in self._loras:
                _load_lora(pipeline, path, weight)
            if self._speed is not None:
                accelerate(pipeline, self._speed)
        except LensCoreError as error:
            raise self._unreadable(error) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _load_lora(pipeline: LensPipeline, path: Path, weight: float) -> None:
    try:
        pipeline.load_lora_weights(path, weight=weight)
    except LensCoreError as error:
        raise GeneratorError(
            f"The LoRA {str(path)!r} cannot be used: {error}",
            hint="Name a safetensors file or a PEFT folder, made for this model.",
        ) from error


def _digest(lora: Path) -> str:
    from lens_core.checkpoints.lora_files import lora_digest

    try:
        return lora_digest(lora)
    except (LensCoreError, OSError) as error:
        raise GeneratorError(
            f"The LoRA {str(lora)!r} cannot be read: {error}",
            hint="Name a safetensors file or a PEFT folder.",
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: more do not help with tensors this small and hurt on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Keep transformers and diffusers from showing their own progress bars while loading."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        logging
        for logging in (transformers_logging, diffusers_logging)
        if logging.is_progress_bar_enabled()
    ]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
