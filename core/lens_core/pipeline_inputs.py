"""Validation of pipeline arguments, and the initial noise."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, cast, get_args

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lens_core.chat import MAX_SEQUENCE_LENGTH
from lens_core.checkpoint_files import refuse_float16
from lens_core.errors import NonFiniteError, ParameterError, PromptError

OutputType = Literal["pil", "np", "pt", "latent"]
Generators = torch.Generator | Sequence[torch.Generator] | None

CALLBACK_TENSORS = ("latents",)
"""Names of tensors that `callback_on_step_end` may request and return."""


@dataclass(frozen=True)
class SamplingSettings:
    """Validated numbers of one call.

    Attributes:
        grid: (height, width) in tokens.
        steps: Number of steps.
        guidance_scale: 1 or more.
        images_per_prompt: 1 or more.
        output_type: Form of the result.
    """

    grid: tuple[int, int]
    steps: int
    guidance_scale: float
    images_per_prompt: int
    output_type: OutputType

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return self.grid[0] * self.grid[1]

    def __post_init__(self) -> None:
        check_count("num_inference_steps", self.steps)
        check_count("num_images_per_prompt", self.images_per_prompt)
        scale = self.guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 <= scale < 1e4:
            raise ParameterError(
                f"guidance_scale {scale!r} must be a number of at least 1, where 1 is no guidance"
            )
        if self.output_type not in get_args(OutputType):
            raise ParameterError(
                f"output_type {self.output_type!r} must be one of {list(get_args(OutputType))}"
            )


def check_count(name: str, value: int) -> None:
    """Check that a value is a positive integer.

    Raises:
        ParameterError: It is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ParameterError(f"{name} {value!r} must be a whole number of at least 1")


def check_sequence_length(value: int) -> None:
    """Check the maximum number of tokens for the text encoder.

    Raises:
        ParameterError: It is not a whole number from 1 to 512.
    """
    check_count("max_sequence_length", value)
    if value > MAX_SEQUENCE_LENGTH:
        raise ParameterError(
            f"max_sequence_length {value} must be at most {MAX_SEQUENCE_LENGTH}, "
            "the length Lens was trained with"
        )


def check_listeners(on_step: object, cancel: object) -> None:
    """Check the step listener and the cancel event.

    Raises:
        ParameterError: `on_step` is not callable, or `cancel` has no `is_set` method.
    """
    if on_step is not None and not callable(on_step):
        raise ParameterError(f"on_step {on_step!r} must be a function")
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise ParameterError(f"cancel {cancel!r} must be a threading.Event")


def replaced_latents(given: object, latents: Tensor) -> Tensor:
    """Return the latents to continue with after a callback, which may have replaced them.

    Args:
        given: The callback's return value.
        latents: The latents passed to it.

    Raises:
        ParameterError: The value is not None or a dictionary, or its latents have another shape.
        PrecisionError: The returned latents are float16.
    """
    if given is None:
        return latents
    if not isinstance(given, Mapping):
        raise ParameterError(
            f"callback_on_step_end returned {given!r}; it must be a dictionary or None"
        )
    other = given.get("latents", latents)
    if not isinstance(other, Tensor) or other.shape != latents.shape:
        raise ParameterError(
            f"callback_on_step_end returned latents {getattr(other, 'shape', other)!r}; they must "
            f"be a tensor of {tuple(latents.shape)}"
        )
    refuse_float16(other.dtype, "latents from callback_on_step_end")
    return other.to(latents)


def changed_guidance(scale: float, begun_with: float) -> float:
    """Return the guidance scale for later steps, which a callback may have set.

    Values below 1 become 1, which means no guidance.

    Args:
        scale: The current value.
        begun_with: The value at the start of the call.

    Raises:
        ParameterError: It is not a number below 10,000, or it turns guidance on in a call that
            started without it.
    """
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale < 1e4:
        raise ParameterError(f"guidance_scale {scale!r}, set by a callback, must be a number")
    if scale > 1 and begun_with == 1:
        raise ParameterError(
            f"guidance_scale {scale!r} was set by a callback, but the call began without guidance "
            "and did not read the negative prompt: begin with more than 1"
        )
    return max(float(scale), 1.0)


def check_callback(callback: object, names: Sequence[str] | None) -> None:
    """Check a step callback and the tensors it requests.

    Raises:
        ParameterError: It is not callable, or requests something other than `latents`.
    """
    if callback is not None and not callable(callback):
        raise ParameterError(f"callback_on_step_end {callback!r} must be a function")
    # Callback objects, such as those in diffusers, list the tensors they need.
    asked = {*(names or ()), *getattr(callback, "tensor_inputs", ())}
    if unknown := sorted(asked - {*CALLBACK_TENSORS}):
        raise ParameterError(
            f"callback_on_step_end_tensor_inputs {unknown} are not available; "
            f"choose from {list(CALLBACK_TENSORS)}. A callback that sets "
            "pipeline.guidance_scale = 1 ends guidance"
        )


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """Check the prompts and return them as a list.

    Raises:
        PromptError: There is no prompt, or one is blank, not text or not valid Unicode.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise PromptError(f"prompt {prompt!r} must be a string or a list of at least one string")
    for index, text in enumerate(prompts):
        if not isinstance(text, str):
            raise PromptError(f"prompt {index} is {text!r}; it must be a string")
        if not text.strip():
            raise PromptError(f"prompt {index} is empty: say what the picture should show")
        check_encodable(text)
    return list(prompts)


def check_encodable(text: str) -> None:
    """Check that text can be encoded as UTF-8; lone surrogates cannot.

    Raises:
        PromptError: The text cannot be encoded.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"prompt {text!r} is not valid Unicode text: {error.reason}") from error


