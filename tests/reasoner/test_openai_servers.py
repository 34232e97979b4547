"""What servers that speak OpenAI's protocol do in their own way, and what becomes of it."""

import json
import logging

import pytest
from pydantic import BaseModel

from lens_reasoner import ChatError, ImagePart, Message, QuotaError, Usage
from lens_reasoner.openai_errors import _wait_in

HELLO = [Message.user("Hello")]
PRICES = {"input": 1, "cached_input": 1, "output": 1}


class Colour(BaseModel):
    name: str


RED = '{"name": "red"}'


def answer(server, finish="stop", usage=None, **message):
    """A reply as the server sends it; without a message if none is given."""
    choice = {"index": 0, "finish_reason": finish}
    if message:
        choice["message"] = {"role": "assistant", **message}
    counts = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    body = {"id": "x", "model": "served-model", "choices": [choice], "usage": usage or counts}
    return server.raw(json.dumps(body).encode())


def refused(server, body, status=400):
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return server.raw(raw, "application/json" if raw[:1] in b"{[" else "text/html", status=status)


WORDS = {
    "usual": {"error": {"message": "the cup is empty", "code": 400}},
    "a string": {"error": "the cup is empty"},
    "no level": {"object": "error", "message": "the cup is empty", "code": 400},
    "a detail": {"detail": "the cup is empty"},
    "details": {"detail": [{"loc": ["body"], "msg": "the cup is empty"}]},
    "a list": [{"error": {"code": 400, "message": "the cup is empty"}}],
    "behind": {"error": {"message": "upstream", "metadata": {"raw": "the cup is empty"}}},
    "deep": {"error": {"message": "upstream", "metadata": {"raw": {"why": "the cup is empty"}}}},
    "text": "the cup is empty",
    "a page": "<html><head><title>the cup is empty</title><style>p{}</style></head></html>",
}


@pytest.mark.parametrize("form", WORDS)
async def test_the_words_of_an_error_are_told_wherever_they_stand(server, form) -> None:
    server.script.append(refused(server, WORDS[form]))
    with pytest.raises(ChatError) as caught:
        await server.chat().complete(HELLO)
    assert "the cup is empty" in caught.value.message
    assert "the cup is empty" in caught.value.detail
    assert "style" not in caught.value.message


FAULTS = [
    (400, {"error": {"message": "no", "code": "data_inspection_failed"}}, "filtered", 1),
    (400, {"error": {"message": "no", "code": "contentFilter"}}, "filtered", 1),
    (
        400,
        {"error": {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "filtered",
        1,
    ),
    (403, {"error": {"message": "no", "metadata": {"flagged_input": "x"}}}, "filtered", 1),
    (429, {"error": {"message": "no", "type": "exceeded_current_quota_error"}}, "quota", 1),
    (402, {"detail": "Payment Required"}, "quota", 1),
    (499, {"error": {"message": "cancelled"}}, "server", 3),
    (501, {"error": {"message": "not offered"}}, "rejected", 1),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "server", 3),
    (200, {"choices": [], "error": {"code": 429, "message": "busy"}}, "rate_limited", 3),
    (200, "\n\n\n", "connection", 3),
]


@pytest.mark.parametrize(("status", "body", "fault", "calls"), FAULTS)
async def test_each_error_is_repeated_only_where_that_may_help(
    server, status, body, fault, calls
) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    server.answer = lambda _: server.raw(raw, status=status)
    with pytest.raises(ChatError) as caught:
        await server.chat().complete(HELLO)
    assert (caught.value.fault, len(server.calls)) == (fault, calls)
    assert isinstance(caught.value, QuotaError) == (fault == "quota")
    if fault == "filtered":
        assert "change the request" in caught.value.hint


async def test_a_wait_told_in_words_is_kept_to(server) -> None:
    told = {"error": {"code": 429, "message": "You exceeded your quota.\nPlease retry in 0.3s."}}
    server.script += [refused(server, [told], 429), server.text("chat", "Hi.")]
    await server.chat().complete(HELLO)
    first, second = server.calls
    assert second.at - first.at >= 0.3


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please retry in 58.821668433s.", 58.821668433),
        ("Limit reached. Please try again in 7m12.5s. Visit us", 432.5),
        ("Please try again in 6ms.", 0.006),
        ("Try again in 20 seconds", 20),
        ("try again in 1h2m3s", 3723),
        ("Please try again in 1m", 60),
        ("Please try again in a moment", None),
        ("Please try again in 3 attempts", None),
        ("Slow down", None),
    ],
)
def test_waits_told_in_words(words, seconds) -> None:
    assert _wait_in(words) == (None if seconds is None else pytest.approx(seconds))


