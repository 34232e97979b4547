"""Limits of one model, shared by every client in the process."""

import asyncio
import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_reasoner import ChatError, Limits, Message, RetryPolicy, limits
from lens_reasoner.limits import MINUTE, Limiter, MinuteWindow, estimate_tokens, limiter_for

HELLO = [Message.user("Hello")]


class Crowd:
    """Counts how many answers are under way at once."""

    def __init__(self, server, reply) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.reply = reply

    def __call__(self, call):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.05)
        with self.lock:
            self.now -= 1
        return self.reply


async def test_clients_of_one_model_share_its_concurrency(server) -> None:
    crowd = server.answer = Crowd(server, server.text("chat", "Hi."))
    chats = [server.chat(model="shared", limits=Limits(concurrency=2)), server.chat(model="shared")]
    await asyncio.gather(*(chat.complete(HELLO) for chat in chats for _ in range(4)))
    assert crowd.most == 2
    assert len(server.calls) == 8


async def test_models_do_not_wait_for_each_other(server) -> None:
    crowd = server.answer = Crowd(server, server.text("chat", "Hi."))
    chats = [server.chat(model=name, limits=Limits(concurrency=1)) for name in "abcd"]
    await asyncio.gather(*(chat.complete(HELLO) for chat in chats))
    assert crowd.most > 1


def test_event_loops_share_the_limits_too(server) -> None:
    crowd = server.answer = Crowd(server, server.text("chat", "Hi."))
    chat = server.chat(model="loops", limits=Limits(concurrency=1))
    threads = [threading.Thread(target=lambda: asyncio.run(chat.complete(HELLO))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.calls) == 4
    assert crowd.most == 1


async def test_waiting_for_our_own_limits_does_not_count_towards_the_deadline(
    server, monkeypatch
) -> None:
    monkeypatch.setattr(limits, "MINUTE", 0.8)
    server.answer = lambda _: server.text("chat", "Hi.")
    retry = RetryPolicy(deadline=0.5)
    rated = server.chat(model="rated", limits=Limits(requests_per_minute=1), retry=retry)
    await asyncio.gather(*(rated.complete(HELLO) for _ in range(3)))
    assert server.calls[2].at - server.calls[0].at > 2 * 0.5
    server.answer = lambda _: server.raw(server.text("chat", "Hi.").body, delay=0.2)
    narrow = server.chat(model="narrow", limits=Limits(concurrency=1), retry=retry)
    await asyncio.gather(*(narrow.complete(HELLO) for _ in range(4)))
    assert len(server.calls) == 7


async def test_the_deadline_holds_after_waiting_for_our_own_limits(server, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MINUTE", 0.6)
    server.script.append(server.text("chat", "Hi."))
    chat = server.chat(
        model="late", limits=Limits(requests_per_minute=1), retry=RetryPolicy(deadline=0.4)
    )
    await chat.complete(HELLO)
    server.answer = lambda _: server.raw(b"{}", delay=2.0)
    started = time.monotonic()
    with pytest.raises(ChatError, match="deadline") as caught:
        await chat.complete(HELLO)
    assert caught.value.fault == "timeout"
    assert len(server.calls) == 2
    assert 0.5 < time.monotonic() - started < 2.5


async def test_who_calls_may_bound_the_waiting_too(server) -> None:
    server.answer = lambda _: server.text("chat", "Hi.")
    chat = server.chat(model="bounded", limits=Limits(requests_per_minute=1))
    await chat.complete(HELLO)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await chat.complete(HELLO)
    assert len(server.calls) == 1


async def test_tokens_are_put_right_by_what_the_reply_says(server) -> None:
    """Estimated at hundreds, used 18: many such calls fit into a minute's 1000."""
    server.answer = lambda _: server.text("chat", "Hi.")
    chat = server.chat(
        model="tokens", limits=Limits(tokens_per_minute=1000), retry=RetryPolicy(deadline=2)
    )
    for _ in range(20):
        await chat.complete(HELLO)
    assert estimate_tokens(HELLO) > 200


async def test_places_go_to_who_came_first_and_back_when_a_task_is_cancelled() -> None:
    limiter, order = Limiter(Limits(concurrency=1)), []

    async def work(name: str) -> None:
        async with limiter.slot(1):
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work(name)) for name in "abcdef"]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.sleep(0.015)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order in (list("abdef"), list("adef"))
    async with asyncio.timeout(1), limiter.slot(1):
        pass


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 3))
def test_no_place_is_ever_lost(cancelled: list[bool], concurrency: int) -> None:
    async def play() -> None:
        limiter = Limiter(Limits(concurrency=concurrency))

        async def work() -> None:
            async with limiter.slot(1):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work()) for _ in cancelled]
        for task, cancel in zip(tasks, cancelled, strict=True):
            await asyncio.sleep(0)
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency + 1):
                    group.create_task(work())

    asyncio.run(play())


_arrivals = st.lists(
    st.tuples(st.floats(0, 90), st.integers(0, 700), st.integers(0, 900)), max_size=15
)


@given(_arrivals, st.integers(1, 5), st.integers(1, 1000))
def test_no_minute_holds_more_than_its_limits(arrivals, requests: int, tokens: int) -> None:
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    window, now, begun = MinuteWindow(), 0.0, []
    for gap, estimate, used in arrivals:
        now += gap
        while (wait := window.wait(now, estimate, limits)) > 0:
            # Rounding may leave a remainder too small to move the clock.
            now = max(now + wait, now + 1e-6)
        slot = window.begin(now, estimate)
        alone = [s for s in begun if s.begun + MINUTE > now]
        assert len(alone) < requests
        assert not alone or sum(s.tokens for s in alone) + estimate <= tokens
        slot.tokens = used
        begun.append(slot)


def test_one_limiter_per_model_and_server() -> None:
    first = limiter_for("http://a/v1", "m", Limits(concurrency=3))
    assert limiter_for("http://a/v1/", "m") is first
    assert first.limits.concurrency == 3
    assert limiter_for("http://b/v1", "m") is not first
    assert limiter_for("http://a/v1", "m", Limits(concurrency=5)).limits.concurrency == 5
    assert first.limits.concurrency == 5
    assert json.loads(Limits().model_dump_json())["concurrency"] == 16
