"""Limits on single requests and on how much work may wait at once."""

from __future__ import annotations

from dataclasses import dataclass

from lens_reasoner import ImageRequest, LoopLimits
from lens_sdk.server.errors import ApiError


@dataclass(frozen=True)
class ServerLimits:
    """Limits that keep one caller from using the whole server.

    Attributes:
        body_bytes: Maximum size of a request body.
        upload_bytes: Maximum size of a body that contains an image.
        body_seconds: Maximum time for a request's head to arrive, and again for its body.
        prompt_characters: Maximum length of a prompt, request or negative prompt.
        images: Maximum number of images of one request, and of one round of a run.
        pixels: Maximum width times height of an image.
        steps: Maximum number of sampler steps.
        rounds: Maximum number of rounds of a run.
        waiting_images: Maximum number of images in progress or waiting, over all callers.
        runs: Maximum number of runs in progress.
        parts: Maximum number of separate rewrites and judgements in progress or waiting.
        upload_pixels: Maximum width times height of an uploaded image.
        retry_seconds: How long the work of a request with an idempotency key continues after the
            client disconnects, so that a retry can join it.
    """

    body_bytes: int = 1 << 20
    upload_bytes: int = 24 << 20
    body_seconds: float = 30.0
    prompt_characters: int = 8000
    images: int = 10
    pixels: int = 1440 * 1440
    steps: int = 200
    rounds: int = 10
    waiting_images: int = 64
    runs: int = 16
    parts: int = 32
    upload_pixels: int = 4096 * 4096
    retry_seconds: float = 10.0

    def check_text(self, name: str, text: str) -> None:
        """Refuse text that is too long or not valid Unicode.

        Raises:
            ApiError: The text is refused; the error names the parameter.
        """
        if len(text) > self.prompt_characters:
            raise ApiError.bad_request(
                f"{name} has {len(text)} characters; at most {self.prompt_characters} are read.",
                param=name,
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ApiError.bad_request(f"{name} is not Unicode text: {error}", param=name) from None

    def check_drawing(
        self, *, images: int, width: int | None, height: int | None, steps: int | None
    ) -> None:
        """Refuse a request for too many or too large images or too many steps.

        Raises:
            ApiError: The request is refused; the error names the parameter.
        """
        if images > self.images:
            raise ApiError.bad_request(
                f"n={images} is more than the {self.images} images allowed per request.", param="n"
            )
        if width is not None and height is not None and width * height > self.pixels:
            raise ApiError.bad_request(
                f"{width}x{height} is more than the {self.pixels} pixels of a picture.",
                param="size",
            )
        if steps is not None and steps > self.steps:
            raise ApiError.bad_request(
                f"num_inference_steps={steps} is more than {self.steps}.",
                param="num_inference_steps",
            )

    def check_run(self, request: ImageRequest, limits: LoopLimits) -> None:
        """Refuse a run that exceeds a limit.

        Raises:
            ApiError: The run is refused; the error names the parameter.
        """
        self.check_request(request)
        if limits.max_rounds > self.rounds:
            raise ApiError.bad_request(
                f"max_rounds={limits.max_rounds} is more than {self.rounds}.", param="max_rounds"
            )

    def check_request(self, request: ImageRequest) -> None:
        """Refuse a request that exceeds a limit.

        Raises:
            ApiError: The request is refused; the error names the parameter.
        """
        self.check_text("text", request.text)
        self.check_text("negative_prompt", request.negative_prompt)
        self.check_drawing(
            images=request.num_images,
            width=request.width,
            height=request.height,
            steps=request.num_inference_steps,
        )
        if request.extra:
            # Generators interpret these settings themselves, so the limits above would not apply.
            raise ApiError.bad_request(
                "A server accepts no generator-specific settings.", param="extra"
            )
