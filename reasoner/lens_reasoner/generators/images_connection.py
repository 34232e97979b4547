"""Calls that generate images and cost money each time."""

from __future__ import annotations

import re
from typing import Any

from lens_reasoner.errors import UNPAID, ChatError, GenerationRefusedError, ImageServiceError
from lens_reasoner.generators.images_wire import ImagesReply, read_images
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.media import SUFFIXES
from lens_reasoner.openai_connection import Json, OpenAIConnection
from lens_reasoner.retry import RetryPolicy
from lens_reasoner.types import Usage

IMAGE_RETRY = RetryPolicy(attempts=3, first_wait=1.0, timeout=600.0, deadline=1800.0)
"""Images can take minutes; the timeout is that of OpenAI's own client."""

GENERATE = "/images/generations"
EDIT = "/images/edits"

_FILES = "lens_reasoner.files"
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
_GATEWAY_TIMEOUTS = {504, 524}
_VIOLATIONS = re.compile(r"safety_violations=\[([^\]]*)\]")


class _MaybeDrawnError(Exception):
    """A call whose reply was lost; not a `ChatError`, so that it is not retried."""

    def __init__(self, error: ChatError) -> None:
        super().__init__(str(error))
        self.error = error


class ImagesConnection(OpenAIConnection):
    """A connection that does not retry a call if its image may have been generated and billed.

    No provider supports idempotency keys for images, so after a lost reply it is unknown whether a
    second call would be paid for twice.
    """

    def __init__(self, model: str, *, retry_lost_replies: bool, **options: Any) -> None:
        """See `OpenAIConnection`.

        Args:
            model: Name of the model.
            retry_lost_replies: Whether to retry calls whose reply was lost, too.
            **options: See `ConnectionOptions`.
        """
        super().__init__(model, **{**options, "retry": options.get("retry") or IMAGE_RETRY})
        self._retry_lost = retry_lost_replies

    async def draw(
        self, body: Json, *, tokens: int, source: SourcePicture | None = None
    ) -> ImagesReply:
        """Send a request for images.

        Args:
            body: The request body.
            tokens: Estimated token use, for the rate limits.
            source: The image to start from; None generates from the prompt alone.

        Raises:
            GenerationRefusedError: The provider's moderation refused the request.
            ImageServiceError: There is no usable reply.
        """
        try:
            if source is None:
                return await self.send(GENERATE, body, read_images, tokens=tokens)
            return await self.send(EDIT, {**body, _FILES: source}, read_images, tokens=tokens)
        except _MaybeDrawnError as lost:
            raise _lost(lost.error) from lost.error
        except ChatError as error:
            raise _refused(error) if error.fault == "filtered" else _failed(error) from error

    async def _post(self, path: str, body: Json) -> object:
        try:
            return await super()._post(path, body)
        except ChatError as error:
            if not self._retry_lost and _maybe_drawn(error):
                raise _MaybeDrawnError(error) from error
            raise

    async def _request(self, path: str, body: Json) -> object:
        source = body.get(_FILES)
        if not isinstance(source, SourcePicture):
            return await super()._request(path, body)
        fields = {name: value for name, value in body.items() if name != _FILES}
        ending = SUFFIXES[source.media_type]
        files = [("image", (f"image{ending}", source.image, source.media_type))]
        if source.mask is not None:
            files.append(("mask", ("mask.png", source.mask, "image/png")))
        client = await self._client()
        return await client.post(
            path,
            body=fields,
            files=files,
            cast_to=object,
            options={
                "timeout": self.retry.timeout,
                "headers": {"Content-Type": "multipart/form-data"},
            },
        )


def _maybe_drawn(error: ChatError) -> bool:
    if error.status is not None:
        return error.status in _GATEWAY_TIMEOUTS
    if error.fault not in {"timeout", "connection"}:
        return False
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _NEVER_SENT:
            return False
        cause = cause.__cause__
    return True


def _refused(error: ChatError) -> GenerationRefusedError:
    body = getattr(error.__cause__, "body", None)
    body = body if isinstance(body, dict) else {}
    details = body.get("moderation_details")
    named = details.get("categories") if isinstance(details, dict) else None
    found = _VIOLATIONS.search(f"{body.get('message', '')} {error.detail}")
    if not isinstance(named, list):
        named = re.split(r"[,\s]+", found.group(1).strip()) if found else []
    categories = tuple(str(name) for name in named if name)
    why = f" ({', '.join(categories)})" if categories else ""
    return GenerationRefusedError(
        f"{error.model!r} refused to generate this{why}: {error.message}",
        categories=categories,
        usage=error.usage,
        request_id=error.request_id,
        detail=error.detail,
        hint="Change the request; retrying does not help.",
    )


def _failed(error: ChatError, *, usage: Usage | None = None) -> ImageServiceError:
    hint = error.hint
    if error.fault == "malformed":
        hint = "Check that base_url is that of a server with OpenAI's images protocol."
    return ImageServiceError(
        error.message,
        fault=error.fault,
        usage=usage or error.usage or _unpaid(error),
        status=error.status,
        request_id=error.request_id,
        detail=error.detail,
        hint=hint,
    )


def _unpaid(error: ChatError) -> Usage | None:
    return Usage.zero() if error.fault in UNPAID else None


def _lost(error: ChatError) -> ImageServiceError:
    failed = _failed(error)
    return ImageServiceError(
        f"{failed.message} The image may have been billed, so the call is not repeated.",
        fault=failed.fault,
        status=failed.status,
        request_id=failed.request_id,
        detail=failed.detail,
        hint="Raise RetryPolicy.timeout, or set retry_lost_replies=True if calls are free.",
    )
