"""Text to image with Lens, in the manner of a diffusers pipeline."""

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
    """Lens, Lens-Base and Lens-Turbo.

    Args:
        transformer: The denoiser.
        text_encoder: GPT-OSS. None if every call brings its own `prompt_embeds`.
        vae: The FLUX.2 autoencoder.
        tokenizer: The text encoder's, with the harmony control tokens.
        scheduler: Euler with exponential dynamic shifting.
        defaults: Size, steps and guidance where a call names none.

    Raises:
        ComponentError: Components that do not belong together.
        PrecisionError: A component in float16.
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
        """Guidance of the latest call; set in a callback, it holds from the next step on."""
        return self._guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._guidance_scale = value

    @property
    def num_timesteps(self) -> int:
        """Steps of the latest call."""
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
        """From latents to small pictures; fitted to the autoencoder if the checkpoint has none."""
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
        """The sizes it draws; `read_size_rules` knows them before anything is loaded."""
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
        """Text features of prompts, to be kept and given back as `prompt_embeds`.

        Args:
            prompt: One or more.
            num_images_per_prompt: Each row that many times in succession.
            date: The day the encoder believes it is, `YYYY-MM-DD`.
            max_sequence_length: Most tokens of a prompt with the text around it.
            device: Where to compute; the pipeline's own by default.

        Returns:
            Features `[layers, B, S, width]`, one slice per selected encoder layer, and the mask
            `[B, S]`, True for text, padding on the right.

        Raises:
            PromptError: A prompt that is empty or not text.
            ParameterError: A malformed date or length.
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
        """Make pictures.

        Args:
            prompt: One or more descriptions.
            negative_prompt: What to stay away from; blank runs that branch without text.
            height: Pixels, a multiple of 16; one for all prompts or one each.
            width: The same. Height to width from 1:2 to 2:1, at most 1440^2 pixels.
            num_inference_steps: Euler steps of the full schedule.
            guidance_scale: Weight of the prompt against the negative prompt; 1 is no guidance.
            num_images_per_prompt: Pictures for each prompt.
            generator: Seeds the noise: one for the batch, or one per picture, whatever its batch.
            latents: Noise `[B, tokens, channels]` to use instead; where sizes differ, a list of
                `[tokens, channels]`, one per picture.
            prompt_embeds: `[layers, B, S, width]` from `encode_prompt`, instead of `prompt`.
            prompt_embeds_mask: Its mask `[B, S]`.
            negative_prompt_embeds: The same for the negative prompt.
            negative_prompt_embeds_mask: The same.
            output_type: `pil`, `np`, `pt` or `latent`; see `LensPipelineOutput`.
            return_dict: Return a `LensPipelineOutput` rather than a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; a
                dictionary it returns may replace `latents`.
            callback_on_step_end_tensor_inputs: What it is given; only `latents` is on offer.
            date: The day the text encoder believes it is, `YYYY-MM-DD`. It changes the picture.
            max_sequence_length: Most tokens of a prompt with the text around it, up to 512.
            reference: Repeat the published code's choices (noise and latents in the transformer's
                dtype, time rounded to it, one masked batch, truncated pixels, blank negative
                prompts read beside others, the format's end cut off where a prompt is too long).
            sigmas: Noise levels before the time shift, one per step, falling from 1; those of
                `default_sigmas` by default. Instead of `num_inference_steps`.
            guidance_interval: Noise levels (low, high) between which guidance works; 0 to 1.
            solver: `euler`, or of second order `dpmpp_2m` or `ab2`, which need fewer steps.
            shift: Time shift of the noise levels, in place of the one that size and steps give;
                more spends more steps on noise, 1 spaces levels evenly.
            size: Instead of height and width, a name such as `16:9`, `16:9@1440` or `1376x768`
                (width first); one for all prompts or one each.
            seed: Instead of generator: one per picture, or the first of numbers in a row.
            batch_size: Most prompts read and pictures sampled at once, of all by default. With 1
                every picture is drawn as if it were alone, to the bit in any precision.
            image: A picture to start from, or one per prompt. It is scaled to the size, which by
                default is its own as nearly as may be; what stands out is cut off.
            mask_image: White where it may change. Elsewhere every pixel stays as it was.
            strength: Share of the steps that are run on `image`; 0.6 by default, 1 with a mask.
            mask_feather: Pixels outside the mask over which new and old mix; 8 by default.
            on_step: Told after each step; see `StepReport`, which can show a preview.
            cancel: Once it is set, no further step is begun.
            **others: There is nothing else; what diffusers takes is told what to do instead.

        Size, steps and guidance default to the checkpoint's own (`defaults`). Pictures of
        different sizes are sampled one size after the other.

        Raises:
            InvalidSizeError: A size Lens cannot make.
            PromptError: Missing, empty or wrongly counted prompts.
            ComponentError: Another scheduler was put in.
            ParameterError: Any other argument outside its range.
            SamplingCancelledError: `cancel` was set; has what exists.
            PrecisionError: float16 anywhere.
            NonFiniteError: NaN in the latents; names the step.
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
        """Pixels `[B, 3, height, width]` in [0, 1] of normalised tokens, such as a callback's.

        Args:
            latents: `[B, tokens, channels]`.
            height: Pixels.
            width: Pixels.
        """
        multiple = self.size_multiple
        pixels = decode_tokens(latents, self.vae, height // multiple, width // multiple)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def preview(self, latents: Tensor, height: int, width: int) -> list[Image.Image]:
        """Quarter-size pictures of normalised tokens by the linear `preview_map`.

        Args:
            latents: `[B, tokens, channels]`.
            height: Pixels of the whole picture.
            width: Pixels of the whole picture.
        """
        multiple = self.size_multiple
        return self.preview_map.pictures(latents, height // multiple, width // multiple)

    def default_sigmas(self, steps: int | None = None) -> np.ndarray:
        """Noise levels before the time shift that a call without `sigmas` is drawn on.

        Args:
            steps: How many; the checkpoint's own number by default. If it states levels for that
                many they are its own, otherwise they are even.

        Raises:
            ParameterError: A number below 1, or levels of the checkpoint that are none.
        """
        own = self.defaults
        count = own.num_inference_steps if steps is None else steps
        inputs.check_count("num_inference_steps", count)
        if own.sigmas is not None and count == own.num_inference_steps:
            return given_sigmas(own.sigmas, count)
        return linear_sigmas(count)

    def fitting_size(self, height: int, width: int) -> Size:
        """Height and width that are drawn by default from a picture of this size.

        They are the nearest that Lens can make, with at most twice the checkpoint's own area.
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
        """Read the text; what remains is drawing."""
        conditioner = self._conditioner(
            truncate=truncate_row if call.reference else truncate_prompt, at_once=call.batch_size
        )
        cond, uncond = conditioner.positive(request), None
        negative = request.has_negative_prompt or request.negative_prompt_embeds is not None
        inputs.warn_unused_negative(negative, call.guidance_scale)
        if call.reference or call.guidance_scale > 1:
            uncond = conditioner.negative(request, cond.batch, blank_as_text=call.reference)
        return PictureRun(self, call, cond, uncond)
