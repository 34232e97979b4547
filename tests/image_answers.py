"""Clients of image services on a loopback server, and what such services answer."""

import base64
import io
import json

from PIL import Image

from lens_reasoner import (
    ImageServer,
    OpenAIImages,
    RetryPolicy,
)
from lens_reasoner.generators.image_prices import OPENAI_IMAGE_PRICES

QUICK = RetryPolicy(attempts=3, first_wait=0.01, timeout=5, deadline=20)
BILL = {
    "input_tokens": 12,
    "input_tokens_details": {"text_tokens": 12, "image_tokens": 0},
    "output_tokens": 4160,
    "total_tokens": 4172,
}
COST = (12 * 5 + 4160 * 30) / 1e6


def picture_bytes(kind: str = "PNG", size=(1024, 1024), color="teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def pictures_reply(server, *entries, usage=BILL, **more):
    listed = [
        {"b64_json": base64.b64encode(entry).decode()} if isinstance(entry, bytes) else entry
        for entry in entries
    ]
    body = {"created": 1, "data": listed, "output_format": "png", **more}
    if usage is not None:
        body["usage"] = usage
    return server.raw(json.dumps(body).encode())


def openai_images(server, secret, **options) -> OpenAIImages:
    options = {"retry": QUICK, "image_prices": OPENAI_IMAGE_PRICES} | options
    return OpenAIImages(base_url=server.url, api_key=secret, **options)


def image_server(server, dialect="vllm-omni", model="Z-Image", **options) -> ImageServer:
    return ImageServer(model, base_url=server.url, dialect=dialect, **{"retry": QUICK, **options})
