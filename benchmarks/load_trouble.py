"""Load with failures: disconnecting clients, a killed server, and memory over a long time."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import replace

import numpy as np
from load_client import Outcome, Wanted, ask, ask_all, new_client
from load_report import DRAWN, Load, Report, idle, latency, notes, sound, until, with_key
from load_server import OwnServer, Server

LEAVER_STEPS = 60
"""More steps than are completed before the clients disconnect."""


async def leavers(load: Load) -> Report:
    """Clients that disconnect midway stop only their own work; some return with their key."""
    scale, server = load.scale, load.server
    steps = {"steps": LEAVER_STEPS}
    leave = load.wanted(scale.leavers // 2, **steps)
    leave += load.wanted(scale.leavers // 4, stream=True, previews=2, **steps)
    back = [with_key(one) for one in load.wanted(scale.leavers // 4, **steps)]
    stay = load.wanted(max(2, scale.leavers // 4), **steps)
    names = DRAWN, "lens_abandoned_total", "lens_replayed_total"
    before = [server.metric(name) for name in names]
    async with new_client(server.url) as client, new_client(server.url) as leaving:
        staying = [asyncio.create_task(ask(client, one)) for one in stay]
        gone = [asyncio.create_task(ask(leaving, one)) for one in [*leave, *back]]
        everybody = len(stay) + len(gone)
        await until(lambda: server.metric("lens_images_admitted") >= everybody)
        for task in random.Random(2).sample(gone, len(gone)):
            task.cancel()
            await asyncio.sleep(0.1)
        left = [task.cancelled() for task in gone]
        came = await asyncio.gather(*(ask(client, one) for one in back))
        outcomes = [*await asyncio.gather(*staying), *came]
    await until(lambda: idle(server), seconds=60)
    drawn, ended, found = (server.metric(n) - b for n, b in zip(names, before, strict=True))
    figures = {
        "left": sum(left),
        "stayed": len(stay),
        "came_back": len(back),
        "ended": int(ended),
        "found_their_work": int(found),
        "drawn": int(drawn),
    }
    checks = {
        **sound(outcomes),
        "all left midway": all(left),
        "who comes back soon finds the work under way": found > 0,
        "work that nobody waits for ends": ended == len(leave) + len(back) - found,
        "drawn for those that stayed or came back": drawn == len(stay) + len(back),
    }
    return Report(figures, checks, notes(outcomes))


async def killed(load: Load) -> Report:
    """SIGKILL under load: clients with keys still get their images, and stored answers survive."""
    server, count = load.server, load.scale.killed
    assert isinstance(server, OwnServer), "somebody else's server is not killed"
    wanted = [with_key(one) for one in load.wanted(count)]
    bare = load.wanted(4)
    drawn, already = server.metric(DRAWN), answers(server)
    keyed = asyncio.create_task(ask_all(server.url, wanted, clients=count))
    await until(lambda: server.metric(DRAWN) - drawn >= count // 3)
    without = asyncio.create_task(ask_all(server.url, bare, clients=4))
    await asyncio.sleep(0.2)
    server.kill()
    kept = answers(server) - already
    began = time.monotonic()
    await asyncio.to_thread(server.start)
    restart = time.monotonic() - began
    outcomes, lost = await keyed, await without
    new = int(server.metric(DRAWN))
    all_kept = answers(server) - already
    again = await ask_all(server.url, wanted, clients=count)
    first = {one.wanted.number: one.pictures for one in outcomes}
    figures = {
        "requests": count,
        "kept_when_killed": kept,
        "broken_connections": sum(one.broken for one in outcomes),
        "drawn_after_the_restart": new,
        "restart_seconds": round(restart, 1),
        "without_key": sorted({one.error.partition(":")[0] for one in lost if one.error}),
    }
    checks = {
        **sound(outcomes),
        "it hit requests under way": figures["broken_connections"] > 0,
        "without a key there is a clear error": all(one.error or one.pictures for one in lost),
        "only what was not kept is drawn": new == all_kept - kept,
        "every key has its answer": all_kept == count,
        "asked again, the same answer": all(
            one.pictures == first[one.wanted.number] for one in again
        ),
        "and nothing drawn for it": server.metric(DRAWN) == new,
    }
    return Report(figures, checks, notes([*outcomes, *again]))


async def memory(load: Load) -> Report:
    """Monitor memory and state over many cheap requests of all kinds."""
    scale, server = load.scale, load.server
    samples: list[tuple[int, float]] = []
    outcomes: list[Outcome] = []
    state, began = server.state(), time.monotonic()
    piece = max(1, scale.requests // 40)
    while len(outcomes) < scale.requests:
        count = min(piece, scale.requests - len(outcomes))
        wanted = [_cheap(one) for one in load.wanted(count, size="16x16", steps=1)]
        done = await ask_all(server.url, wanted, clients=8)
        for one in done:
            one.pictures.clear()
        outcomes += done
        samples.append((len(outcomes), round(server.resident_mib, 1)))
        print(f"after {samples[-1][0]} requests {samples[-1][1]} MiB", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    late = [sample for sample in samples if sample[0] >= scale.warm]
    slope = float(np.polyfit(*np.array(late).T, 1)[0] * 1000) if len(late) > 1 else 0.0
    grown = {
        name: {
            "files_per_1000": round((files - state[name][0]) / scale.requests * 1000),
            "mib_per_1000": round((size - state[name][1]) / scale.requests * 1000, 2),
        }
        for name, (files, size) in server.state().items()
    }
    figures = {
        "requests": scale.requests,
        "requests_per_second": round(scale.requests / seconds, 2),
        "resident_mib": samples,
        "mib_per_1000_requests": round(slope, 2),
        "state": grown,
        **latency([one.seconds for one in outcomes]),
    }
    # Leaking one of these images' answers (3 KB) per request would add up to 3 MiB.
    checks = {**sound(outcomes), "memory stays": slope < 2 or scale.requests < 1000}
    return Report(figures, checks, notes(outcomes))


def _cheap(wanted: Wanted) -> Wanted:
    kind = wanted.number % 4
    if kind == 1:
        return with_key(wanted)
    return replace(wanted, url=kind == 2, stream=kind == 3)


def answers(server: Server) -> int:
    return len(list((server.folder / "answers").glob("*.json")))
