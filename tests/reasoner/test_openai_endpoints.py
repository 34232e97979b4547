"""The decisions and moderation endpoints over loopback."""

import json

import pytest

from lens_reasoner import (
    ChatError,
    Decision,
    DecisionModel,
    ImagePart,
    Message,
    Moderator,
    OpenAIDecisions,
    OpenAIModerator,
    Question,
    QuotaError,
    RetryPolicy,
    UnsupportedSettingError,
    Usage,
)

PICTURE = [Message.system("Look."), Message.user("The picture:", ImagePart(b"png", detail="low"))]
QUESTIONS = [
    Question(name="cup", instructions="Is there a blue cup?"),
    Question(name="two", instructions="Are there two apples?"),
]
USAGE = {
    "input_tokens": 900,
    "output_tokens": 0,
    "total_tokens": 900,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def _answers(*answers: dict) -> bytes:
    body = {"answers": answers, "model": "gpt-6-luna", "usage": USAGE, "object": "decision"}
    return json.dumps(body).encode()


def _predicate(name: str | None, probability: float | None) -> dict:
    return {"type": "predicate", "name": name, "probability": probability}


def _decisions(server, secret, **options) -> OpenAIDecisions:
    options.setdefault("retry", RetryPolicy(attempts=2, first_wait=0.01))
    return OpenAIDecisions(base_url=server.url, api_key=secret, **options)


async def test_questions_get_probabilities(server, secret) -> None:
    refusal = {"type": "refusal", "name": "two"}
    server.script.append(server.raw(_answers(_predicate("cup", 0.93), refusal)))
    prices = {"gpt-6-luna": {"input": 0.1, "cached_input": 0.1, "output": 0}}
    client = _decisions(server, secret, prices=prices)
    assert isinstance(client, DecisionModel)
    reply = await client.decide(PICTURE, QUESTIONS)
    assert reply.decisions[0] == Decision(name="cup", probability=0.93)
    assert reply.decisions[1].probability is None
    assert reply.decisions[1].refusal
    assert reply.usage == Usage(input_tokens=900, output_tokens=0, cached_tokens=100, usd=9e-5)
    assert reply.model == "gpt-6-luna"
    assert reply.seconds > 0
    (call,) = server.calls
    assert call.path == "/v1/decisions"
    assert call.body["model"] == "gpt-6-luna"
    assert call.body["questions"][0] == {
        "type": "predicate",
        "name": "cup",
        "instructions": "Is there a blue cup?",
    }
    system, user = call.body["input"]
    assert system == {"role": "system", "content": [{"type": "input_text", "text": "Look."}]}
    assert user["content"][1] == {
        "type": "input_image",
        "image_url": "data:image/png;base64,cG5n",
        "detail": "low",
    }


@pytest.mark.parametrize(
    "body",
    [
        _answers(_predicate("cup", 0.5)),
        _answers(_predicate("two", 0.5), _predicate("cup", 0.5)),
        _answers(_predicate("cup", 0.5), _predicate("two", None)),
        _answers(_predicate("cup", 0.5), _predicate("two", 1.5)),
        _answers(_predicate("cup", 0.5), {"type": "choice", "name": "two", "choice": "a"}),
        b'{"answers": 3}',
    ],
)
async def test_answers_that_do_not_fit_the_questions_are_an_error(server, secret, body) -> None:
    server.script.append(server.raw(body))
    with pytest.raises(ChatError) as caught:
        await _decisions(server, secret).decide(PICTURE, QUESTIONS)
    assert caught.value.fault == "malformed"


async def test_answers_without_names_go_by_their_order(server, secret) -> None:
    server.script.append(server.raw(_answers(_predicate(None, 0.1), _predicate(None, 0.9))))
    reply = await _decisions(server, secret).decide(PICTURE, QUESTIONS)
    assert {d.name: d.probability for d in reply.decisions} == {"cup": 0.1, "two": 0.9}


def test_plain_code_can_ask(server, secret) -> None:
    server.answer = lambda _: server.raw(_answers(_predicate("cup", 0.2)))
    assert _decisions(server, secret).decide_sync(PICTURE, QUESTIONS[:1]).decisions[0].probability


async def test_errors_are_those_of_every_client(server, secret) -> None:
    server.script += [server.error(500), server.error(429, "no", "insufficient_quota")]
    with pytest.raises(QuotaError):
        await _decisions(server, secret).decide(PICTURE, QUESTIONS)
    assert len(server.calls) == 2


@pytest.mark.parametrize("questions", [[], QUESTIONS * 2, [QUESTIONS[0]] * 401])
async def test_questions_that_cannot_be_asked_are_refused_before_the_call(
    server, secret, questions
) -> None:
    with pytest.raises(UnsupportedSettingError, match="different names"):
        await _decisions(server, secret).decide(PICTURE, questions)
    assert server.calls == []


def _flags(**categories: bool) -> bytes:
    named = {name.replace("__", "/").replace("_", "-"): flag for name, flag in categories.items()}
    result = {"flagged": any(named.values()), "categories": named, "category_scores": {}}
    return json.dumps({"id": "m", "model": "omni-2024", "results": [result]}).encode()


def _moderator(server, secret) -> OpenAIModerator:
    retry = RetryPolicy(attempts=2, first_wait=0.01)
    return OpenAIModerator(base_url=server.url, api_key=secret, retry=retry)


async def test_a_harmless_request_passes(server, secret) -> None:
    server.script.append(server.raw(_flags(hate=False, violence=False)))
    moderator = _moderator(server, secret)
    assert isinstance(moderator, Moderator)
    assert await moderator.check("a cat") is None
    (call,) = server.calls
    assert call.path == "/v1/moderations"
    assert call.body == {"model": "omni-moderation-latest", "input": "a cat"}


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ({"sexual": True}, "sexual"),
        ({"sexual": True, "sexual__minors": True}, "minors"),
        ({"violence__graphic": True}, "violence"),
        ({"self_harm__instructions": True, "violence": True}, "self_harm"),
        ({"harassment__threatening": True}, "hate"),
        ({"illicit__violent": True}, "illegal"),
        ({"something_new": True}, "other"),
    ],
)
async def test_a_flag_becomes_a_refusal(server, secret, categories, expected) -> None:
    server.script.append(server.raw(_flags(hate=False, **categories)))
    refused = await _moderator(server, secret).check("...")
    assert refused.category == expected
    assert refused.model == "omni-2024"
    assert all(name.split("_")[0] in refused.reason for name in categories)


@pytest.mark.parametrize("body", [b'{"results": []}', b"{}", b'{"results": [{"flagged": 2}]}'])
async def test_no_decision_is_an_error_and_never_a_pass(server, secret, body) -> None:
    server.script.append(server.raw(body))
    with pytest.raises(ChatError) as caught:
        await _moderator(server, secret).check("a cat")
    assert caught.value.fault == "malformed"


def test_plain_code_can_check(server, secret) -> None:
    server.answer = lambda _: server.raw(_flags(hate=True))
    assert _moderator(server, secret).check_sync("...").category == "hate"
