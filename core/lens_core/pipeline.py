"""Image generation with Lens, with the interface of a diffusers pipeline."""

from collections.abc import Callable, Sequence
from typing import Any, Never

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core import pipeline_inputs as inputs
from lens_core.chat import (
    DEFAULT_DATE,
    MAX_SEQUENCE_LENGTH,
    Truncation,
    truncate_prompt,
    truncate_row,
)
from lens_core.checkpoint_files import refuse_float16_autocast
from lens_core.checkpoints.diffusers_api import CALL_ARGUMENTS, refuse_unsupported
from lens_core.conditioning import TextConditioner, TextRequest
from lens_core.exact_buffers import keep_statistics
from lens_core.guidance import GuidanceInterval
from lens_core.latents import decode_tokens
from lens_core.loading import LensDefaults, check_components, check_precision
from lens_core.noise_levels import given_sigmas, linear_sigmas
from lens_core.picture_groups import Edge, Size, requested_sizes
from lens_core.picture_run import PictureCall, PictureRun
from lens_core.pipeline_loading import LoadablePipeline
from lens_core.pipeline_output import LensPipelineOutput
from lens_core.previews import PreviewMap, fit_preview_map
from lens_core.sampling import check_scheduler, read_shift
from lens_core.sizes import SizeRules, token_side
from lens_core.solvers import SolverName, read_solver
from lens_core.source_pictures import PictureInput
from lens_core.starting_points import StartingPictures
from lens_core.steps import Cancel, StepListener
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel

__all__ = ["LensPipeline", "LensPipelineOutput", "StepCallback"]

StepCallback = Callable[["LensPipeline", int, Tensor, dict[str, Any]], dict[str, Any]]
Start = StartingPictures | None


