"""OpenAI's own client changing pictures on `lens serve`."""

import asyncio
import base64
import copy
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image, ImageOps, PngImagePlugin

from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    FunctionGenerator,
    GeneratedImage,
    GenerationSettings,
    Generator,
    StepCallback,
    StepProgress,
    UnsupportedSettingError,
)
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.parts import LoopParts
from lens_sdk import AsyncLens
from lens_sdk.local import LocalLensGenerator
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.limits import ServerLimits
from loopback_lens import Running, serving

PROMPT = "turn it around"
TINY = ServerLimits(upload_pixels=64 * 64, upload_bytes=200_000)


class Inverter(BlockingGenerator):
    """Inverts a picture where its mask allows, a little by its seed; draws nothing by itself."""

    name = "inverter"
    capabilities = Capabilities(
        seed=True, image_input=True, mask=True, steps=True, extra=("strength",), native_size=(8, 8)
    )

    def __init__(self) -> None:
        super().__init__()
        self.source: SourcePicture | None = None
        self.drawn = 0
        self.book: Inverter = self

    def editing(self, image: bytes, *, mask: bytes | None = None) -> "Inverter":
        changed = copy.copy(self)
        changed.source = SourcePicture.of(image, mask, self.capabilities, backend=self.name)
        changed.capabilities = self.capabilities.model_copy(
            update={"native_size": changed.source.size}
        )
        return changed

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        assert self.source is not None
        images = []
        for index, seed in enumerate(seeds):
            self.book.drawn += 1
            before = self.source.picture()
            picture = ImageOps.invert(before)
            picture.putpixel((0, 0), (seed % 256, 0, 0))
            changeable = self.source.changeable()
            if changeable is not None:
                picture = Image.composite(picture, before, changeable)
            on_step(StepProgress(step=1, total=1, index=index))
            images.append(
                GeneratedImage.from_pil(
                    picture, prompt=prompt, seed=seed, settings=settings, generator=self.name
                )
            )
        return images


def serve(generator: Generator, folder: Path, limits: ServerLimits) -> Running:
    return serving(ServerConfig(LoopParts(generator=generator), folder=folder, limits=limits))


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter()


