"""Uploads of images to edit: reading and checking the form."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile

from lens_sdk.server.bodies import EditsBody
from lens_sdk.server.errors import ApiError
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.pictures import checked_mask, checked_picture

_IMAGES = ("image", "image[]")
_MOST_FILES = 17
_MOST_FIELDS = 40

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                        **EditsBody.model_json_schema()["properties"],
                    },
                }
            }
        },
    }
}
"""OpenAPI description of the endpoint's body."""


@dataclass(frozen=True)
class Source:
    """An image to edit, already checked.

    Attributes:
        image: The image file.
        mask: A PNG file that is transparent where the image may change; None if none was sent.
    """

    image: bytes = field(repr=False)
    mask: bytes | None = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """A hash that is the same for equal images and masks."""
        return hashlib.sha256(
            hashlib.sha256(self.image).digest() + hashlib.sha256(self.mask or b"").digest()
        ).hexdigest()


async def read_form(request: Request, limits: ServerLimits) -> tuple[EditsBody, Source]:
    """Read the fields and the image of a multipart form.

    Raises:
        ApiError: The body is not such a form, or the image or mask cannot be used.
        RequestValidationError: A field is unknown or out of range.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            415, "Send a multipart/form-data form with image and prompt.", code="not_multipart"
        )
    async with _form(request, limits) as form:
        body = _body(form)
        limits.check_text("prompt", body.prompt)
        image, mask = _files(form, "image"), _files(form, "mask")
        if not image:
            raise ApiError.bad_request(
                "image: send the image to change as a file.",
                param="image",
                code="missing_required_parameter",
            )
        if len(image) > 1 or len(mask) > 1:
            raise ApiError.bad_request(
                f"{len(image)} images and {len(mask)} masks were sent; one of each is used.",
                param="image" if len(image) > 1 else "mask",
            )
        data = await image[0].read()
        cover = await mask[0].read() if mask else None
    return body, await asyncio.to_thread(_checked, data, cover, limits)


@asynccontextmanager
async def _form(request: Request, limits: ServerLimits) -> AsyncIterator[FormData]:
    try:
        form = await request.form(
            max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=limits.body_bytes
        )
    except FormParserError as error:  # Starlette before 1.8 does not handle it.
        raise ApiError.bad_request(f"The form cannot be read: {error}.") from error
    try:
        yield form
    finally:
        await form.close()


def _checked(image: bytes, mask: bytes | None, limits: ServerLimits) -> Source:
    return Source(
        checked_picture(image, limits), None if mask is None else checked_mask(mask, limits)
    )


def _body(form: FormData) -> EditsBody:
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in (*_IMAGES, "mask"):
                raise ApiError.bad_request(
                    f"{name} is a file, and only image and mask are.", param=name
                )
        elif name in fields:
            raise ApiError.bad_request(f"{name} is given twice.", param=name)
        else:
            fields[name] = value
    try:
        return EditsBody.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _files(form: FormData, name: str) -> list[UploadFile]:
    names = _IMAGES if name == "image" else (name,)
    return [
        value for key, value in form.multi_items() if key in names and isinstance(value, UploadFile)
    ]
