"""A diffusers pipeline's output as images, or an error if there is nothing to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lens_reasoner.errors import GenerationRefusedError, GeneratorError

if TYPE_CHECKING:
    from PIL.Image import Image

_PRECISION_HINT = (
    "Weights in float16 overflow in some autoencoders; load the pipeline with dtype='bfloat16' or "
    "'float32'."
)


def check_latents(latents: Any, *, step: int, name: str) -> None:
    """Stop a generation whose latents are no longer finite.

    Raises:
        GeneratorError: Some values are NaN or infinite.
    """
    if latents is not None and not bool(latents.isfinite().all()):
        raise GeneratorError(
            f"The latents of {name!r} are not finite after step {step}; the image would be black.",
            hint=_PRECISION_HINT,
        )


def to_pictures(output: Any, *, expected: int, name: str) -> list[Image]:
    """The images of a pipeline's output.

    Args:
        output: Has `images`, either an array of shape [number, height, width, 3] with values from 0
            to 1, or a list of PIL images; and `nsfw_content_detected` if there is a safety checker.
        expected: The expected number of images.
        name: Name of the generator.

    Raises:
        GenerationRefusedError: A safety checker withheld an image.
        GeneratorError: Images are missing, black, or contain NaN.
    """
    images = getattr(output, "images", None)
    flags = getattr(output, "nsfw_content_detected", None)
    if images is None or any(image is None for image in images) or _any(flags):
        raise GenerationRefusedError(
            f"The safety checker of {name!r} withheld an image.",
            categories=("nsfw",),
            hint="Change the request or the seed.",
        )
    if len(images) != expected:
        raise GeneratorError(
            f"{name!r} generated {len(images)} images instead of {expected}.",
            hint="Give a pipeline that generates one image per random generator.",
        )
    return [_picture(image, name) for image in images]


def _any(flags: Sequence[object] | None) -> bool:
    return flags is not None and any(bool(flag) for flag in flags)


def _picture(image: Any, name: str) -> Image:
    from PIL import Image

    if not isinstance(image, Image.Image):
        # Only NaN differs from itself.
        if bool((image != image).any()):
            raise GeneratorError(f"The image of {name!r} contains NaN.", hint=_PRECISION_HINT)
        # The same rounding as in diffusers.
        pixels = (image * 255).round().astype("uint8")
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture: Image.Image = image
    brightest = [high for _, high in _extrema(picture)]
    if not any(brightest):
        raise GeneratorError(
            f"{name!r} returned an image that is completely black.",
            hint=f"A safety checker may have blanked it. {_PRECISION_HINT}",
        )
    return picture


def _extrema(picture: Image) -> list[tuple[float, float]]:
    return list(picture.convert("RGB").getextrema())  # type: ignore[arg-type]
