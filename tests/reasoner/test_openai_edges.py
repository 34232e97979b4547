"""Odd but usable replies, and calls that break on their way, over both protocols."""

import email.utils
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from lens_reasoner import ChatError, LLMReasoner, Message, Refused, RetryPolicy, Usage

both = pytest.mark.parametrize("api", ["chat", "responses"])
HELLO = [Message.user("Hello")]


def changed(server, api, text="Hi.", **fields: Any):
    """A good reply with some of its fields replaced; None takes a field away."""
    reply = server.text(api, text)
    data = {**json.loads(reply.body), **fields}
    return replace(reply, body=json.dumps(data).encode())


@both
@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "lots",
        {"prompt_tokens": None, "input_tokens": None, "output_tokens": -1},
        {"prompt_tokens": 1.5, "input_tokens": 1.5, "completion_tokens": "x", "output_tokens": []},
    ],
)
async def test_a_reply_that_counts_oddly_is_used_and_its_cost_unknown(server, api, usage) -> None:
    server.script.append(changed(server, api, usage=usage))
    reply = await server.chat(
        api, prices={"served-model": {"input": 1, "cached_input": 1, "output": 1}}
    ).complete(HELLO)
    assert reply.text == "Hi."
    assert reply.usage == Usage()


@both
async def test_parts_of_a_usage_that_are_right_are_kept(server, api) -> None:
    names = ("prompt", "completion") if api == "chat" else ("input", "output")
    usage = {f"{names[0]}_tokens": 9, f"{names[1]}_tokens": 4, f"{names[0]}_tokens_details": [1]}
    server.script.append(changed(server, api, usage=usage))
    reply = await server.chat(api).complete(HELLO)
    assert reply.usage == Usage(input_tokens=9, output_tokens=4)


@both
async def test_fields_of_later_versions_do_no_harm(server, api) -> None:
    extra = {"moods": [1], "service_tier": {"new": True}, "error": None, "metadata": "odd"}
    server.script.append(changed(server, api, **extra))
    assert (await server.chat(api).complete(HELLO)).text == "Hi."


async def test_answers_in_parts_are_joined_without_the_thoughts(server) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "text": "hm"},
        {"type": "text", "text": "Red"},
        {"type": "text", "text": " cup."},
    ]
    message = {"role": "assistant", "content": parts}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    server.script.append(changed(server, "chat", choices=choices))
    assert (await server.chat("chat").complete(HELLO)).text == "Red cup."


@pytest.mark.parametrize("part", [{"refusal": "No.", "text": None}, {"refusal": None}])
async def test_a_refusal_is_one_whatever_stands_beside_it(server, part) -> None:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "refusal", **part}]}]
    server.script.append(changed(server, "responses", output=output))
    with pytest.raises(ChatError) as caught:
        await server.chat("responses").complete(HELLO)
    assert caught.value.fault == "refused"
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens == 11


@both
async def test_half_a_character_becomes_a_mark(server, api) -> None:
    server.script.append(server.text(api, "a cat \ud83d and \U0001f98a 漢字"))
    reply = await server.chat(api).complete(HELLO)
    assert reply.text == "a cat ? and \U0001f98a 漢字"


@both
@pytest.mark.parametrize("cut", [0, 40])
async def test_a_reply_cut_off_on_its_way_is_asked_for_again(server, api, cut) -> None:
    good = server.text(api, "Hi.")
    server.script.extend([replace(good, cut=cut), good])
    assert (await server.chat(api).complete(HELLO)).text == "Hi."
    assert len(server.calls) == 2
    server.script.extend([replace(good, cut=cut)] * 3)
    with pytest.raises(ChatError) as caught:
        await server.chat(api).complete(HELLO)
    assert caught.value.fault == "connection"


async def test_a_date_to_come_back_at_is_kept_to(server) -> None:
    back = int(time.time()) + 2
    date = email.utils.formatdate(back, usegmt=True)
    server.script.extend([server.error(429, retry_after=date), server.text("chat", "Hi.")])
    assert (await server.chat().complete(HELLO)).text == "Hi."
    assert time.time() >= back


async def test_come_back_at_once_does_not_use_up_all_attempts_at_once(server) -> None:
    busy = server.error(429, "busy", retry_after="0")
    server.script.extend([busy, busy, server.text("chat", "Hi.")])
    patient = RetryPolicy(attempts=3, first_wait=0.2)
    assert (await server.chat(retry=patient).complete(HELLO)).text == "Hi."
    first, second, third = (call.at for call in server.calls)
    assert second - first > 0.14
    assert third - second > 0.28