async def test_json_that_does_not_say_so_is_read(server) -> None:
    for kind in ("text/plain; charset=utf-8", "application/octet-stream"):
        body = server.text("chat", "Hi.").body
        server.script.append(server.raw(b"\n\n" + body, kind))
        assert (await server.chat().complete(HELLO)).text == "Hi."


@pytest.mark.parametrize(
    ("finish", "fault"),
    [
        ("content_filter: PROHIBITED_CONTENT", "filtered"),
        ("SAFETY", "filtered"),
        ("MAX_TOKENS", "truncated"),
    ],
)
async def test_reasons_to_stop_have_many_names(server, finish, fault) -> None:
    for message in ({"content": '{"name": "re'}, {"content": None}, {}):
        server.script.append(answer(server, finish, **message))
        with pytest.raises(ChatError) as caught:
            await server.chat().complete(HELLO, schema=Colour)
        assert caught.value.fault == fault
        assert caught.value.usage.output_tokens == 7
    assert len(server.calls) == 3


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_an_answer_taken_for_a_thought_is_found(server, field) -> None:
    for content in ("", None):
        server.script.append(answer(server, content=content, **{field: RED}))
        reply = await server.chat().complete(HELLO, schema=Colour)
        assert reply.parsed_as(Colour).name == "red"
    server.script.append(answer(server, content="", **{field: f"Perhaps {RED}?"}))
    with pytest.raises(ChatError, match="empty"):
        await server.chat().complete(HELLO, schema=Colour)
    server.script.append(answer(server, content="", **{field: RED}))
    with pytest.raises(ChatError, match="empty"):
        await server.chat().complete(HELLO)


async def test_fields_of_a_strange_kind_do_no_harm(server) -> None:
    server.script.append(answer(server, finish=1, content="Hi.", refusal=False, reasoning=[{}]))
    assert (await server.chat().complete(HELLO)).text == "Hi."


async def test_fields_of_a_servers_own_are_sent_and_tell_its_answers_apart(server) -> None:
    server.script.append(server.text("chat", "Hi."))
    own = {"chat_template_kwargs": {"enable_thinking": False}}
    chat = server.chat(extra_body=own)
    await chat.complete(HELLO)
    assert own.items() <= server.calls[0].body.items()
    assert chat.fingerprint != server.chat().fingerprint


TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model."
LIMIT = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."


async def test_what_a_model_does_not_take_is_left_out_from_then_on(server, caplog) -> None:
    server.script += [
        server.error(400, LIMIT, "unsupported_parameter"),
        server.error(400, TEMPERATURE, "unsupported_value"),
        *[server.text("chat", "Hi.")] * 2,
    ]
    chat = server.chat()
    with caplog.at_level(logging.WARNING, "lens_reasoner"):
        for _ in range(2):
            assert (await chat.complete(HELLO, temperature=0.0, max_tokens=50)).text == "Hi."
    sent = [
        {name: call.body[name] for name in call.body if name not in {"model", "messages"}}
        for call in server.calls
    ]
    assert sent == [
        {"max_tokens": 50, "temperature": 0.0},
        {"max_completion_tokens": 50, "temperature": 0.0},
        {"max_completion_tokens": 50},
        {"max_completion_tokens": 50},
    ]
    assert len(caplog.records) == 2


async def test_the_temperature_is_left_out_of_responses_too(server) -> None:
    server.script += [server.error(400, TEMPERATURE), server.text("responses", "Hi.")]
    assert (await server.chat("responses").complete(HELLO, temperature=0.0)).text == "Hi."
    assert "temperature" not in server.calls[1].body


