"""Text to image with Lens, in the manner of a diffusers pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core import pipeline_inputs as inputs
from lens_core.chat import DEFAULT_DATE, MAX_SEQUENCE_LENGTH
from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.hub import Hub
from lens_core.checkpoints.load import Part, components_from, load_source
from lens_core.checkpoints.lora import LoraMixin, refuse_loaded
from lens_core.conditioning import TextConditioner, TextRequest
from lens_core.denoising import Denoiser, ExactDenoiser, ReferenceDenoiser
from lens_core.errors import CheckpointError, ParameterError
from lens_core.latents import decode_tokens
from lens_core.loading import (
    LensDefaults,
    check_components,
    check_precision,
    save_components,
)
from lens_core.sampling import check_scheduler, compute_mu, linear_sigmas
from lens_core.sizes import validate_size
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel

StepCallback = Callable[["LensPipeline", int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class LensPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Pictures of one call, those of the first prompt first.

    Attributes:
        images: PIL pictures; or float arrays `[B, H, W, 3]` (`np`) or tensors `[B, 3, H, W]` (`pt`)
            in [0, 1]; or normalised tokens `[B, h * w, channels]` (`latent`).
    """

    images: list[Image.Image] | np.ndarray | Tensor


class LensPipeline(LoraMixin, DiffusionPipeline):  # type: ignore[misc]
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        hub: Hub | None = None,
        **components: Any,
    ) -> Self:
        """Load a model: a folder or hub repository in the diffusers layout, or a published name.

        Subfolders: `transformer/`, `text_encoder/`, `vae/`, and if present `tokenizer/` (otherwise
        the packaged GPT-OSS tokenizer) and `scheduler/`. Only safetensors are read. The published
        models are `lens`, `lens-turbo` and `lens-base`; their parts are looked for in several
        places, and come with their own steps and guidance.

        Args:
            pretrained_model_name_or_path: The folder, the published name, or `owner/name`.
            dtype: Precision of all weights: float32 by default, bfloat16 for published names.
            torch_dtype: The same by its older name.
            device: Where to move the pipeline; the CPU by default.
            revision: Commit, tag or branch of a hub repository.
            hub: Another hub or cache than the usual one.
            **components: A component by its name, used instead of the folder's. `text_encoder=None`
                leaves the encoder out.

        Raises:
            CheckpointError: Incomplete, unreadable, pickled or unknown weights.
            ComponentError: Components that do not belong together.
            PrecisionError: float16.
            ParameterError: An argument that is not known.
        """
        if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
            raise ParameterError(
                f"dtype {dtype} and torch_dtype {torch_dtype} contradict each other"
            )
        precision = dtype or torch_dtype
        source = pretrained_model_name_or_path
        pipeline = cls(**load_source(source, precision, components, revision, hub))
        return pipeline if device is None else pipeline.to(device)

    @classmethod
    def from_components(
        cls,
        denoiser: Part,
        text_encoder: Part | None,
        vae: Part,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
        defaults: LensDefaults | str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device | None = None,
        configs: Mapping[str, Config] | None = None,
    ) -> Self:
        """Build a pipeline of separate files.

        Args:
            denoiser: Safetensors (plain or MXFP8) or GGUF file, folder, or module.
            text_encoder: GPT-OSS as Hugging Face folder (plain or MXFP4), Comfy's NVFP4 file, GGUF,
                or module; None for a pipeline that is given `prompt_embeds`. Packed experts stay
                packed.
            vae: File with the names of diffusers or of Black Forest Labs, folder, or module.
            tokenizer: A tokenizer, its tokenizer.json or folder. By default the text encoder file's
                own, or the packaged GPT-OSS one.
            scheduler: Euler with exponential dynamic shifting by default.
            defaults: Size, steps and guidance, or the published name they come with; weights alone
                do not tell Lens from Lens-Turbo. Those of Lens by default.
            dtype: Precision of everything that is not packed.
            device: Where to move the pipeline; the CPU by default.
            configs: Configurations by `denoiser`, `text_encoder` and `vae` (values or JSON files),
                for files of other sizes than the published that say nothing themselves.

        Raises:
            CheckpointError: Missing, unexpected or wrongly shaped tensors, damaged files, pickles.
            ComponentError: Components that do not belong together.
            PrecisionError: float16.
            ParameterError: A name that is not known.
        """
        parts = components_from(
            denoiser, text_encoder, vae, tokenizer, scheduler, defaults, dtype, configs
        )
        pipeline = cls(**parts)
        return pipeline if device is None else pipeline.to(device)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        max_shard_size: str = "5GB",
    ) -> None:
        """Save every component in its own subfolder, as safetensors and JSON.

        Args:
            save_directory: The folder; it is created.
            safe_serialization: Must stay True; pickles are not written.
            max_shard_size: Largest weight file.

        Raises:
            CheckpointError: A pickle was asked for, or LoRAs are loaded.
        """
        if not safe_serialization:
            raise CheckpointError("safe_serialization=False would write a pickle; Lens never does")
        refuse_loaded(self)
        save_components(save_directory, self.components, self.defaults, max_shard_size)

    @property
    def guidance_scale(self) -> float:
        """Guidance of the latest call."""
        return self._guidance_scale

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
    def size_multiple(self) -> int:
        """Pixels per token side: 16 for the released models."""
        downsampling: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return downsampling * int(self.vae.config.patch_size[0])

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
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: inputs.Generators = None,
        latents: Tensor | None = None,
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
    ) -> LensPipelineOutput | tuple[Any]:
        """Make pictures.

        Args:
            prompt: One or more descriptions.
            negative_prompt: What to stay away from; blank runs that branch without text.
            height: Pixels, a multiple of 16.
            width: Pixels, a multiple of 16. Height to width from 1:2 to 2:1, at most 1440^2 pixels.
            num_inference_steps: Euler steps.
            guidance_scale: Weight of the prompt against the negative prompt; 1 is no guidance.
            num_images_per_prompt: Pictures for each prompt.
            generator: Seeds the noise: one for the batch, or one per picture, which then keeps its
                picture in any batch.
            latents: Noise `[B, tokens, channels]` to start from instead.
            prompt_embeds: `[layers, B, S, width]` from `encode_prompt`, instead of `prompt`.
            prompt_embeds_mask: Its mask `[B, S]`.
            negative_prompt_embeds: The same for the negative prompt.
            negative_prompt_embeds_mask: Its mask.
            output_type: `pil`, `np`, `pt` or `latent`; see `LensPipelineOutput`.
            return_dict: Return a `LensPipelineOutput` rather than a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; a
                dictionary it returns may replace `latents`.
            callback_on_step_end_tensor_inputs: What it is given; only `latents` is on offer.
            date: The day the text encoder believes it is, `YYYY-MM-DD`. It changes the picture.
            max_sequence_length: Most tokens of a prompt with the text around it, up to 512.
            reference: Repeat the published code's roundings (noise and latents in the
                transformer's dtype, time rounded to it, one masked batch, truncated pixels).

        Size, steps and guidance default to the checkpoint's own (`defaults`).

        Raises:
            InvalidSizeError: A size Lens cannot make.
            PromptError: Missing, empty or wrongly counted prompts.
            ParameterError: Any other argument outside its range.
            PrecisionError: float16 anywhere.
            NonFiniteError: NaN in the latents; names the step.
        """
        check_precision(transformer=self.transformer, text_encoder=self.text_encoder, vae=self.vae)
        settings = self._settings(
            height, width, num_inference_steps, guidance_scale, num_images_per_prompt, output_type
        )
        inputs.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
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
        self._guidance_scale, self._num_timesteps = settings.guidance_scale, settings.steps
        denoiser, batch = self._denoiser(request, settings, reference)
        shape = (batch, settings.tokens, self.transformer.config.in_channels)
        noise = inputs.initial_latents(
            shape, latents, generator, self._execution_device, denoiser.latents_dtype
        )
        final = self._sample(denoiser, noise, settings.steps, callback_on_step_end)
        images = self._finish(denoiser, final, settings)
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

    def _settings(
        self,
        height: int | None,
        width: int | None,
        steps: int | None,
        guidance_scale: float | None,
        images_per_prompt: int,
        output_type: inputs.OutputType,
    ) -> inputs.SamplingSettings:
        defaults, multiple = self.defaults, self.size_multiple
        height = defaults.height if height is None else height
        width = defaults.width if width is None else width
        validate_size(height, width, multiple)
        return inputs.SamplingSettings(
            grid=(height // multiple, width // multiple),
            steps=defaults.num_inference_steps if steps is None else steps,
            guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
            images_per_prompt=images_per_prompt,
            output_type=output_type,
        )

    def _conditioner(self, device: torch.device | None = None) -> TextConditioner:
        where = self._execution_device if device is None else device
        return TextConditioner(self.transformer, self.text_encoder, self.tokenizer, where)

    def _denoiser(
        self, request: TextRequest, settings: inputs.SamplingSettings, reference: bool
    ) -> tuple[Denoiser, int]:
        """The guided model of this call and the number of pictures it makes at once."""
        conditioner = self._conditioner()
        cond, uncond = conditioner.positive(request), None
        inputs.warn_unused_negative(request.has_negative_prompt, settings.guidance_scale)
        if reference or settings.guidance_scale > 1:
            uncond = conditioner.negative(request, cond.batch, blank_as_text=reference)
        repeated = cond.repeat(settings.images_per_prompt)
        build = ReferenceDenoiser if reference else ExactDenoiser
        denoiser = build(
            self.transformer,
            repeated,
            None if uncond is None else uncond.repeat(settings.images_per_prompt),
            settings.guidance_scale,
            settings.grid,
        )
        return denoiser, repeated.batch

    def _sample(
        self, denoiser: Denoiser, latents: Tensor, steps: int, callback: StepCallback | None
    ) -> Tensor:
        """Integrate from noise to data with Euler steps."""
        mu = compute_mu(latents.shape[1], steps)
        self.scheduler.set_timesteps(sigmas=linear_sigmas(steps), mu=mu, device=latents.device)
        self.scheduler.set_begin_index(0)
        finite = []
        with self.progress_bar(total=steps) as progress:
            for step, timestep in enumerate(self.scheduler.timesteps):
                velocity = denoiser.velocity(latents, timestep)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback is not None:
                    given = callback(self, step, timestep, {"latents": latents}) or {}
                    latents = given.get("latents", latents)
                finite.append(torch.isfinite(latents).all())
                progress.update()
                if self._interrupt:
                    break
        inputs.check_finite(finite, self.scheduler.sigmas)
        return latents

    def _finish(
        self, denoiser: Denoiser, latents: Tensor, settings: inputs.SamplingSettings
    ) -> list[Image.Image] | np.ndarray | Tensor:
        if settings.output_type == "latent":
            return latents
        multiple = self.size_multiple
        height, width = (side * multiple for side in settings.grid)
        pixels = self.decode(latents, height, width)
        if settings.output_type == "pt":
            return pixels
        rows = pixels.permute(0, 2, 3, 1)
        if settings.output_type == "np":
            return rows.float().cpu().numpy()
        return [Image.fromarray(p) for p in denoiser.pixels_to_bytes(rows).cpu().numpy()]
