"""The real `openai` client against a loopback server: what each kind of reply becomes."""

import asyncio
import email.utils
import json
import logging
import pickle
import time
import traceback
from typing import Literal

import pytest
from pydantic import BaseModel

from lens_reasoner import (
    ChatError,
    ImagePart,
    Message,
    MissingKeyError,
    OpenAIChat,
    Price,
    PriceTable,
    QuotaError,
    RateLimitedError,
    RetryPolicy,
    UnsupportedSettingError,
    Usage,
)
from lens_reasoner.openai_errors import retry_after
from lens_reasoner.openai_wire import strict_schema

both = pytest.mark.parametrize("api", ["chat", "responses"])
HELLO = [Message.system("Be brief."), Message.user("Hello")]


class Colour(BaseModel):
    """A colour with a reason; nested to exercise the schema."""

    class Reason(BaseModel):
        words: list[str]

    name: Literal["red", "blue"]
    reason: Reason
    spare: int | None = None


COLOUR = {"name": "red", "reason": {"words": ["warm"]}, "spare": None}


@both
async def test_a_plain_reply(server, secret, api) -> None:
    server.script.append(server.text(api, "Hi."))
    reply = await server.chat(api).complete(HELLO, temperature=0.5, max_tokens=20)
    assert (reply.text, reply.parsed, reply.finish_reason) == ("Hi.", None, "stop")
    assert reply.model == "served-model"
    assert reply.usage == Usage(input_tokens=11, output_tokens=7, cached_tokens=4)
    assert 0 < reply.seconds < 20
    (call,) = server.calls
    assert call.headers["authorization"] == f"Bearer {secret}"
    assert call.body["temperature"] == 0.5
    assert call.body["model"] == "some-model"
    if api == "chat":
        assert call.path == "/v1/chat/completions"
        assert call.body["max_tokens"] == 20
        assert call.body["messages"][1] == {"role": "user", "content": "Hello"}
    else:
        assert call.path == "/v1/responses"
        assert call.body["max_output_tokens"] == 20
        assert call.body["store"] is False
        part = {"type": "input_text", "text": "Hello"}
        assert call.body["input"][1] == {"role": "user", "content": [part]}


@both
async def test_options_that_are_not_given_are_not_sent(server, api) -> None:
    server.script.append(server.text(api, "Hi."))
    await server.chat(api).complete(HELLO)
    expected = {"model", "messages"} if api == "chat" else {"model", "input", "store"}
    assert set(server.calls[0].body) == expected


@both
async def test_a_structured_reply(server, api) -> None:
    server.script.append(server.text(api, json.dumps(COLOUR)))
    reply = await server.chat(api).complete(HELLO, schema=Colour)
    assert reply.parsed_as(Colour).reason.words == ["warm"]
    body = server.calls[0].body
    sent = body["response_format"]["json_schema"] if api == "chat" else body["text"]["format"]
    assert sent["strict"] is True
    assert sent["schema"] == strict_schema(Colour)


def test_the_strict_schema_leaves_no_property_open() -> None:
    schema = strict_schema(Colour)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name", "reason", "spare"]
    assert schema["$defs"]["Reason"]["additionalProperties"] is False
    assert schema["properties"]["reason"] == {"$ref": "#/$defs/Reason"}
    assert "default" not in json.dumps(schema)


@both
async def test_a_picture_is_sent_as_a_data_url_with_its_detail(server, api) -> None:
    server.script.append(server.text(api, "A cat."))
    picture = ImagePart(b"\x89PNG bytes", detail="low")
    await server.chat(api).complete([Message.user("What is it?", picture)])
    body = server.calls[0].body
    part = body["messages" if api == "chat" else "input"][0]["content"][1]
    sent = part["image_url"] if api == "chat" else {"url": part["image_url"], **part}
    assert sent["url"] == "data:image/png;base64,iVBORyBieXRlcw=="
    assert sent["detail"] == "low"


BAD_REPLIES = {
    "html": ("html", 1),
    "html_as_json": ("malformed", 1),
    "broken_json": ("malformed", 1),
    "foreign_json": ("malformed", 1),
    "empty": ("malformed", 1),
    "truncated": ("truncated", 1),
    "filtered": ("filtered", 1),
    "filtered_400": ("filtered", 1),
    "refused": ("refused", 1),
    "off_schema": ("off_schema", 2),
    "half_json": ("off_schema", 2),
    "dropped": ("connection", 3),
    "server_error": ("server", 3),
    "rate_limited": ("rate_limited", 3),
    "quota": ("quota", 1),
    "bad_key": ("rejected", 1),
    "no_model": ("rejected", 1),
}


