"""Image services, met by the real client on a loopback server."""

import io
import logging

import pytest
from PIL import Image

from image_answers import (
    COST,
    QUICK,
    image_server,
    openai_images,
    picture_bytes,
    pictures_reply,
)
from lens_reasoner import (
    AgentLoop,
    Capabilities,
    GeneratedImage,
    GenerationRefusedError,
    GenerationSettings,
    Generator,
    ImageRequest,
    ImageServiceError,
    LLMReasoner,
    MissingKeyError,
    OpenAIImages,
    ServerDialect,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
    Usage,
)


async def _draw(generator, *, seeds=(1,), **fields) -> list[GeneratedImage]:
    return await generator.generate("a cup", seeds=seeds, settings=GenerationSettings(**fields))


async def test_a_picture_is_kept_as_it_came_with_its_cost(server, secret, tmp_path) -> None:
    # The echo says PNG; the bytes are what counts.
    data = picture_bytes("WEBP")
    server.script.append(pictures_reply(server, data))
    generator = openai_images(server, secret)
    assert isinstance(generator, Generator)
    (picture,) = await _draw(generator, extra={"quality": "high"})
    assert (picture.data, picture.media_type, picture.seed) == (data, "image/webp", None)
    assert picture.usage == Usage(input_tokens=12, output_tokens=4160, cached_tokens=0, usd=COST)
    assert (picture.settings.width, picture.settings.height) == (1024, 1024)
    assert picture.save(tmp_path / "cup.png").read_bytes() == data
    (call,) = server.calls
    assert call.path == "/v1/images/generations"
    assert call.body == {
        "model": "gpt-image-2",
        "prompt": "a cup",
        "n": 1,
        "size": "1024x1024",
        "quality": "high",
    }


async def test_pictures_of_one_call_share_its_bill(server, secret) -> None:
    colors = ("red", "green", "blue")
    server.script.append(pictures_reply(server, *(picture_bytes(color=color) for color in colors)))
    pictures = await _draw(openai_images(server, secret), seeds=(1, 2, 3))
    assert server.calls[0].body["n"] == 3
    assert len({picture.sha256 for picture in pictures}) == 3
    total = Usage.total(picture.usage for picture in pictures)
    assert (total.input_tokens, total.output_tokens) == (12, 4160)
    assert total.usd == pytest.approx(COST)


async def test_the_loop_counts_what_drawing_costs(server, secret) -> None:
    server.answer = lambda call: pictures_reply(server, *([picture_bytes()] * call.body["n"]))
    request = ImageRequest(text="a cup", num_images=2, extra={"quality": "low"})
    result = await AgentLoop(generator=openai_images(server, secret)).run(request)
    assert len(result.candidates) == 2
    assert {call.body["quality"] for call in server.calls} == {"low"}
    assert result.usage.usd == pytest.approx(COST * len(server.calls))


async def test_a_format_the_service_lacks_is_refused_before_the_rewrite_is_paid_for(
    server, secret
) -> None:
    generator, reasoner = openai_images(server, secret), LLMReasoner(server.chat())
    with pytest.raises(UnsupportedSettingError, match="png, jpeg, webp") as caught:
        await AgentLoop(generator=generator, reasoner=reasoner).run(
            "a cup", extra={"output_format": "svg"}
        )
    assert (caught.value.setting, server.calls) == ("output_format", [])


async def test_a_picture_to_start_from_is_sent_along(server, secret) -> None:
    mask = io.BytesIO()
    Image.new("RGBA", (1024, 1024)).save(mask, "PNG")
    source, hole = picture_bytes("JPEG"), mask.getvalue()
    details = {"text_tokens": 10, "image_tokens": 300}
    usage = {"input_tokens": 310, "input_tokens_details": details, "output_tokens": 100}
    server.script.append(server.error(429, "slow down", retry_after_ms="5"))
    server.script.append(pictures_reply(server, picture_bytes(), usage=usage))
    generator = openai_images(server, secret)
    editor = generator.editing(source, mask=hole)
    (picture,) = await _draw(editor, extra={"quality": "low"})
    assert picture.usage.usd == pytest.approx((10 * 5 + 300 * 8 + 100 * 30) / 1e6)
    first, second = server.calls
    assert first.path == second.path == "/v1/images/edits"
    for call in server.calls:
        assert call.headers["content-type"].startswith("multipart/form-data; boundary=")
        for part in (source, hole, b"a cup", b"gpt-image-2", b'name="quality"', b"image/jpeg"):
            assert part in call.raw
    assert editor.fingerprint != generator.fingerprint
    with pytest.raises(UnsupportedSettingError, match="prompt alone"):
        image_server(server).editing(source)


