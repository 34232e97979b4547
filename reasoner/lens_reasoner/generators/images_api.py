"""Generating images over OpenAI's images protocol."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from lens_reasoner.errors import (
    GenerationRefusedError,
    ImageFileError,
    ImageServiceError,
    UnsupportedSettingWarning,
)
from lens_reasoner.generator import Capabilities, StepCallback, StepProgress
from lens_reasoner.generators.download import download
from lens_reasoner.generators.image_prices import ImagePriceTable
from lens_reasoner.generators.images_connection import ImagesConnection
from lens_reasoner.generators.images_wire import (
    MOST_BYTES,
    ImagesReply,
    WirePicture,
    check_picture,
    decode,
    shares,
)
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.image import GeneratedImage
from lens_reasoner.openai_connection import Json, OpenAIClient, shown_url
from lens_reasoner.settings import check_seeds, check_settings, rules_of
from lens_reasoner.types import GenerationSettings, Usage

_log = logging.getLogger("lens_reasoner")
_TOKENS_PER_IMAGE = 4000
_NO_PICTURE = (
    "Its moderation may have removed the image, or base_url may name another kind of server."
)
_AT_AN_ADDRESS = (
    "If the server can, have it answer with the image itself: use a ServerDialect with "
    "response_format='b64_json'."
)
DOWNLOAD_SECONDS = 120.0
"""Maximum seconds for downloading one image."""


class ImagesApiGenerator(OpenAIClient, ABC):
    """Base class of generators that use an HTTP API.

    Subclasses implement `capabilities` and `body`. Images keep the bytes the server sent, in any
    format, and carry their share of the call's usage and cost.
    """

    def __init__(self, connection: ImagesConnection, prices: ImagePriceTable) -> None:
        super().__init__(connection)
        self._images = connection
        self._image_prices = prices
        self._source: SourcePicture | None = None

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it supports."""

    @property
    def fingerprint(self) -> str:
        """The server; the model behind it may change without notice."""
        source = "" if self._source is None else f" from {self._source.fingerprint}"
        return shown_url(self._images.base_url) + source

    def editing(self, image: bytes, *, mask: bytes | None = None) -> Self:
        """See `ImageEditor.editing`."""
        changed = copy.copy(self)
        changed._source = SourcePicture.of(image, mask, self.capabilities, backend=self.name)
        return changed

    @abstractmethod
    def body(self, prompt: str, seeds: Sequence[int], settings: GenerationSettings) -> Json:
        """The request body, for checked and filled settings."""

    def fill(self, settings: GenerationSettings) -> GenerationSettings:
        """The settings with defaults filled in."""
        native = self.capabilities.native_size
        if settings.width is not None or native is None:
            return settings
        return settings.model_copy(update={"width": native[0], "height": native[1]})

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`.

        If only some images of a call can be read, those are returned, because they are paid for.

        Raises:
            UnsupportedSettingError: A setting is not supported.
            GenerationRefusedError: The provider's moderation refused the request.
            ImageServiceError: There is no usable image.
        """
        able = self.capabilities
        used = self.fill(check_settings(settings, able, backend=self.name, rules=rules_of(self)))
        check_seeds(seeds, able, backend=self.name)
        started = time.perf_counter()
        reply = await self._images.draw(
            self.body(prompt, seeds, used),
            tokens=_TOKENS_PER_IMAGE * len(seeds),
            source=self._source,
        )
        usd = self._image_prices.cost(reply.model or self.model, reply.tokens)
        usage = reply.usage if usd is None else reply.usage.model_copy(update={"usd": usd})
        found = (await self._pictures(reply, usage))[: len(seeds)]
        seconds = time.perf_counter() - started
        images = [
            GeneratedImage(
                data=data,
                seed=seed if able.seed else None,
                prompt=prompt,
                settings=self._as_drawn(used, size),
                generator=self.name,
                timings={"generate": seconds / len(found)},
                usage=share,
            )
            for (data, size), seed, share in zip(
                found, seeds[: len(found)], shares(usage, len(found)), strict=True
            )
        ]
        if on_step is not None:
            for index in range(len(images)):
                on_step(StepProgress(step=1, total=1, index=index))
        return images

    async def _pictures(
        self, reply: ImagesReply, usage: Usage
    ) -> list[tuple[bytes, tuple[int, int]]]:
        found, failures = [], []
        for picture in reply.pictures:
            try:
                data = await self._bytes(picture)
                found.append((data, check_picture(data)))
            except ImageFileError as error:
                failures.append(error)
        if found:
            for failure in failures:
                _log.warning("%s: an image of the reply was left out: %s", self.name, failure)
            return found
        if any(picture.blocked for picture in reply.pictures):
            raise GenerationRefusedError(
                f"The moderation of {self.name!r} removed the image.",
                usage=usage,
                hint="Change the request; asking again does not help.",
            )
        reason = str(failures[0]) if failures else "The list of images is empty."
        raise ImageServiceError(
            f"{self.name!r} answered without an image. {reason}",
            fault="malformed",
            usage=usage,
            detail=reason,
            hint=_AT_AN_ADDRESS if any(p.url for p in reply.pictures) else _NO_PICTURE,
        ) from (failures[0] if failures else None)

    async def _bytes(self, picture: WirePicture) -> bytes:
        if picture.base64:
            return decode(picture.base64)
        if picture.url.startswith("data:"):
            return decode(picture.url)
        if picture.blocked and not picture.url:
            raise ImageFileError("The server's moderation removed it.")
        if not picture.url:
            raise ImageFileError("The entry has neither an image nor a URL.")
        # The image is already paid for, and downloading it again is free.
        return await download(
            picture.url,
            base_url=self._images.base_url,
            most_bytes=MOST_BYTES,
            timeout=DOWNLOAD_SECONDS,
            key=self._images.key,
            retry=self._images.retry,
        )

    def _as_drawn(self, settings: GenerationSettings, size: tuple[int, int]) -> GenerationSettings:
        """The settings with the actual size, and a record of the requested one if it differs."""
        changes: dict[str, object] = {"width": size[0], "height": size[1]}
        if settings.width is not None and (settings.width, settings.height) != size:
            asked = f"{settings.width}x{settings.height}"
            warnings.warn(
                f"{self.name!r} was asked for {asked} and drew {size[0]}x{size[1]}.",
                UnsupportedSettingWarning,
                stacklevel=2,
            )
            changes["dropped"] = {**settings.dropped, "size": asked}
        return settings.model_copy(update=changes)
