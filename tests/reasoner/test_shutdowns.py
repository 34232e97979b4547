"""Models that end: one warning that names the successor and the setting."""

import asyncio
import datetime
import json
import warnings

import pytest

from lens_reasoner import (
    ChatError,
    Message,
    ModelNotFoundError,
    ModelShutdownWarning,
    OpenAIChat,
    RetryPolicy,
    Shutdown,
    ShutdownWatch,
)
from lens_reasoner.judging.single import DEFAULT_JUDGE_MODEL
from lens_reasoner.reasoner import JUDGE_SETTING, default_chat
from lens_reasoner.shutdowns import OPENAI_SHUTDOWNS

HELLO = [Message.user("Hello")]
TODAY = datetime.date(2026, 11, 22)


def _watch(today: datetime.date = TODAY, **known: Shutdown) -> ShutdownWatch:
    return ShutdownWatch({**OPENAI_SHUTDOWNS, **known}, today=lambda: today)


def _described(server, model: str, date: str | None, **how):
    body = {"id": model, "object": "model", "created": 1, "owned_by": "x", "shutdown_date": date}
    server.pages[f"/v1/models/{model}"] = server.raw(json.dumps(body).encode(), **how)


def _chat(server, model: str, watch: ShutdownWatch, **options) -> OpenAIChat:
    server.answer = lambda _: server.text("chat", "Hi.")
    return server.chat(model=model, look_up_shutdown=True, shutdowns=watch, **options)


def _lookups(server) -> int:
    return sum(call.path.startswith("/v1/models/") for call in server.calls)


async def test_one_warning_names_successor_and_setting(server) -> None:
    _described(server, "gpt-4.1-mini", "2027-01-10")
    watch = _watch()
    chat = _chat(server, "gpt-4.1-mini", watch, setting="judge='openai:{model}'")
    again = _chat(server, "gpt-4.1-mini", watch)
    with pytest.warns(ModelShutdownWarning) as caught:
        await asyncio.gather(*(asked.complete(HELLO) for asked in (chat, chat, again)))
    (text,) = [str(w.message) for w in caught]
    assert "'gpt-4.1-mini'" in text
    assert "2027-01-10, in 49 days" in text
    assert "judge='openai:gpt-6-luna'" in text
    assert _lookups(server) == 1


@pytest.mark.parametrize(
    ("date", "warned"),
    [
        ("2027-01-21", True),
        ("2027-01-22", False),
        ("2026-10-01", True),
        ("2026-12-01T00:00:00Z", True),
        (None, False),
        ("soon", False),
    ],
)
async def test_warned_within_sixty_days_and_afterwards(server, date, warned) -> None:
    _described(server, "some", date)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await _chat(server, "some", _watch()).complete(HELLO)
    assert [w.category for w in caught] == [ModelShutdownWarning] * warned
    if date == "2026-10-01":
        assert "ended on 2026-10-01" in str(caught[0].message)


@pytest.mark.parametrize("how", ["404", "html", "slow", "list"])
async def test_a_lookup_that_fails_fails_no_call_and_the_table_is_used(server, how) -> None:
    page = {
        "404": server.error(404, "no"),
        "html": server.raw(b"<html>", "text/html"),
        "slow": server.raw(b"{}", delay=3),
        "list": server.raw(b"[]"),
    }[how]
    server.pages["/v1/models/gpt-4.1-mini-2025-04-14"] = page
    chat = _chat(server, "gpt-4.1-mini-2025-04-14", _watch())
    with pytest.warns(ModelShutdownWarning, match="2027-01-14"):
        reply = await chat.complete(HELLO)
    assert reply.text == "Hi."
    assert reply.seconds < 2
    assert (await chat.complete(HELLO)).text == "Hi."
    assert _lookups(server) == 1


async def test_a_lookup_hides_no_error_of_the_call(server) -> None:
    _described(server, "some", "2026-12-01")
    chat = _chat(server, "some", _watch())
    server.answer = lambda _: server.error(400, "bad")
    with pytest.raises(ChatError, match="bad"), pytest.warns(ModelShutdownWarning):
        await chat.complete(HELLO)


async def test_other_servers_are_not_asked_unless_told_to(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await server.chat(model="gpt-4.1-mini", shutdowns=_watch()).complete(HELLO)
    assert _lookups(server) == 0


def test_the_default_judge_names_its_setting(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    chat = default_chat(DEFAULT_JUDGE_MODEL, setting=JUDGE_SETTING)
    with pytest.warns(ModelShutdownWarning, match=r"use --judge openai:gpt-6-luna, or RubricJudge"):
        _watch().warn(chat.model, None, setting=chat._connection._setting)


def test_openai_is_asked_by_itself(monkeypatch) -> None:
    assert OpenAIChat("m", api_key="sk-0123456789")._connection._looks_up
    assert not OpenAIChat("m", base_url="http://localhost/v1")._connection._looks_up


@pytest.mark.parametrize("today", [datetime.date(2026, 11, 14), datetime.date(2026, 11, 15)])
def test_the_default_judge_is_warned_about_in_time(today) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _watch(today).warn("gpt-4.1-mini", None, setting="model='{model}'")
    assert len(caught) == (today >= datetime.date(2026, 11, 15))


@pytest.mark.parametrize(
    ("message", "code"),
    [("no", "model_not_found"), ("The model `some-model` does not exist.", None)],
)
async def test_a_missing_model_is_not_retried_and_names_the_setting(server, message, code) -> None:
    server.answer = lambda _: server.error(404, message, code)
    chat = server.chat(setting="judge='openai:{model}'", retry=RetryPolicy(first_wait=0.01))
    with pytest.raises(ModelNotFoundError, match="judge='openai:NAME'") as caught:
        await chat.complete(HELLO)
    assert caught.value.fault == "rejected"
    assert len(server.calls) == 1


async def test_a_wrong_path_is_not_a_missing_model(server) -> None:
    server.answer = lambda _: server.error(404, "Not Found")
    with pytest.raises(ChatError, match="base_url") as caught:
        await server.chat().complete(HELLO)
    assert not isinstance(caught.value, ModelNotFoundError)