class LensPipeline(LoadablePipeline):
    """Generates images with Lens, Lens-Base or Lens-Turbo.

    Args:
        transformer: The denoiser.
        text_encoder: GPT-OSS. None if every call passes `prompt_embeds`.
        vae: The FLUX.2 autoencoder.
        tokenizer: The text encoder's tokenizer, with the harmony control tokens.
        scheduler: Euler with exponential dynamic shifting.
        defaults: Size, steps and guidance for calls that do not specify them.

    Raises:
        ComponentError: The components do not belong together.
        PrecisionError: A component is in float16.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = list(inputs.CALLBACK_TENSORS)  # noqa: RUF012
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        transformer: LensTransformer2DModel,
        text_encoder: LensTextEncoder | None,
        vae: AutoencoderKLFlux2,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
        defaults: LensDefaults | None = None,
    ) -> None:
        super().__init__()
        check_precision(transformer=transformer, text_encoder=text_encoder, vae=vae)
        check_components(transformer, text_encoder, vae, tokenizer)
        check_scheduler(scheduler)
        keep_statistics(vae)
        self.register_modules(
            transformer=transformer,
            text_encoder=text_encoder,
            vae=vae,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.defaults = defaults or LensDefaults()
        self._interrupt = False
        self._guidance_scale = self.defaults.guidance_scale
        self._num_timesteps = 0
        self._preview_map: PreviewMap | None = None

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the latest call. Set in a callback, it applies from the next step."""
        return self._guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._guidance_scale = value

    @property
    def num_timesteps(self) -> int:
        """Number of steps run by the latest call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set True, for instance in a callback, to stop sampling after the current step."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @property
    def preview_map(self) -> PreviewMap:
        """Maps latents to small images. Fitted to the autoencoder if the checkpoint has no map."""
        if self._preview_map is None:
            self._preview_map = fit_preview_map(self.vae, device=self._execution_device)
        return self._preview_map

    @preview_map.setter
    def preview_map(self, value: PreviewMap) -> None:
        self._preview_map = value

    @property
    def size_multiple(self) -> int:
        """Pixels per token side: 16 for the released models."""
        return token_side(self.vae.config)

    @property
    def size_rules(self) -> SizeRules:
        """The sizes it can generate; `read_size_rules` returns them without loading weights."""
        return SizeRules(self.defaults.height, self.defaults.width, self.size_multiple)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        date: str = DEFAULT_DATE,
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts into text features, which a call accepts as `prompt_embeds`.

        Args:
            prompt: One or more prompts.
            num_images_per_prompt: How often to repeat each row; copies are adjacent.
            date: The current date in the encoder's system message, `YYYY-MM-DD`.
            max_sequence_length: Maximum tokens of a prompt, including the chat format around it.
            device: Where to compute; by default the pipeline's device.

        Returns:
            Features `[layers, B, S, width]`, one slice per selected encoder layer, and the mask
            `[B, S]`, True for text, padding on the right.

        Raises:
            PromptError: A prompt is empty or not text.
            ParameterError: The date or length is malformed.
            ComponentError: The pipeline has no text encoder or tokenizer.
        """
        inputs.check_count("num_images_per_prompt", num_images_per_prompt)
        inputs.check_sequence_length(max_sequence_length)
        prompts = inputs.check_prompts(prompt)
        features = self._conditioner(device).encode(prompts, date, max_sequence_length)
        repeated = features.repeat(num_images_per_prompt)
        return repeated.embeds, repeated.mask

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = "",
        height: Edge = None,
        width: Edge = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: inputs.Generators = None,
        latents: Tensor | Sequence[Tensor] | None = None,
        prompt_embeds: Tensor | Sequence[Tensor] | None = None,
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | Sequence[Tensor] | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        output_type: inputs.OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        date: str = DEFAULT_DATE,
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
        reference: bool = False,
        *,
        sigmas: Sequence[float] | None = None,
        guidance_interval: Sequence[float] | None = None,
        solver: SolverName = "euler",
        shift: float | None = None,
        size: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        image: PictureInput | Sequence[PictureInput] | None = None,
        mask_image: PictureInput | Sequence[PictureInput] | None = None,
        strength: float | None = None,
        mask_feather: int | None = None,
        on_step: StepListener | None = None,
        cancel: Cancel | None = None,
        **others: Never,
    ) -> LensPipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            prompt: One or more prompts.
            negative_prompt: What to avoid. If blank, the negative branch runs without text.
            height: Pixels, a multiple of 16; one for all prompts or one per prompt.
            width: The same. The ratio must lie from 1:2 to 2:1, the area be at most 1440^2 pixels.
            num_inference_steps: Number of steps in the full schedule.
            guidance_scale: Weight of the prompt against the negative prompt; 1 means no guidance.
            num_images_per_prompt: Number of images per prompt.
            generator: Source of the noise: one for the whole call, or one per image, which makes
                each image's noise independent of the batch.
            latents: Noise `[B, tokens, channels]` to use instead; for images of different sizes, a
                list of `[tokens, channels]`, one per image.
            prompt_embeds: `[layers, B, S, width]` from `encode_prompt`, instead of `prompt`.
            prompt_embeds_mask: Its mask `[B, S]`.
            negative_prompt_embeds: Features of the negative prompt, same layout.
            negative_prompt_embeds_mask: Their mask, same layout.
            output_type: `pil`, `np`, `pt` or `latent`; see `LensPipelineOutput`.
            return_dict: Return a `LensPipelineOutput` rather than a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step. It
                may return a dictionary that replaces `latents`.
            callback_on_step_end_tensor_inputs: Tensors to pass to it; only `latents` is available.
            date: The current date in the encoder's system message, `YYYY-MM-DD`. Affects the image.
            max_sequence_length: Maximum tokens of a prompt, including the chat format; up to 512.
            reference: Reproduce the published code: noise and latents in the transformer's dtype,
                time rounded to it, one masked batch, truncated pixels, blank negative prompts
                encoded with the others, the chat format's end cut off if a prompt is too long.
            sigmas: Noise levels before the time shift, one per step, decreasing from 1. Replaces
                `num_inference_steps`; the default is `default_sigmas`.
            guidance_interval: Noise levels (low, high), from 0 to 1, between which guidance is on.
            solver: `euler`, or the second-order `dpmpp_2m` or `ab2`, which need fewer steps.
            shift: Time shift of the noise levels; by default computed from size and steps. Higher
                values spend more steps at high noise; 1 spaces the levels evenly.
            size: Instead of height and width: a name such as `16:9`, `16:9@1440` or `1376x768`
                (width first); one for all prompts or one per prompt.
            seed: Instead of generator: one seed per image, or the first of consecutive seeds.
            batch_size: Maximum prompts encoded and images sampled at once; no limit by default.
                With 1, every image has the same bits as if generated alone, in any precision.
            image: A starting image, or one per prompt, scaled to cover the output size and cropped.
                The default size is the legal one nearest to the image's own.
            mask_image: White where the image may change; pixels beyond `mask_feather` are kept.
            strength: Share of the steps to run on `image`; 0.6 by default, 1 with a mask.
            mask_feather: Pixels outside the mask over which new and old blend; 8 by default.
            on_step: Called with a `StepReport` after each step; it can render previews.
            cancel: Event that stops sampling before the next step.
            **others: Not accepted; arguments known from diffusers raise an error with advice.

        Size, steps and guidance default to the checkpoint's `defaults`. Images of different sizes
        are sampled one size after another.

        Raises:
            InvalidSizeError: Lens cannot generate this size.
            PromptError: Prompts are missing, empty or the wrong number.
            ComponentError: The scheduler was replaced by an unsuitable one.
            ParameterError: Any other argument is invalid.
            SamplingCancelledError: `cancel` was set; holds the results so far.
            PrecisionError: A component, tensor or autocast context is float16.
            NonFiniteError: The latents contain NaN or infinity; names the step.
        """
        refuse_unsupported("a call", others, CALL_ARGUMENTS)
        check_precision(transformer=self.transformer, text_encoder=self.text_encoder, vae=self.vae)
        refuse_float16_autocast(self._execution_device)
        check_scheduler(self.scheduler)
        start = StartingPictures.read(image, mask_image, strength, mask_feather)
        own_scale = self.defaults.guidance_scale
        call = PictureCall(
            sizes=self._sizes(height, width, size, start),
            levels=self._levels(num_inference_steps, sigmas),
            shift=read_shift(shift),
            guidance_scale=own_scale if guidance_scale is None else guidance_scale,
            interval=GuidanceInterval.read(guidance_interval),
            solver=read_solver(solver),
            images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            batch_size=batch_size,
            start=start,
            generator=generator,
            seed=seed,
            latents=latents,
            reference=reference,
            callback=callback_on_step_end,
            on_step=on_step,
            cancel=cancel,
        )
        inputs.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        inputs.check_listeners(on_step, cancel)
        request = TextRequest(
            prompt,
            negative_prompt,
            prompt_embeds,
            prompt_embeds_mask,
            negative_prompt_embeds,
            negative_prompt_embeds_mask,
            date,
            max_sequence_length,
        )
        self._interrupt = False
        self._guidance_scale, self._num_timesteps = call.guidance_scale, call.steps - call.begin
        try:
            images = self._run(request, call).images()
        finally:
            self.maybe_free_model_hooks()
        return LensPipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def decode(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Decode normalised tokens, such as a callback's, to `[B, 3, height, width]` in [0, 1].

        Args:
            latents: `[B, tokens, channels]`.
            height: Pixels.
            width: Pixels.
        """
        multiple = self.size_multiple
        pixels = decode_tokens(latents, self.vae, height // multiple, width // multiple)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def preview(self, latents: Tensor, height: int, width: int) -> list[Image.Image]:
        """Render quarter-size images of normalised tokens with the linear `preview_map`.

        Args:
            latents: `[B, tokens, channels]`.
            height: Pixels of the full-size image.
            width: Pixels of the full-size image.
        """
        multiple = self.size_multiple
        return self.preview_map.pictures(latents, height // multiple, width // multiple)

    def default_sigmas(self, steps: int | None = None) -> np.ndarray:
        """Return the noise levels before the time shift used by a call without `sigmas`.

        Args:
            steps: Number of levels; by default the checkpoint's number of steps. The checkpoint's
                own levels apply if it defines them for this number; otherwise they are even.

        Raises:
            ParameterError: `steps` is below 1, or the checkpoint's levels are invalid.
        """
        own = self.defaults
        count = own.num_inference_steps if steps is None else steps
        inputs.check_count("num_inference_steps", count)
        if own.sigmas is not None and count == own.num_inference_steps:
            return given_sigmas(own.sigmas, count)
        return linear_sigmas(count)

    def fitting_size(self, height: int, width: int) -> Size:
        """Return the default output (height, width) for a starting image of this size.

        It is the nearest legal size with at most twice the checkpoint's default area.
        """
        return self.size_rules.fitting(height, width)

    def _sizes(
        self, height: Edge, width: Edge, size: str | Sequence[str] | None, start: Start
    ) -> list[Size]:
        if start is not None and height is None and width is None and size is None:
            return [self.fitting_size(one.height, one.width) for one in start.pictures]
        own = (self.defaults.height, self.defaults.width)
        return requested_sizes(height, width, size, own, self.size_multiple)

    def _levels(self, steps: int | None, sigmas: Sequence[float] | None) -> np.ndarray:
        if sigmas is not None:
            return given_sigmas(sigmas, steps)
        return self.default_sigmas(steps)

    def _conditioner(
        self,
        device: torch.device | None = None,
        truncate: Truncation = truncate_prompt,
        at_once: int | None = None,
    ) -> TextConditioner:
        where = self._execution_device if device is None else device
        return TextConditioner(
            self.transformer, self.feature_source, self.tokenizer, where, truncate, at_once
        )

    def _run(self, request: TextRequest, call: PictureCall) -> PictureRun:
        """Encode the text and prepare the sampling run."""
        conditioner = self._conditioner(
            truncate=truncate_row if call.reference else truncate_prompt, at_once=call.batch_size
        )
        cond, uncond = conditioner.positive(request), None
        negative = request.has_negative_prompt or request.negative_prompt_embeds is not None
        inputs.warn_unused_negative(negative, call.guidance_scale)
        if call.reference or call.guidance_scale > 1:
            uncond = conditioner.negative(request, cond.batch, blank_as_text=call.reference)
        return PictureRun(self, call, cond, uncond)