async def test_unknown_costs_are_not_zero(server, secret) -> None:
    server.answer = lambda call: pictures_reply(server, picture_bytes())
    for generator in (
        openai_images(server, secret, image_prices=None),
        OpenAIImages("gpt-image-9", base_url=server.url, api_key=secret),
    ):
        (picture,) = await _draw(generator)
        assert (picture.usage.usd, picture.usage.output_tokens) == (None, 4160)
    server.answer = lambda call: pictures_reply(server, picture_bytes(), usage=None)
    (picture,) = await _draw(openai_images(server, secret))
    assert picture.usage == Usage()


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"num_inference_steps": 4}, "steps"),
        ({"guidance_scale": 4.0}, "guidance"),
        ({"negative_prompt": "fog"}, "negative"),
        ({"extra": {"seed": 3}}, "seed"),
        ({"width": 1000, "height": 1024}, "multiples of 16"),
        ({"width": 512, "height": 512}, "pixels"),
        ({"width": 3840, "height": 1024}, "3 times"),
        ({"extra": {"output_format": "svg"}}, "svg"),
    ],
)
async def test_what_the_service_does_not_know_is_refused_here(server, secret, fields, rule) -> None:
    with pytest.raises(UnsupportedSettingError, match=rule):
        await _draw(openai_images(server, secret), **fields)
    assert server.calls == []


async def test_another_size_than_asked_for_is_noted(server, secret) -> None:
    server.script.append(pictures_reply(server, picture_bytes(size=(1536, 1024))))
    with pytest.warns(UnsupportedSettingWarning, match="drew 1536x1024"):
        (picture,) = await _draw(openai_images(server, secret), width=1024, height=1536)
    assert (picture.settings.width, picture.settings.height) == (1536, 1024)
    assert picture.settings.dropped == {"size": "1024x1536"}


async def test_moderation_is_a_refusal_with_its_cause(server, secret) -> None:
    message = f"Rejected by the safety system {secret}. safety_violations=[violence, self-harm]."
    server.script.append(server.error(400, message, code="moderation_blocked"))
    with pytest.raises(GenerationRefusedError, match="violence") as caught:
        await _draw(openai_images(server, secret))
    assert caught.value.categories == ("violence", "self-harm")
    assert caught.value.request_id == "req-1"
    assert len(server.calls) == 1
    assert secret not in f"{caught.value} {caught.value.detail} {caught.value.__cause__!r}"
    # Some services answer with success and take the picture away.
    server.script.append(pictures_reply(server, {"b64_json": "", "respect_moderation": False}))
    with pytest.raises(GenerationRefusedError, match="removed the image") as caught:
        await _draw(openai_images(server, secret))
    assert caught.value.usage.usd == pytest.approx(COST)


@pytest.mark.parametrize(
    ("status", "code", "calls", "fault"),
    [
        (429, "rate_limit_exceeded", 3, "rate_limited"),
        (500, None, 3, "server"),
        (429, "insufficient_quota", 1, "quota"),
        (401, "invalid_api_key", 1, "rejected"),
        (504, None, 1, "server"),
    ],
)
async def test_calls_are_repeated_only_where_that_costs_nothing(
    server, secret, status, code, calls, fault
) -> None:
    server.answer = lambda call: server.error(status, "no", code=code, retry_after_ms="5")
    with pytest.raises(ImageServiceError) as caught:
        await _draw(openai_images(server, secret))
    assert (caught.value.fault, caught.value.status) == (fault, status)
    assert len(server.calls) == calls
    if fault in {"rate_limited", "quota", "rejected"}:
        assert caught.value.usage == Usage.zero()
    else:
        assert caught.value.usage is None


async def test_a_busy_service_gets_its_time_and_then_draws(server, secret) -> None:
    server.script.append(server.error(429, "slow down", retry_after="1"))
    server.script.append(pictures_reply(server, picture_bytes()))
    await _draw(openai_images(server, secret))
    first, second = server.calls
    assert second.at - first.at >= 1


@pytest.mark.parametrize("lost", ["slow", "dropped"])
async def test_a_lost_reply_is_not_paid_twice(server, secret, lost) -> None:
    def answer(call):
        late = server.raw(b"{}", delay=1.5)
        return late if lost == "slow" else server.dropped()

    server.answer = answer
    hasty = QUICK.model_copy(update={"timeout": 0.3})
    with pytest.raises(ImageServiceError, match="not repeated") as caught:
        await _draw(openai_images(server, secret, retry=hasty))
    assert caught.value.fault in {"timeout", "connection"}
    assert caught.value.usage is None
    assert "retry_lost_replies" in caught.value.hint
    assert len(server.calls) == 1
    with pytest.raises(ImageServiceError):
        await _draw(openai_images(server, secret, retry=hasty, retry_lost_replies=True))
    assert len(server.calls) == 4