@both
async def test_a_first_byte_that_is_late_is_waited_for_as_long_as_allowed(server, api) -> None:
    late = replace(server.text(api, "Hi."), delay=0.3)
    server.script.extend([late, late])
    patient = RetryPolicy(attempts=1, timeout=5)
    assert (await server.chat(api, retry=patient).complete(HELLO)).text == "Hi."
    with pytest.raises(ChatError) as caught:
        await server.chat(api, retry=RetryPolicy(attempts=1, timeout=0.1)).complete(HELLO)
    assert caught.value.fault == "timeout"


@both
@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b'{"error": {"message": "x"}}'])
async def test_json_of_another_kind_is_a_typed_error(server, api, body) -> None:
    server.script.append(server.raw(body))
    with pytest.raises(ChatError) as caught:
        await server.chat(api).complete(HELLO)
    assert caught.value.fault in {"malformed", "html"}
    assert len(server.calls) == 1


@both
@pytest.mark.parametrize(
    ("told", "fault", "calls"),
    [
        ({"code": 502, "message": "upstream is down"}, "server", 3),
        ({"code": "429", "message": "upstream is busy"}, "rate_limited", 3),
        ({"code": "rate_limit_exceeded", "message": "upstream is busy"}, "rate_limited", 3),
        ({"code": 402, "message": "upstream wants money"}, "quota", 1),
        ({"code": 403, "message": "upstream says no"}, "rejected", 1),
        ({"type": "content_filter", "message": "upstream says no"}, "filtered", 1),
        ({"message": "upstream broke"}, "malformed", 1),
        ("upstream broke", "malformed", 1),
    ],
)
async def test_an_error_under_a_good_status_is_that_error(server, api, told, fault, calls) -> None:
    server.answer = lambda _: server.raw(json.dumps({"error": told, "user_id": "x"}).encode())
    with pytest.raises(ChatError, match="upstream") as caught:
        await server.chat(api).complete(HELLO)
    assert (caught.value.fault, len(server.calls)) == (fault, calls)
    assert caught.value.hint


def broken_off(server, reason="error"):
    message = {"role": "assistant", "content": "A red c"}
    error = {"code": 502, "message": "upstream is gone"} if reason == "error" else None
    choice = {"index": 0, "finish_reason": reason, "message": message, "error": error}
    return changed(server, "chat", choices=[choice])


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
async def test_a_reply_that_breaks_off_is_asked_for_again(server, reason) -> None:
    server.script += [broken_off(server, reason), server.text("chat", "A red cup.")]
    reply = await server.chat("chat").complete(HELLO)
    assert reply.text == "A red cup."
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (22, 14)


async def test_replies_that_all_break_off_are_no_answer(server) -> None:
    server.answer = lambda _: broken_off(server)
    with pytest.raises(ChatError, match="upstream is gone") as caught:
        await server.chat("chat").complete(HELLO)
    assert (caught.value.fault, len(server.calls)) == ("server", 3)
    assert caught.value.usage.input_tokens == 33


@pytest.mark.parametrize("choices", [None, []])
async def test_a_reply_without_choices_is_one_that_broke_off(server, choices) -> None:
    nothing = json.dumps({"id": "x", "choices": choices, "model": "served-model"}).encode()
    server.script += [server.raw(nothing), server.text("chat", "Hi.")]
    reply = await server.chat("chat").complete(HELLO)
    assert reply.usage == Usage(input_tokens=11, output_tokens=7, cached_tokens=4)


@both
async def test_a_providers_refusal_is_a_value_with_its_cost(server, api) -> None:
    from lens_reasoner import ImageRequest

    server.script.append(server.text(api, None, refusal="I cannot help with that."))
    outcome = await LLMReasoner(server.chat(api)).rewrite(ImageRequest(text="something bad"))
    assert isinstance(outcome, Refused)
    assert (outcome.category, outcome.usage.input_tokens) == ("provider", 11)
    server.script.append(server.error(400, "blocked", "content_policy_violation"))
    outcome = await LLMReasoner(server.chat(api)).rewrite(ImageRequest(text="something bad"))
    assert isinstance(outcome, Refused)
    assert outcome.usage.usd is None