def check_negative_prompts(negative: str | Sequence[str] | None, count: int) -> list[str]:
    """Return one negative prompt for each of `count` prompts; a blank one means none.

    Raises:
        PromptError: One is not text or not valid Unicode, or their number is wrong.
    """
    if negative is None or isinstance(negative, str):
        negative = [negative or ""] * count
    if not isinstance(negative, (list, tuple)) or len(negative) != count:
        raise PromptError(
            f"negative_prompt {negative!r} must be a string or a list of {count}, one per prompt"
        )
    for index, text in enumerate(negative):
        if not isinstance(text, str):
            raise PromptError(f"negative_prompt {index} is {text!r}; it must be a string")
        check_encodable(text)
    return list(negative)


def warn_unused_negative(negative_given: bool, guidance_scale: float) -> None:
    """Warn that a negative prompt has no effect without guidance."""
    if negative_given and guidance_scale == 1:
        warnings.warn(
            "the negative prompt has no effect at guidance_scale 1, where there is no guidance",
            stacklevel=3,
        )


def initial_latents(
    shape: tuple[int, int, int],
    given: Tensor | None,
    generator: Generators,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return the initial noise of a batch, as tokens.

    Args:
        shape: (batch, tokens, channels).
        given: The caller's noise, used instead if not None.
        generator: One for the batch, or one per image, which makes an image's noise independent of
            the batch.
        device: Where to put the result. Noise is generated on the generator's device.
        dtype: Precision in which noise is generated and returned.

    Raises:
        ParameterError: The latents have the wrong shape, or the generators are not one per image.
        PrecisionError: The given latents are float16.
        NonFiniteError: The given latents contain NaN or infinity.
    """
    if given is None:
        check_generators(generator, shape[0])
        seeds = list(generator) if isinstance(generator, Sequence) else generator
        return cast(Tensor, randn_tensor(shape, generator=seeds, device=device, dtype=dtype))
    refuse_float16(given.dtype, "latents")
    if tuple(given.shape) != shape:
        raise ParameterError(
            f"latents have shape {tuple(given.shape)}; this call needs {shape}: "
            "(batch, tokens, channels)"
        )
    if not torch.isfinite(given).all():
        raise NonFiniteError("the latents given to the pipeline hold NaN or infinity")
    return given.to(device, dtype)


def check_generators(generator: Generators, count: int) -> None:
    """Check that there is one generator for all images, or one per image.

    Raises:
        ParameterError: The list has the wrong length, or an entry is not a generator.
    """
    given = list(generator) if isinstance(generator, Sequence) else [generator]
    for one in given:
        if one is not None and not isinstance(one, torch.Generator):
            raise ParameterError(f"generator {one!r} must be a torch.Generator, or a list of them")
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ParameterError(
            f"generator is a list of {len(generator)}; it must be one generator or a list of "
            f"{count}, one per picture"
        )


def seeded(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    """Create a generator for each image, on the CPU so that the noise is the same on every device.

    Args:
        seed: One per image, or the first of consecutive seeds.
        count: Number of images.

    Raises:
        ParameterError: The list has the wrong length, or a value is not a valid seed.
    """
    seeds = list(seed) if isinstance(seed, Sequence) else _following(seed, count)
    if len(seeds) != count:
        raise ParameterError(
            f"seed is a list of {len(seeds)}; it must be one number or a list of {count}, one per "
            "picture"
        )
    for value in seeds:
        if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise ParameterError(f"seed {value!r} must be a whole number from 0 to 2**63 - 1")
    return [torch.Generator().manual_seed(int(value)) for value in seeds]


def _following(seed: int, count: int) -> list[int]:
    return [int(seed) + i if isinstance(seed, Integral) else seed for i in range(count)]


def check_finite(finite: Sequence[Tensor], sigmas: Tensor) -> None:
    """Check that the latents stayed finite.

    Args:
        finite: One boolean tensor per step run.
        sigmas: Noise levels, `[steps + 1]`.

    Raises:
        NonFiniteError: They did not; names the first step after which they were not finite.
    """
    if not finite:
        return
    flags = torch.stack(tuple(finite)).tolist()
    if all(flags):
        return
    step = flags.index(False)
    level = float(sigmas[step])
    raise NonFiniteError(
        f"the latents became NaN or infinite in step {step + 1} of {len(sigmas) - 1} (sigma "
        f"{level if math.isfinite(level) else 'unknown'}); run in bfloat16 or float32 and check "
        "the weights and any LoRA or callback"
    )