async def test_what_was_not_sent_is_not_left_out(server) -> None:
    server.answer = lambda _: server.error(400, f"{TEMPERATURE} {LIMIT}")
    with pytest.raises(ChatError, match="temperature"):
        await server.chat().complete(HELLO)
    assert len(server.calls) == 1
    # What the user adds is the user's to take away.
    with pytest.raises(ChatError, match="temperature"):
        await server.chat(extra_body={"temperature": 0, "max_tokens": 9}).complete(HELLO)
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "words",
    [
        "The specified schema produces a constraint that has too many states for serving.",
        "Failed to initialize samplers: failed to parse grammar",
        "This model doesn't support JSON Schema",
        "Failed to generate JSON. Please adjust your prompt.",
        "This model does not support response format",
    ],
)
async def test_a_schema_that_is_not_taken_is_told_in_words(server, words) -> None:
    class Size(BaseModel):
        width: int

    server.script += [server.error(400, words), server.text("chat", RED)]
    chat = server.chat()
    assert (await chat.complete(HELLO, schema=Colour)).parsed_as(Colour).name == "red"
    # Another one may be taken all the same.
    server.script.append(server.text("chat", '{"width": 3}'))
    await chat.complete(HELLO, schema=Size)
    assert ["response_format" in call.body for call in server.calls] == [True, False, True]


async def test_a_schema_that_is_not_heeded_is_told_in_words_besides(server) -> None:
    server.script += [server.text("chat", text) for text in ("Red, I think.", RED, RED)]
    chat = server.chat()
    for _ in range(2):
        assert (await chat.complete(HELLO, schema=Colour)).parsed_as(Colour).name == "red"
    first, _, last = (call.body for call in server.calls)
    assert first["response_format"] == last["response_format"]
    assert [message["role"] for message in first["messages"]] == ["user"]
    assert [message["role"] for message in last["messages"]] == ["system", "user"]
    assert "JSON schema" in last["messages"][0]["content"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
        (404, "No endpoints found that support image input"),
        (400, "messages[1].content must be a string"),
    ],
)
async def test_a_model_that_sees_nothing_is_told_from_one_that_is_gone(
    server, status, words
) -> None:
    server.answer = lambda _: server.error(status, words)
    seen = [Message.user("What is it?", ImagePart(b"\x89PNG"))]
    with pytest.raises(ChatError, match="accepts images"):
        await server.chat().complete(seen)
    with pytest.raises(ChatError) as caught:
        await server.chat().complete(HELLO)
    assert "picture" not in caught.value.hint


async def test_hidden_reasoning_counts_as_written(server) -> None:
    usage = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
    server.script.append(answer(server, usage=usage, content="Hi."))
    reply = await server.chat(prices={"served-model": PRICES}).complete(HELLO)
    assert reply.usage.output_tokens == 103
    assert reply.usage.usd == pytest.approx(135e-6)


async def test_a_server_that_does_not_count_has_unknown_costs(server) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    server.script.append(answer(server, usage=usage, content="Hi."))
    reply = await server.chat(prices={"served-model": PRICES}).complete(HELLO)
    assert reply.usage == Usage()


@pytest.mark.parametrize(
    ("more", "usd"),
    [
        ({"cost": 0.00123}, 0.00123),
        ({"cost_in_usd_ticks": 232856000}, 0.0232856),
        ({"cost": 0}, 0.0),
        ({"cost": 0.00001, "is_byok": True}, None),
        ({"cost": {"total_cost": 0.1}}, None),
        ({"cost": -1}, None),
    ],
)
async def test_a_cost_that_the_reply_tells_is_taken_where_no_price_is_known(
    server, more, usd
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, **more}
    server.answer = lambda _: answer(server, usage=usage, content="Hi.")
    assert (await server.chat().complete(HELLO)).usage.usd == usd
    priced = await server.chat(prices={"served-model": PRICES}).complete(HELLO)
    assert priced.usage.usd == pytest.approx(18e-6)


async def test_prices_are_known_by_the_name_that_was_asked_for(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.", model="served-model-2026")
    reply = await server.chat(prices={"some-model": PRICES}).complete(HELLO)
    assert reply.usage.usd == pytest.approx(18e-6)
    server.answer = lambda _: server.text("chat", "Hi.")
    both = {"some-model": PRICES, "served-model": {**PRICES, "output": 2}}
    assert (await server.chat(prices=both).complete(HELLO)).usage.usd == pytest.approx(25e-6)
