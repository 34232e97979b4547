"""Generating images with any text-to-image pipeline of the diffusers library."""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_reasoner.blocking import BlockingGenerator, Finish
from lens_reasoner.errors import GeneratorError, UnsupportedSettingWarning
from lens_reasoner.generator import Capabilities, OnUnsupported, StepCallback, StepProgress
from lens_reasoner.generators.diffusers_identity import pipeline_hash
from lens_reasoner.generators.diffusers_interface import PipelineInterface, prompt_tokenizer
from lens_reasoner.generators.diffusers_loading import (
    load_pipeline,
    name_of,
    require_packages,
    short,
)
from lens_reasoner.generators.diffusers_pictures import check_latents, to_pictures
from lens_reasoner.generators.diffusers_presets import DiffusersPreset, PresetName, choose_preset
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import GenerationSettings


class DiffusersGenerator(BlockingGenerator):
    """A `Generator` around a diffusers pipeline.

    The pipeline's signature is inspected once, so a setting it lacks is refused instead of being
    ignored. Each image starts from noise of its own seed, sampled on the CPU, so it is the same on
    any device and, up to rounding, in any batch.

    Example:
        ```python
        generator = DiffusersGenerator("Qwen/Qwen-Image")
        result = AgentLoop(generator=generator).run_sync("a red cup")
        ```
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        preset: PresetName | DiffusersPreset | None = None,
        batch_size: int = 1,
        device: str | None = None,
        dtype: str | None = None,
        offload: bool = False,
        on_unsupported: OnUnsupported = "raise",
    ) -> None:
        """Choose a pipeline; a model id or folder is loaded on first use.

        Args:
            model: A pipeline object, or a model id or folder.
            name: Name for records; None means the model id, or the last part of a folder.
            preset: How to call the pipeline; None chooses by its class.
            batch_size: Maximum images at a time; more need more memory.
            device: Where to load a model; None means an accelerator if there is one.
            dtype: Precision to load a model in, such as "bfloat16"; None means "bfloat16" on an
                accelerator and "float32" on the CPU.
            offload: Whether to keep only the running component of a loaded model on the
                accelerator.
            on_unsupported: Whether to refuse unsupported settings, or to drop them with a warning.

        Raises:
            MissingPackagesError: A model has to be loaded and the packages for it are not
                installed.
        """
        super().__init__()
        self._source = str(model) if isinstance(model, (str, Path)) else None
        self._pipeline = None if self._source is not None else model
        if self._source is not None:
            require_packages()
        self._name = name or name_of(model)
        self._preset = preset
        self._batch_size = batch_size
        self._device, self._dtype, self._offload = device, dtype, offload
        self._on_unsupported: OnUnsupported = on_unsupported
        self._interface: PipelineInterface | None = None
        self._loading = threading.Lock()
        self._picture: SourcePicture | None = None

    @property
    def name(self) -> str:
        """Name for records."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """What the pipeline supports; loads it first.

        Raises:
            GeneratorError: The pipeline cannot be loaded.
        """
        _, interface = self.load()
        return interface.capabilities(
            batch_size=self._batch_size, on_unsupported=self._on_unsupported
        )

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """See `SettingsChecker.broken_rules`; loads the pipeline first."""
        _, interface = self.load()
        used = interface.fill(settings)
        if not used.negative_prompt or interface.negative_acts(used):
            return {}
        off = interface.preset.guidance_off
        rule = f"at guidance_scale {used.guidance_scale} it does nothing; it acts above {off:g}"
        return {"negative_prompt": rule}

    @property
    def fingerprint(self) -> str:
        """Hash of what affects the images: classes, configurations and a sample of the weights.

        Loads the pipeline first. Adapters such as LoRA count only if they are loaded.
        """
        pipeline, interface = self.load()
        source = "" if self._picture is None else f" from {self._picture.fingerprint}"
        return pipeline_hash(pipeline, interface.preset) + source

    def editing(self, image: bytes, *, mask: bytes | None = None) -> DiffusersGenerator:
        """See `ImageEditor.editing`; loads the pipeline first and shares it."""
        source = SourcePicture.of(image, mask, self.capabilities, backend=self._name)
        changed = copy.copy(self)
        changed._picture = source
        return changed

    def load(self) -> tuple[Any, PipelineInterface]:
        """Load the pipeline once, and return it and how to call it; blocks while loading.

        Raises:
            GeneratorError: The pipeline cannot be loaded.
        """
        with self._loading:
            if self._pipeline is None:
                self._pipeline = load_pipeline(
                    str(self._source), device=self._device, dtype=self._dtype, offload=self._offload
                )
            if self._interface is None:
                chosen = choose_preset(self._pipeline, self._name, self._preset)
                self._interface = PipelineInterface.of(self._pipeline, chosen)
            return self._pipeline, self._interface

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> Finish:
        """Generate one image per seed in one batch; the returned function encodes them.

        Raises:
            GenerationRefusedError: A safety checker withheld an image.
            GeneratorError: The pipeline failed, or an image is black or has invalid values.
        """
        pipeline, interface = self.load()
        used = interface.fill(self._sized_as_source(settings, interface.size_multiple))
        used = self._check_prompt(prompt, used)
        started = time.perf_counter()
        try:
            with _guided(pipeline, interface, used):
                output = self._call(prompt, seeds, used, on_step)
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise GeneratorError(
                f"{self._name!r} cannot generate this: {short(error)}",
                hint="The pipeline's error is the cause of this one.",
            ) from error
        pictures = to_pictures(output, expected=len(seeds), name=self._name)
        seconds = time.perf_counter() - started

        def finish() -> list[GeneratedImage]:
            return [
                GeneratedImage.from_pil(
                    picture,
                    prompt=prompt,
                    seed=seed if "generator" in interface.defaults else None,
                    settings=used,
                    generator=self._name,
                    timings={"generate": seconds / len(seeds)},
                )
                for picture, seed in zip(pictures, seeds, strict=True)
            ]

        return finish

    def _call(
        self,
        prompt: str,
        seeds: Sequence[int],
        used: GenerationSettings,
        on_step: StepCallback,
    ) -> Any:
        import torch

        pipeline, interface = self.load()
        arguments = interface.arguments(used)

        def report(pipe: Any, step: int, _: object, tensors: dict[str, Any]) -> dict[str, Any]:
            check_latents(tensors.get("latents"), step=step + 1, name=self._name)
            total = getattr(pipe, "num_timesteps", None) or used.num_inference_steps or step + 1
            on_step(StepProgress(step=step + 1, total=max(total, step + 1)))
            return tensors

        if "num_images_per_prompt" in interface.defaults:
            arguments["num_images_per_prompt"] = len(seeds)
        if "generator" in interface.defaults:
            arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
        if self._picture is not None:
            arguments["image"] = self._picture.picture()
            if (mask := self._picture.changeable()) is not None:
                arguments["mask_image"] = mask
        if "callback_on_step_end" in interface.defaults:
            arguments["callback_on_step_end"] = report
        try:
            return pipeline(prompt=prompt, **arguments)
        finally:
            # Also after a step ended the generation, so that the next call finds the weights in
            # place.
            pipeline.maybe_free_model_hooks()

    def _sized_as_source(self, settings: GenerationSettings, unit: int) -> GenerationSettings:
        if self._picture is None or settings.width is not None:
            return settings
        width, height = (max(unit, edge // unit * unit) for edge in self._picture.size)
        return settings.model_copy(update={"width": width, "height": height})

    def _check_prompt(self, prompt: str, settings: GenerationSettings) -> GenerationSettings:
        """If the pipeline will truncate the prompt, warn and record it."""
        pipeline, interface = self.load()
        limit = interface.max_prompt_tokens
        asked = settings.extra.get("max_sequence_length")
        if isinstance(asked, int):
            limit = max(1, asked - interface.preset.template_tokens)
        tokenizer = prompt_tokenizer(pipeline, interface.preset)
        if limit is None or tokenizer is None:
            return settings
        tokens = len(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens <= limit:
            return settings
        warnings.warn(
            f"{self._name!r} reads {limit} tokens of a prompt and truncates the last "
            f"{tokens - limit} of this one.",
            UnsupportedSettingWarning,
            stacklevel=2,
        )
        dropped = {**settings.dropped, "prompt_tokens": tokens - limit}
        return settings.model_copy(update={"dropped": dropped})


@contextmanager
def _guided(
    pipeline: Any, interface: PipelineInterface, settings: GenerationSettings
) -> Iterator[None]:
    """Set the guidance scale on the pipeline's guiders for the duration of one call."""
    if not interface.preset.guider or settings.guidance_scale is None:
        yield
        return
    guiders = [getattr(pipeline, name, None) for name in ("guider", "ocr_guider")]
    own = [(guider, guider.guidance_scale) for guider in guiders if guider is not None]
    for guider, _ in own:
        guider.guidance_scale = settings.guidance_scale
    try:
        yield
    finally:
        for guider, scale in own:
            guider.guidance_scale = scale
