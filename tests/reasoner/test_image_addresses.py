"""Image servers that answer with an address, with something else, or with nothing."""

import base64
import json

import pytest

from image_answers import image_server, picture_bytes, pictures_reply
from lens_reasoner import GenerationRefusedError, GenerationSettings, ImageServiceError, Usage

KEY = "sk-server-0123456789"
CUP = "/files/cup.png"


async def _draw(generator):
    return await generator.generate("a cup", seeds=(7,), settings=GenerationSettings())


@pytest.mark.parametrize("address", ["{url}/files/cup.jpg", "/files/cup.jpg", "data"])
async def test_answers_with_an_address(server, address) -> None:
    data = picture_bytes("JPEG", (48, 32))
    for path in ("/v1/files/cup.jpg", "/files/cup.jpg"):
        server.pages[path] = server.raw(data, "application/octet-stream")
    if address == "data":
        address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    server.script.append(
        pictures_reply(server, {"url": address.format(url=server.url)}, usage=None)
    )
    (picture,) = await _draw(image_server(server, api_key="sk-server-0123456789"))
    assert (picture.data, picture.media_type) == (data, "image/jpeg")
    assert all("authorization" not in call.headers for call in server.calls[1:])


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ({"body": b"<html>not here</html>", "status": 404}, "status 404"),
        ({"body": b"<html>login</html>"}, "not a PNG, JPEG"),
        ({"body": b"", "status": 302, "headers": {"location": "file:///etc/passwd"}}, "fetched"),
        ({"body": b"", "status": 302, "headers": {"location": "/files/cup.png"}}, "fetched"),
        ({"body": b"\x89PNG\r\n\x1a\n" + b"0" * 5000}, "more than 4000 bytes"),
        ({"body": b"", "drop": True}, "fetched"),
    ],
)
async def test_addresses_that_lead_nowhere(server, monkeypatch, page, reason) -> None:
    monkeypatch.setattr("lens_reasoner.generators.images_api.MOST_BYTES", 4000)
    body = page.pop("body")
    server.pages["/files/cup.png"] = server.raw(body, "image/png", **page)
    server.script.append(
        pictures_reply(server, {"url": "/files/cup.png?token=opensesame"}, usage=None)
    )
    server.pages["/files/cup.png?token=opensesame"] = server.pages["/files/cup.png"]
    with pytest.raises(ImageServiceError, match=reason) as caught:
        await _draw(image_server(server))
    assert "opensesame" not in str(caught.value)


def at_an_address(server, *pages, address=CUP):
    """Scripts a reply with an address, and what is answered there."""
    server.script += [pictures_reply(server, {"url": address}, usage=None), *pages]


async def test_a_picture_that_is_paid_for_is_fetched_again(server) -> None:
    data = picture_bytes(size=(48, 32))
    busy, gone = server.raw(b"busy", status=503), server.dropped()
    at_an_address(server, busy, gone, server.raw(data, "image/png"))
    (picture,) = await _draw(image_server(server))
    assert picture.data == data
    assert [call.path for call in server.calls] == ["/v1/images/generations", *[CUP] * 3]


async def test_a_picture_that_is_not_there_is_not_asked_for_again(server) -> None:
    at_an_address(server, server.raw(b"gone", status=404))
    with pytest.raises(ImageServiceError, match="status 404") as caught:
        await _draw(image_server(server))
    assert len(server.calls) == 2
    assert "b64_json" in caught.value.hint


async def test_a_server_that_asks_for_its_own_key_gets_it(server) -> None:
    data = picture_bytes(size=(48, 32))
    at_an_address(server, server.raw(b"no", status=401), server.raw(data, "image/png"))
    (picture,) = await _draw(image_server(server, api_key=KEY))
    assert picture.data == data
    sent = [call.headers.get("authorization") for call in server.calls]
    assert sent == [f"Bearer {KEY}", None, f"Bearer {KEY}"]


@pytest.mark.parametrize("through", ["an address", "a redirect"])
async def test_no_other_server_gets_the_key(server, through) -> None:
    other = type(server)()
    other.answer = lambda _: server.raw(b"no", status=401)
    there = other.url.removesuffix("/v1") + CUP
    if through == "a redirect":
        server.pages[CUP] = server.raw(b"", status=302, headers={"location": there})
        there = CUP
    at_an_address(server, address=there)
    try:
        with pytest.raises(ImageServiceError, match="status 401"):
            await _draw(image_server(server, api_key=KEY))
    finally:
        other.close()
    assert other.calls
    assert all("authorization" not in call.headers for call in other.calls)


async def test_an_answer_of_another_kind_is_named(server) -> None:
    job = {"id": "task-1", "status": "queued", "polling_url": "/jobs/task-1"}
    server.script.append(server.raw(json.dumps(job).encode(), status=202))
    with pytest.raises(ImageServiceError, match="polling_url") as caught:
        await _draw(image_server(server))
    assert caught.value.usage is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"code": "400", "error": "Image rejected by content moderation."}),
        (422, {"error": {"message": "NSFW content detected"}}),
        (400, {"error": {"code": "contentFilter", "message": "no"}}),
        (200, {"data": None, "error": {"code": "content_policy_violation", "message": "no"}}),
    ],
)
async def test_moderation_has_many_forms(server, status, body) -> None:
    server.script.append(server.raw(json.dumps(body).encode(), status=status))
    with pytest.raises(GenerationRefusedError):
        await _draw(image_server(server))
    assert len(server.calls) == 1


async def test_a_server_that_does_not_count_says_nothing(server) -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    data = picture_bytes(size=(48, 32))
    server.script.append(pictures_reply(server, data, usage=nothing))
    (picture,) = await _draw(image_server(server))
    assert picture.usage == Usage()


async def test_a_cost_that_the_reply_tells_is_shared_by_its_pictures(server) -> None:
    told = {"cost_in_usd_ticks": 400000000}
    cups = [picture_bytes(size=(48, 32)), picture_bytes(size=(48, 32), color="red")]
    server.script.append(pictures_reply(server, *cups, usage=told))
    drawn = await image_server(server, "plain").generate(
        "a cup", seeds=(1, 2), settings=GenerationSettings()
    )
    assert [picture.usage.usd for picture in drawn] == [0.02, 0.02]


async def test_a_key_that_is_refused_is_named(server) -> None:
    server.script.append(server.error(401, "invalid key"))
    with pytest.raises(ImageServiceError, match="LENS_IMAGE_API_KEY"):
        await _draw(image_server(server))
