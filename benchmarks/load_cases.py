"""Normal load on a server: batches, many clients, slow readers."""

from __future__ import annotations

import asyncio
import random
import socket
import time

import httpx
from load_client import (
    GENERATIONS,
    Outcome,
    Wanted,
    ask,
    ask_all,
    difference,
    finished,
    mistakes,
    new_client,
)
from load_report import DRAWN, Load, Report, idle, latency, notes, sound, until

ROUNDING = 2
"""Maximum difference, of 255, between an image of a batch and the same image generated alone."""

SLOW_PICTURES = 4
"""Images per slow reader: more data than fits into network buffers."""


async def batches(load: Load) -> Report:
    """Measure throughput and latency against the number of images generated together."""
    scale, server = load.scale, load.server
    await ask_all(server.url, load.wanted(2, size=scale.size, steps=scale.steps), clients=2)
    rows, outcomes = [], []
    for clients in scale.batches:
        wanted = load.wanted(max(scale.per_batch, clients), size=scale.size, steps=scale.steps)
        steps, cpu, began = server.metric("lens_batch_steps"), server.cpu_seconds, time.monotonic()
        done = await ask_all(server.url, wanted, clients=clients)
        seconds, cpu = time.monotonic() - began, server.cpu_seconds - cpu
        steps = server.metric("lens_batch_steps") - steps
        outcomes += done
        rows.append(
            {
                "clients": clients,
                "mean_batch": round(len(done) * scale.steps / steps, 2),
                "pictures_per_second": round(len(done) / seconds, 3),
                "cpu_seconds_per_picture": round(cpu / len(done), 3),
                **latency([one.seconds for one in done]),
            }
        )
    return Report({"rows": rows}, sound(outcomes), notes(outcomes))


async def crowd(load: Load) -> Report:
    """Many clients at once: rejected ones are told when to retry, and do so."""
    server, count = load.server, load.scale.clients
    wanted = [
        *load.wanted(count // 2),
        *load.wanted(count // 4, url=True),
        *load.wanted(count - count // 2 - count // 4, stream=True, previews=1),
    ]
    random.Random(0).shuffle(wanted)
    drawn, began = server.metric(DRAWN), time.monotonic()
    outcomes = await ask_all(server.url, wanted, clients=count)
    seconds = time.monotonic() - began
    drawn = server.metric(DRAWN) - drawn
    sample = random.Random(1).sample(outcomes, max(1, count // 20))
    apart = [await _alone(load, one) for one in sample]
    unlike = difference(outcomes[0].pictures[0], outcomes[1].pictures[0])
    figures = {
        "clients": count,
        "seconds": round(seconds, 1),
        "pictures_per_second": round(count / seconds, 2),
        "refusals": sum(one.refusals for one in outcomes),
        "most_refusals_of_one_client": max(one.refusals for one in outcomes),
        "admitted": latency([one.seconds for one in outcomes]),
        "with_waiting": latency([one.total_seconds for one in outcomes]),
        "largest_difference_to_a_lone_request": max(apart),
        "difference_of_two_pictures": unlike,
    }
    checks = {
        **sound(outcomes),
        "each drawn once": drawn == count,
        "as if drawn alone": max(apart) <= ROUNDING < unlike,
        "nothing left in the queue": server.metric("lens_images_admitted") == 0,
    }
    return Report(figures, checks, notes(outcomes))


async def _alone(load: Load, outcome: Outcome) -> int:
    async with new_client(load.server.url) as client:
        again = await ask(client, outcome.wanted)
    return difference(again.pictures[0], outcome.pictures[0])


async def slow_readers(load: Load) -> Report:
    """Clients that stop reading in the middle of their images do not delay others."""
    scale, server = load.scale, load.server
    quick = max(4, scale.slow)
    before = await ask_all(server.url, load.wanted(quick), clients=2)
    wanted = load.wanted(scale.slow, n=SLOW_PICTURES, stream=True, previews=2)
    drawn = server.metric(DRAWN) + SLOW_PICTURES * scale.slow
    release = asyncio.Event()
    reading = [asyncio.create_task(_slowly(server.url, one, release)) for one in wanted]
    await until(lambda: server.metric(DRAWN) >= drawn and idle(server))
    still = sum(not task.done() for task in reading)
    during = await ask_all(server.url, load.wanted(quick), clients=2)
    release.set()
    outcomes = await asyncio.gather(*reading)
    figures = {
        "slow_readers": scale.slow,
        "still_reading": still,
        "alone": latency([one.seconds for one in before]),
        "beside_slow_readers": latency([one.seconds for one in during]),
    }
    checks = {
        **sound([*before, *during, *outcomes]),
        "drawn before they were read": still == scale.slow,
    }
    return Report(figures, checks, notes([*before, *during, *outcomes]))


async def _slowly(url: str, wanted: Wanted, release: asyncio.Event) -> Outcome:
    """Read in small pieces, and nothing after the first one until released."""
    outcome, text = Outcome(wanted), b""
    window = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    transport = httpx.AsyncHTTPTransport(socket_options=window)
    async with (
        new_client(url, transport=transport) as client,
        client.stream("POST", GENERATIONS, json=wanted.body) as answer,
    ):
        async for piece in answer.aiter_raw():
            text += piece
            await release.wait()
            await asyncio.sleep(0.01)
    outcome.mistakes = mistakes(wanted, finished(text.decode(), outcome), [])
    outcome.error = outcome.error if answer.status_code == 200 else f"{answer.status_code}"
    return outcome