async def test_a_server_that_is_not_there_is_tried_again(secret) -> None:
    generator = OpenAIImages(base_url="http://127.0.0.1:9/v1", api_key=secret, retry=QUICK)
    with pytest.raises(ImageServiceError, match="connection") as caught:
        await _draw(generator)
    assert "not repeated" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "content_type", "fault"),
    [
        (b"<html>login</html>", "text/html", "html"),
        (b'{"data": ', "application/json", "malformed"),
        (b'{"error": "busy"}', "application/json", "malformed"),
        (b'{"data": []}', "application/json", "malformed"),
        (b'{"data": [{"b64_json": 7}]}', "application/json", "malformed"),
        (b'{"data": [{"b64_json": "%%%"}]}', "application/json", "malformed"),
        (b'{"data": [{"url": "file:///etc/passwd"}]}', "application/json", "malformed"),
        (b'{"data": [{}]}', "application/json", "malformed"),
    ],
)
async def test_replies_without_a_picture(server, secret, body, content_type, fault) -> None:
    server.script.append(server.raw(body, content_type))
    with pytest.raises(ImageServiceError) as caught:
        await _draw(openai_images(server, secret))
    assert caught.value.fault == fault
    assert len(server.calls) == 1


async def test_bytes_that_are_no_picture_are_told_and_billed(server, secret) -> None:
    for data in (
        b"<html>",
        picture_bytes("PNG")[:900],
        b"\x89PNG\r\n\x1a\n junk",
        b"BM" + b"0" * 99,
    ):
        server.script.append(pictures_reply(server, data))
        with pytest.raises(ImageServiceError) as caught:
            await _draw(openai_images(server, secret))
        assert caught.value.usage.usd == pytest.approx(COST)


async def test_good_pictures_survive_a_bad_one(server, secret, caplog) -> None:
    server.script.append(pictures_reply(server, picture_bytes(), b"broken"))
    with caplog.at_level(logging.WARNING):
        pictures = await _draw(openai_images(server, secret), seeds=(1, 2))
    assert len(pictures) == 1
    assert pictures[0].usage.usd == pytest.approx(COST)
    assert "left out" in caplog.text


async def test_settings_have_the_names_of_the_server(server) -> None:
    server.answer = lambda call: pictures_reply(server, picture_bytes(size=(64, 32)), usage=None)
    fields = {
        "width": 64,
        "height": 32,
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "negative_prompt": "fog",
    }
    (picture,) = await _draw(image_server(server), seeds=(7,), **fields)
    assert picture.seed == 7
    assert picture.settings == GenerationSettings(**fields)
    assert server.calls[0].body == {
        "model": "Z-Image",
        "prompt": "a cup",
        "n": 1,
        "size": "64x32",
        "response_format": "b64_json",
        "seed": 7,
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "negative_prompt": "fog",
    }
    await _draw(image_server(server, model="Qwen/Qwen-Image"), **fields)
    assert server.calls[1].body["true_cfg_scale"] == 2.5
    assert "guidance_scale" not in server.calls[1].body
    await _draw(image_server(server, "sglang", guidance_field="true_cfg_scale"), **fields)
    assert server.calls[2].body["true_cfg_scale"] == 2.5


async def test_a_plain_server_promises_only_what_the_protocol_has(server) -> None:
    plain = image_server(server, "plain")
    for fields in ({"num_inference_steps": 3}, {"negative_prompt": "x"}, {"extra": {"seed": 1}}):
        with pytest.raises(UnsupportedSettingError):
            await _draw(plain, **fields)
    server.script.append(pictures_reply(server, picture_bytes(size=(48, 48)), usage=None))
    (picture,) = await _draw(plain, seeds=(5,))
    assert picture.seed is None
    assert server.calls[0].body == {"model": "Z-Image", "prompt": "a cup", "n": 1}


async def test_a_dialect_of_the_users_own(server) -> None:
    dialect = ServerDialect(
        name="mine",
        capabilities=Capabilities(seed=True, steps=True, guidance=True, extra=("sampler",)),
        fields={"seed": "noise", "num_inference_steps": "steps", "guidance_scale": "cfg"},
        response_format="url",
    )
    server.script.append(pictures_reply(server, picture_bytes(size=(48, 48)), usage=None))
    fields = {"num_inference_steps": 3, "guidance_scale": 2.0, "extra": {"sampler": "euler"}}
    await _draw(image_server(server, dialect), seeds=(5,), **fields)
    sent = {"noise": 5, "steps": 3, "cfg": 2.0, "sampler": "euler", "response_format": "url"}
    assert sent.items() <= server.calls[0].body.items()


async def test_pictures_too_large_to_take(server, secret, monkeypatch) -> None:
    monkeypatch.setattr("lens_reasoner.generators.images_wire.MOST_BYTES", 900)
    server.script.append(pictures_reply(server, picture_bytes()))
    with pytest.raises(ImageServiceError, match="larger than 900 bytes"):
        await _draw(openai_images(server, secret))


async def test_keys_go_where_they_belong(server, secret, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    server.answer = lambda call: pictures_reply(server, picture_bytes(size=(48, 48)), usage=None)
    await _draw(image_server(server))
    assert secret not in server.calls[0].headers["authorization"]
    monkeypatch.setenv("LENS_IMAGE_API_KEY", "sk-mine-0123456789")
    generator = image_server(server)
    await _draw(generator)
    assert server.calls[1].headers["authorization"] == "Bearer sk-mine-0123456789"
    assert "sk-mine" not in f"{generator!r} {generator.fingerprint}"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingKeyError):
        OpenAIImages()
