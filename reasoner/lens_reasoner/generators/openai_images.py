"""Images from OpenAI's image models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from lens_reasoner.generator import Capabilities, OnUnsupported, SizeLimits
from lens_reasoner.generators.image_prices import (
    NO_IMAGE_PRICES,
    OPENAI_IMAGE_PRICES,
    ImagePriceTable,
)
from lens_reasoner.generators.images_api import ImagesApiGenerator
from lens_reasoner.generators.images_connection import ImagesConnection
from lens_reasoner.openai_connection import ConnectionOptions, Json, is_official
from lens_reasoner.types import GenerationSettings

DEFAULT_IMAGE_MODEL = "gpt-image-2"

_EXTRA = (
    "background",
    "complexity",
    "moderation",
    "output_compression",
    "output_format",
    "quality",
    "safety_identifier",
    "user",
)
_FORMATS = ("png", "jpeg", "webp")
_ABLE = Capabilities(
    native_size=(1024, 1024),
    sizes=None,
    preferred_sizes=((1024, 1024), (1536, 1024), (1024, 1536)),
    multiple_of=16,
    size_limits=SizeLimits(
        longest_edge=3840, fewest_pixels=655_360, most_pixels=8_294_400, widest_ratio=3
    ),
    max_images=10,
    max_concurrency=4,
    image_input=True,
    mask=True,
    extra=_EXTRA,
)


class OpenAIImages(ImagesApiGenerator):
    """A `Generator` for OpenAI's image models.

    These models have no seed, negative prompt or steps. Their own settings, such as `quality`,
    `background` or `output_format`, go into `GenerationSettings.extra`. The image bytes are kept as
    received, including their signed provenance (C2PA).

    A call whose reply is lost is not retried, because the image may have been generated and billed.
    """

    def __init__(
        self,
        model: str = DEFAULT_IMAGE_MODEL,
        *,
        image_prices: ImagePriceTable | None = None,
        retry_lost_replies: bool = False,
        on_unsupported: OnUnsupported = "raise",
        **options: Unpack[ConnectionOptions],
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the model.
            image_prices: Image prices; None means OpenAI's prices at OpenAI, and an unknown cost
                elsewhere.
            retry_lost_replies: Whether to retry calls whose reply was lost, too; an image may then
                be paid for twice.
            on_unsupported: Whether to refuse unsupported settings, or to drop them with a warning.
            **options: Server, key, retries and limits; see `ConnectionOptions`.

        Raises:
            MissingKeyError: The server is OpenAI and there is no API key.
        """
        options.setdefault("setting", "model='openai:{model}'")
        connection = ImagesConnection(model, retry_lost_replies=retry_lost_replies, **options)
        own = OPENAI_IMAGE_PRICES if is_official(connection.base_url) else NO_IMAGE_PRICES
        super().__init__(connection, image_prices or own)
        self._capabilities = _ABLE.model_copy(update={"on_unsupported": on_unsupported})

    @property
    def capabilities(self) -> Capabilities:
        """Any size within limits, up to ten images per call, and OpenAI's own settings."""
        return self._capabilities

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """See `SettingsChecker.broken_rules`."""
        asked = settings.extra.get("output_format")
        if asked is None or asked in _FORMATS:
            return {}
        return {"output_format": f"it must be one of {', '.join(_FORMATS)}"}

    def body(self, prompt: str, seeds: Sequence[int], settings: GenerationSettings) -> Json:
        """See `ImagesApiGenerator.body`."""
        return {
            "model": self.model,
            "prompt": prompt,
            "n": len(seeds),
            "size": f"{settings.width}x{settings.height}",
            **settings.extra,
        }
