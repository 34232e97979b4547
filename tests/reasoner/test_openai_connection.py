"""Connections that are kept, closed, and shared by nothing but their event loop."""

import asyncio
import gc
import json
import logging
import time
import traceback
import warnings

import pytest
from pydantic import BaseModel

from lens_reasoner import (
    ChatError,
    Message,
    OpenAIChat,
    OpenAIModerator,
    RetryPolicy,
    Usage,
    openai_pool,
)

both = pytest.mark.parametrize("api", ["chat", "responses"])
HELLO = [Message.user("Hello")]


class Colour(BaseModel):
    name: str


async def test_calls_reuse_their_connection(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    async with server.chat() as chat:
        for _ in range(5):
            await chat.complete(HELLO)
        assert server.connections == 1
    await chat.complete(HELLO)
    assert server.connections == 2
    await chat.aclose()
    await chat.aclose()


def test_each_event_loop_has_its_own_and_leaves_nothing_open(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    chat = server.chat()

    async def three() -> None:
        for _ in range(3):
            await chat.complete(HELLO)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            asyncio.run(three())
        gc.collect()
    assert server.connections == 3
    assert caught == []


def test_a_client_nobody_holds_leaves_nothing_open_either(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")

    async def main(pause: float) -> None:
        for _ in range(3):
            await server.chat().complete(HELLO)
            gc.collect()
            await asyncio.sleep(pause)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for pause in (0, 0.05):
            asyncio.run(main(pause))
            gc.collect()
    assert server.connections == 6
    assert caught == []


async def test_a_long_lived_loop_keeps_no_clients_of_objects_that_are_gone(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    for _ in range(3):
        await server.chat().complete(HELLO)
        gc.collect()
        await asyncio.sleep(0.05)
    await server.chat().complete(HELLO)
    assert len(openai_pool._opened) <= 2


def test_plain_code_keeps_its_connection_and_closes_it(server) -> None:
    server.answer = lambda _: server.text("chat", json.dumps({"name": "red"}))
    chat = server.chat()
    for _ in range(3):
        assert chat.complete_sync(HELLO, schema=Colour).parsed_as(Colour).name == "red"
    assert server.connections == 1
    chat.close()
    assert chat._connection.pool._clients == {}
    assert chat.complete_sync(HELLO).text


async def test_plain_code_works_inside_a_running_loop(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    assert server.chat().complete_sync(HELLO).text == "Hi."


async def test_a_connection_dropped_between_calls_is_opened_again(server) -> None:
    server.script += [server.text("chat", "Hi."), server.dropped(), server.text("chat", "Ho.")]
    chat = server.chat()
    assert (await chat.complete(HELLO)).text == "Hi."
    assert (await chat.complete(HELLO)).text == "Ho."


@both
async def test_a_reply_off_the_schema_is_asked_for_once_more(server, api) -> None:
    server.script += [
        server.text(api, '{"colour": "red"}'),
        server.text(api, '{"name": "red"}'),
    ]
    reply = await server.chat(api).complete(HELLO, schema=Colour)
    assert reply.parsed_as(Colour).name == "red"
    assert reply.usage == Usage(input_tokens=22, output_tokens=14, cached_tokens=8)
    assert reply.reask == Usage(input_tokens=11, output_tokens=7, cached_tokens=4)
    first, second = (call.body["messages" if api == "chat" else "input"] for call in server.calls)
    assert second[: len(first)] == first
    said, told = second[len(first) :]
    assert [said["role"], told["role"]] == ["assistant", "user"]
    assert '{\\"colour\\": \\"red\\"}' in json.dumps(said)
    assert "name: Field required" in json.dumps(told)
    # A server that has left the schema out has not told the model of it.
    assert '\\"required\\": [\\"name\\"]' in json.dumps(told)


@both
async def test_a_server_that_takes_no_schema_is_told_the_form_in_words(server, api) -> None:
    refused = server.error(400, "This response_format type json_schema is unavailable now")
    server.script += [refused, *[server.text(api, '{"name": "red"}')] * 2]
    chat = server.chat(api)
    for _ in range(2):
        assert (await chat.complete(HELLO, schema=Colour)).parsed_as(Colour).name == "red"
    bodies = [call.body for call in server.calls]
    assert [bool({"response_format", "text"} & body.keys()) for body in bodies] == [
        True,
        False,
        False,
    ]
    for body in bodies[1:]:
        assert '\\"required\\": [\\"name\\"]' in json.dumps(body)
    server.script.append(server.error(400, "temperature is not supported"))
    with pytest.raises(ChatError, match="temperature"):
        await chat.complete(HELLO, schema=Colour)


async def test_a_first_reply_that_is_right_costs_one_call(server) -> None:
    server.script.append(server.text("chat", 'Here:\n```json\n{"name": "red"}\n```'))
    reply = await server.chat().complete(HELLO, schema=Colour)
    assert reply.parsed_as(Colour).name == "red"
    assert reply.reask == Usage.zero()


async def test_the_second_question_may_be_retried_and_its_failure_counts_both(server) -> None:
    off = server.text("chat", "{}")
    server.script += [off, server.error(503), server.text("chat", '{"name": "red"}')]
    assert (await server.chat().complete(HELLO, schema=Colour)).parsed_as(Colour).name == "red"
    server.script += [off, server.text("chat", None, refusal="No.")]
    with pytest.raises(ChatError) as caught:
        await server.chat().complete(HELLO, schema=Colour)
    assert caught.value.fault == "refused"
    assert caught.value.usage.output_tokens == 14


async def test_the_deadline_holds_for_both_questions_together(server) -> None:
    chat = server.chat(retry=RetryPolicy(deadline=2.0))
    server.script.append(server.text("chat", "Hi."))
    await server.chat().complete(HELLO)
    server.answer = lambda _: server.raw(server.text("chat", "{}").body, delay=1.5)
    started = time.monotonic()
    with pytest.raises(ChatError, match="deadline") as caught:
        await chat.complete(HELLO, schema=Colour)
    assert caught.value.fault == "timeout"
    assert time.monotonic() - started < 2.9
    assert len(server.calls) == 3


async def test_a_reply_that_trickles_in_meets_the_timeout_of_one_call() -> None:
    async def trickle(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await asyncio.sleep(0.05)

    listening = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    chat = OpenAIChat(
        "slow", base_url=f"http://127.0.0.1:{port}/v1", retry=RetryPolicy(attempts=1, timeout=0.4)
    )
    started = time.monotonic()
    with pytest.raises(ChatError, match="in time") as caught:
        await chat.complete(HELLO)
    assert caught.value.fault == "timeout"
    assert time.monotonic() - started < 2
    listening.close()


@both
@pytest.mark.parametrize("status", [200, 401, 404, 429, 500])
async def test_a_server_that_echoes_the_key_everywhere_reveals_nothing(
    server, secret, api, status, caplog
) -> None:
    body = json.dumps({"error": {"message": f"key {secret}", "code": secret, "type": secret}})
    echo = server.raw(
        body.encode(),
        status=status,
        headers={"x-request-id": secret, "x-echo": secret, "set-cookie": f"key={secret}"},
    )
    server.answer = lambda _: echo
    chat = server.chat(api, model="some-model", retry=RetryPolicy(attempts=2, first_wait=0.01))
    with caplog.at_level(logging.DEBUG), pytest.raises(ChatError) as caught:
        await chat.complete(HELLO)
    error = caught.value
    assert server.calls[0].headers["authorization"] == f"Bearer {secret}"
    assert caplog.records
    shown = [record.getMessage() + str(record.__dict__) for record in caplog.records]
    shown += [repr(chat), str(vars(chat)), str(vars(chat._connection)), str(vars(error))]
    current: BaseException | None = error
    while current is not None:
        frames = [
            f
            for f in traceback.walk_tb(current.__traceback__)
            if f[0].f_code.co_filename != __file__
        ]
        stack = traceback.StackSummary.extract(iter(frames), capture_locals=True)
        shown += [repr(current), str(current), str(vars(current)), *stack.format()]
        current = current.__cause__ or current.__context__
    assert secret not in "\n".join(shown)


async def test_the_moderator_hides_the_key_too(server, secret) -> None:
    server.answer = lambda _: server.raw(secret.encode(), "text/html")
    moderator = OpenAIModerator(base_url=server.url, api_key=secret)
    with pytest.raises(ChatError) as caught:
        await moderator.check("a cat")
    assert secret not in str(vars(caught.value)) + repr(moderator)