def _bad_reply(server, api, name):
    page = b"<!doctype html><title>Log in</title>"
    return {
        "html": lambda: server.raw(page, "text/html"),
        "html_as_json": lambda: server.raw(page),
        "broken_json": lambda: server.raw(b'{"choices": [{"mess'),
        "foreign_json": lambda: server.raw(b'{"result": "ok"}'),
        "empty": lambda: server.text(api, ""),
        "truncated": lambda: server.text(api, '{"name": "re', finish="length"),
        "filtered": lambda: server.text(api, "", finish="content_filter"),
        "filtered_400": lambda: server.error(400, "flagged", "content_filter"),
        "refused": lambda: server.text(api, None, refusal="I will not."),
        "off_schema": lambda: server.text(api, json.dumps({**COLOUR, "name": "green"})),
        "half_json": lambda: server.text(api, '{"name": "red"'),
        "dropped": lambda: server.dropped(),
        "server_error": lambda: server.error(503, "overloaded"),
        "rate_limited": lambda: server.error(429, "slow down", "rate_limit_exceeded"),
        "quota": lambda: server.error(429, "no credit", "insufficient_quota"),
        "bad_key": lambda: server.error(401, "Incorrect API key"),
        "no_model": lambda: server.error(404, "gone", "model_not_found"),
    }[name]()


@both
@pytest.mark.parametrize("name", BAD_REPLIES)
async def test_each_bad_reply_is_one_typed_error(server, api, name) -> None:
    fault, calls = BAD_REPLIES[name]
    server.answer = lambda _: _bad_reply(server, api, name)
    with pytest.raises(ChatError) as caught:
        await server.chat(api).complete(HELLO, schema=Colour)
    error = caught.value
    assert error.fault == fault
    assert len(server.calls) == calls
    assert "some-model" in error.message
    assert error.hint
    assert isinstance(error, QuotaError) == (name == "quota")
    assert isinstance(error, RateLimitedError) == (name == "rate_limited")
    assert pickle.loads(pickle.dumps(error)).__dict__ == error.__dict__
    if name in {"truncated", "filtered", "refused", "off_schema"}:
        assert error.usage.output_tokens == 7 * calls
    if name in {"dropped", "server_error", "quota", "off_schema", "broken_json"}:
        assert error.__cause__ is not None
    if name == "server_error":
        assert (error.status, error.request_id) == (503, "req-3")
    if name == "refused":
        assert error.detail == "I will not."


@both
async def test_retry_after_is_waited_for_and_the_call_repeated(server, api, caplog) -> None:
    server.script.append(server.error(429, "slow down", retry_after="0.4"))
    server.script.append(server.text(api, "Hi."))
    with caplog.at_level(logging.WARNING, "lens_reasoner"):
        reply = await server.chat(api).complete(HELLO)
    assert reply.text == "Hi."
    first, second = server.calls
    assert 0.4 <= second.at - first.at < 2
    assert len(caplog.records) == 1
    assert "req-1" in caplog.text


async def test_the_library_does_not_retry_on_its_own(server) -> None:
    server.script.append(server.error(500))
    with pytest.raises(ChatError):
        await server.chat(retry=RetryPolicy(attempts=1)).complete(HELLO)
    assert len(server.calls) == 1


async def test_a_wait_beyond_the_deadline_is_not_begun(server) -> None:
    server.script.append(server.error(429, retry_after="60"))
    started = time.monotonic()
    with pytest.raises(RateLimitedError) as caught:
        await server.chat(retry=RetryPolicy(deadline=20)).complete(HELLO)
    assert time.monotonic() - started < 15
    assert caught.value.retry_after == 60


async def test_a_slow_server_meets_the_timeout_and_the_deadline(server) -> None:
    server.answer = lambda _: server.raw(b"{}", delay=1.0)
    with pytest.raises(ChatError) as caught:
        await server.chat(retry=RetryPolicy(attempts=1, timeout=0.2)).complete(HELLO)
    assert caught.value.fault == "timeout"
    with pytest.raises(ChatError, match="deadline") as caught:
        await server.chat(retry=RetryPolicy(timeout=9, deadline=0.3)).complete(HELLO)
    assert caught.value.fault == "timeout"


async def test_nobody_listening_is_a_connection_error(server) -> None:
    server.close()
    with pytest.raises(ChatError, match="connection") as caught:
        await server.chat().complete(HELLO)
    assert caught.value.fault == "connection"


def test_retry_after_in_its_three_forms() -> None:
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "3"}) == 3
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < retry_after({"retry-after": date}) <= 30
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "inf"}) is None
    assert retry_after({}) is None