@pytest.fixture(scope="module")
def editing(inverter: Inverter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = serve(inverter, tmp_path_factory.mktemp("editing"), TINY)
    yield server
    server.stop()


@pytest.fixture
def client(editing: Running) -> OpenAI:
    return OpenAI(base_url=editing.v1, api_key="none", max_retries=0)


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def decoded(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


CREAM = Image.new("RGB", (24, 16), (250, 240, 230))
LEFT_MAY_CHANGE = Image.new("RGBA", (24, 16), (0, 0, 0, 255))
LEFT_MAY_CHANGE.paste((0, 0, 0, 0), (0, 0, 12, 16))


def test_a_picture_is_changed_where_the_mask_allows(client: OpenAI) -> None:
    answer = client.images.edit(
        image=file(CREAM),
        mask=file(LEFT_MAY_CHANGE),
        prompt=PROMPT,
        n=2,
        model="inverter",
        extra_body={"seed": 7, "strength": 0.5, "num_inference_steps": 3},
    )
    assert answer.data is not None
    for datum, seed in zip(answer.data, (7, 8), strict=True):
        picture = decoded(datum.b64_json)
        assert picture.size == (24, 16)
        assert picture.getpixel((0, 0)) == (seed, 0, 0)
        assert picture.getpixel((5, 5)) == (5, 15, 25)
        assert picture.getpixel((20, 5)) == (250, 240, 230)
        extra = datum.model_extra
        assert extra is not None
        assert (extra["seed"], extra["prompt"]) == (seed, PROMPT)
        assert extra["settings"]["extra"] == {"strength": 0.5}
        assert extra["settings"]["num_inference_steps"] == 3


def test_the_sync_client_streams(client: OpenAI) -> None:
    stream = client.images.edit(
        image=("cream.jpg", file(CREAM, "JPEG")), prompt=PROMPT, n=2, stream=True, partial_images=1
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.completed"] * 2
    assert decoded(events[0].b64_json).size == (24, 16)
    assert events[0].usage.total_tokens == 0


async def test_the_async_client_answers_and_streams(editing: Running) -> None:
    async with AsyncOpenAI(base_url=editing.v1, api_key="none") as client:
        answer = await client.images.edit(
            image=file(CREAM, "WEBP"), prompt=PROMPT, output_format="jpeg", response_format="url"
        )
        assert answer.data is not None
        fetched = httpx.get(str(answer.data[0].url))
        assert Image.open(io.BytesIO(fetched.content)).format == "JPEG"
        stream = await client.images.edit(image=[file(CREAM)], prompt=PROMPT, stream=True)
        assert [event.type async for event in stream] == ["image_edit.completed"]


def test_a_retried_edit_is_drawn_once(client: OpenAI, inverter: Inverter) -> None:
    headers = {"idempotency-key": "once"}
    before = inverter.drawn
    first = client.images.edit(image=file(CREAM), prompt=PROMPT, extra_headers=headers)
    again = client.images.edit(image=file(CREAM), prompt=PROMPT, extra_headers=headers)
    assert first.data == again.data
    assert inverter.drawn == before + 1
    other = Image.new("RGB", (24, 16), "red")
    with pytest.raises(openai.ConflictError):
        client.images.edit(image=file(other), prompt=PROMPT, extra_headers=headers)


def test_a_turned_photograph_is_put_upright_and_its_exif_is_gone(client: OpenAI) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture = Image.new("RGB", (24, 16), "white")
    answer = client.images.edit(image=file(picture, "JPEG", exif=exif), prompt=PROMPT)
    assert answer.data is not None
    assert decoded(answer.data[0].b64_json).size == (16, 24)
    assert b"a camera" not in base64.b64decode(answer.data[0].b64_json or "")


def test_a_photograph_that_holds_a_second_picture_is_no_animation(client: OpenAI) -> None:
    depths = Image.new("RGB", (8, 8))
    photo = file(Image.new("RGB", (24, 16), "white"), "MPO", save_all=True, append_images=[depths])
    answer = client.images.edit(image=photo, prompt=PROMPT)
    assert answer.data is not None
    assert decoded(answer.data[0].b64_json).size == (24, 16)


def bomb(side: int) -> bytes:
    """A file of a few bytes that says it is so many pixels high and wide."""
    data = bytearray(file(Image.new("1", (8, 8))))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return file(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def noted() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 300_000)
    return file(CREAM, pnginfo=info)


@pytest.mark.parametrize(
    ("files", "fields", "param", "words"),
    [
        ({"image": lambda: b"GIF89a not a picture"}, {}, "image", "not a PNG"),
        ({"image": lambda: b"<svg xmlns='x'/>"}, {}, "image", "not a PNG"),
        ({"image": lambda: file(CREAM)[:60]}, {}, "image", "cannot be decoded"),
        ({"image": lambda: bomb(60_000)}, {}, "image", "bomb"),
        ({"image": lambda: bomb(5_000)}, {}, "image", "5000x5000 is more than 4096 pixels"),
        ({"image": lambda: file(Image.new("1", (65, 64)))}, {}, "image", "more than"),
        ({"image": animated}, {}, "image", "animated"),
        ({"mask": lambda: file(CREAM)}, {}, "mask", "no transparency"),
        ({"mask": lambda: file(CREAM, "JPEG")}, {}, "mask", "not a PNG"),
        ({"mask": lambda: file(Image.new("RGBA", (8, 8)))}, {}, "image", "The mask is 8x8"),
        ({}, {"prompt": " "}, "prompt", "empty"),
        ({}, {"n": "11"}, "n", "more than"),
        ({}, {"n": "many"}, "n", "valid integer"),
        ({}, {"size": "65x"}, "size", "pattern"),
        ({}, {"strength": "1.5"}, "strength", "less than or equal to 1"),
        ({}, {"mask_feather": "3"}, "mask_feather", "is not supported"),
        ({}, {"input_fidelity": "high"}, "input_fidelity", "no such parameter"),
        ({"photo": lambda: file(CREAM)}, {}, "photo", "is a file"),
    ],
)
def test_what_cannot_be_used_is_refused_and_named(
    editing: Running,
    inverter: Inverter,
    files: dict[str, Callable[[], bytes]],
    fields: dict[str, str],
    param: str,
    words: str,
) -> None:
    before = inverter.drawn
    sent = {name: make() for name, make in ({"image": lambda: file(CREAM)} | files).items()}
    answer = httpx.post(f"{editing.v1}/images/edits", data={"prompt": PROMPT, **fields}, files=sent)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert inverter.drawn == before


def test_bodies_that_are_no_such_forms(editing: Running) -> None:
    url = f"{editing.v1}/images/edits"
    assert httpx.post(url, json={"prompt": PROMPT}).status_code == 415
    assert httpx.post(url, data={"prompt": PROMPT}).status_code == 415
    nothing = httpx.post(url, files={"mask": b""}, data={"prompt": PROMPT})
    assert nothing.json()["error"]["param"] == "image"
    two = [("image[]", file(CREAM)), ("image[]", file(CREAM))]
    assert "2 images" in httpx.post(url, files=two, data={"prompt": PROMPT}).text
    assert httpx.post(url, files={"image": noted()}, data={"prompt": PROMPT}).status_code == 413
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(url, content=b"--y\r\nnonsense", headers=broken).status_code == 400
    many = {f"f{number}": "x" for number in range(50)}
    assert httpx.post(url, files={"image": file(CREAM)}, data=many).status_code == 400


def test_forms_of_other_sites_are_refused(editing: Running) -> None:
    """A page elsewhere can send forms here without asking; its origin gives it away."""
    for origin, status in (("https://evil.example", 403), ("null", 403), (editing.url, 200)):
        answer = httpx.post(
            f"{editing.v1}/images/edits",
            data={"prompt": PROMPT},
            files={"image": file(CREAM)},
            headers={"origin": origin},
        )
        assert answer.status_code == status, origin


def test_a_model_that_only_draws_says_so(tmp_path: Path) -> None:
    painter = FunctionGenerator(lambda prompt, seed: CREAM, name="painter")
    server = serve(painter, tmp_path, ServerLimits())
    try:
        client = OpenAI(base_url=server.v1, api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.edit(image=file(CREAM), prompt=PROMPT)
    finally:
        server.stop()
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "image")
    assert "'painter' only generates from prompts" in str(caught.value)


STREAMED = {
    "prompt": "a blue cup",
    "size": "64x64",
    "n": 2,
    "stream": True,
    "partial_images": 1,
    "extra_body": {"seed": 3, "num_inference_steps": 4, "strength": 1},
}


def check_streamed(events: list[Any]) -> None:
    """Each of two pictures: one unfinished, then the finished one."""
    for index in range(2):
        partial, done = [e for e in events if e.model_extra["index"] == index]
        assert (partial.type, partial.partial_image_index) == ("image_edit.partial_image", 0)
        assert done.type == "image_edit.completed"
        assert done.model_extra["seed"] == 3 + index
        sizes = [decoded(event.b64_json).size for event in (partial, done)]
        assert sizes == [(64, 64), (64, 64)]
        assert partial.b64_json != done.b64_json


async def test_unfinished_edits_are_streamed(running: Running) -> None:
    picture = file(Image.new("RGB", (64, 64), (250, 240, 230)))
    with OpenAI(base_url=running.v1, api_key="none", max_retries=0) as client:
        check_streamed(
            await asyncio.to_thread(lambda: list(client.images.edit(image=picture, **STREAMED)))
        )
    async with AsyncOpenAI(base_url=running.v1, api_key="none", max_retries=0) as client:
        stream = await client.images.edit(image=picture, **STREAMED)
        check_streamed([event async for event in stream])


async def test_our_client_edits_here_and_there_alike(running: Running) -> None:
    """A local Lens draws; what its mask protects stays as it was."""
    picture = Image.new("RGB", (64, 64), (250, 240, 230))
    picture.paste((200, 30, 30), (40, 0, 64, 64))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 24, 64))
    options = {"seed": 1, "num_inference_steps": 2, "mask_feather": 0}
    here = AsyncLens(LocalLensGenerator(running.generator.runtime), base_url="", folder=None)
    drawn = []
    for lens in (here, AsyncLens(base_url=running.url)):
        async with lens:
            [image] = await lens.images.edit(
                file(picture), "a blue cup", mask=file(mask), **options
            )
        drawn.append(image)
    assert drawn[0].settings == drawn[1].settings
    assert drawn[0].settings.extra["mask_feather"] == 0
    arrays = [np.asarray(image.image.convert("RGB"), dtype=int) for image in drawn]
    assert np.abs(arrays[0] - arrays[1]).max() <= 1
    after, before = arrays[0], np.asarray(picture, dtype=int)
    assert after.shape == before.shape
    assert np.abs(after[:, 48:] - before[:, 48:]).max() <= 2
    assert np.abs(after[:, :16] - before[:, :16]).max() > 10
    with pytest.raises(UnsupportedSettingError, match="cannot change images"):
        await AsyncLens(
            FunctionGenerator(lambda p, s: picture), reasoner=None, judge=None
        ).images.edit(file(picture), "x")