@both
@pytest.mark.parametrize("status", [400, 401, 500])
async def test_the_key_shows_up_nowhere(server, secret, api, status, caplog) -> None:
    echo = json.dumps({"error": {"message": f"bad key {secret}", "code": secret}}).encode()
    server.answer = lambda _: server.raw(echo, status=status)
    chat = server.chat(api)
    with caplog.at_level(logging.DEBUG, "lens_reasoner"), pytest.raises(ChatError) as caught:
        await chat.complete(HELLO)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(chat)
    shown += str(error.__dict__) + repr(pickle.dumps(error)) + str(vars(chat))
    shown += "".join(r.getMessage() for r in caplog.records if r.name == "lens_reasoner")
    assert "bad key" in shown
    assert secret not in shown


@both
async def test_an_echo_of_the_key_in_a_good_status_is_hidden_too(server, secret, api) -> None:
    server.script += [
        server.raw(secret.encode(), "text/html"),
        server.text(api, secret),
        server.text(api, None, refusal=secret),
    ]
    for _ in range(3):
        with pytest.raises(ChatError) as caught:
            await server.chat(api).complete(HELLO, schema=Colour)
        assert secret not in "".join(traceback.format_exception(caught.value))
        assert secret not in str(caught.value.__dict__)


async def test_a_short_key_is_not_cut_out_of_messages(server) -> None:
    server.script.append(server.error(400, "examine the text"))
    chat = OpenAIChat("m", base_url=server.url, api_key="x")
    with pytest.raises(ChatError, match="examine the text"):
        await chat.complete(HELLO)


def test_without_a_key_the_error_says_what_to_do(monkeypatch) -> None:
    with pytest.raises(MissingKeyError, match=r"OPENAI_API_KEY.*offline"):
        OpenAIChat("gpt-5.5")
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    with pytest.raises(MissingKeyError):
        OpenAIChat("gpt-5.5")


@pytest.mark.parametrize("key", ["sk-0123456789\nsk-abcdefghi", "sk-01234\x0056789", "sk-0123…9"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key) -> None:
    with pytest.raises(MissingKeyError, match="cannot be sent") as caught:
        OpenAIChat("some-model", base_url="http://127.0.0.1:9/v1", api_key=key)
    assert "0123" not in f"{caught.value!r} {vars(caught.value)}"


async def test_environment_names_key_and_server(server, secret, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.answer = lambda _: server.text("chat", "Hi.")
    await OpenAIChat("m").complete(HELLO)
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    await OpenAIChat("m").complete(HELLO)
    assert secret not in server.calls[0].headers["authorization"]
    assert server.calls[1].headers["authorization"] == f"Bearer {secret}"


def test_the_protocol_follows_the_server() -> None:
    assert OpenAIChat("m", api_key="k").api == "responses"
    assert OpenAIChat("m", api_key="k", base_url="https://eu.api.openai.com/v1").api == "responses"
    for url in ("http://localhost:8000/v1", "https://api.openai.com.example.org/v1"):
        assert OpenAIChat("m", base_url=url).api == "chat"
    assert OpenAIChat("m", base_url="http://localhost/v1", api="responses").api == "responses"


async def test_seeds_are_sent_or_refused_but_never_dropped(server) -> None:
    server.script.append(server.text("chat", "Hi."))
    await server.chat("chat").complete(HELLO, seed=5)
    assert server.calls[0].body["seed"] == 5
    with pytest.raises(UnsupportedSettingError, match="seed=5"):
        await server.chat("responses").complete(HELLO, seed=5)
    assert len(server.calls) == 1


@both
async def test_cost_is_computed_where_the_price_is_known(server, api) -> None:
    prices = PriceTable(
        date="2026-11-22", prices={"priced": Price(input=1, cached_input=0.5, output=10)}
    )
    server.script += [
        server.text(api, "Hi.", model="priced-2026-01-31"),
        server.text(api, "Hi.", model="other"),
        server.text(api, "Hi.", model="priced", usage=False),
    ]
    chat = server.chat(api, prices=prices)
    costs = [(await chat.complete(HELLO)).usage.usd for _ in range(3)]
    assert costs[0] == pytest.approx((7 * 1 + 4 * 0.5 + 7 * 10) / 1e6)
    assert costs[1:] == [None, None]


def test_one_client_serves_several_event_loops(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    chat = server.chat()
    for _ in range(3):
        assert asyncio.run(chat.complete(HELLO)).text == "Hi."


async def test_cancelling_ends_the_call(server) -> None:
    server.answer = lambda _: server.raw(b"{}", delay=2.0)
    task = asyncio.create_task(server.chat().complete(HELLO))
    async with asyncio.timeout(5):
        while not server.calls:
            await asyncio.sleep(0.01)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 1.5
