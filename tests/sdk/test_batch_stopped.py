"""`lens batch` stopped, killed, moved, out of money or time, and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from batch_world import CALLS, REQUESTS, World, lens, table


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a prompt's tokens cost; answers are free."""
    price = {"input": 1e6, "cached_input": 1e6, "output": 0}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"date": "2026-11-22", "prices": {"writer": price, "judge": price}}))
    monkeypatch.setenv("LENS_PRICES", str(file))


def test_a_killed_batch_goes_on_without_paying_for_anything_twice(
    world: World, served: list[str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lens_sdk", "batch", *served, "--concurrency", "1"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # In the middle of the second request, before the call is answered.
    world.at = lambda number: number == CALLS + 3 and process.kill()
    assert process.wait(120) == -signal.SIGKILL
    world.at = lambda number: None
    assert [row["request"] for row in table(Path("out"))] == REQUESTS[:1]
    known = len(world.server.calls)
    recorded = (
        sum(
            line.startswith(b'{"event"') and b'"type": "started"' not in line
            for path in Path("out/runs").glob("*/events.jsonl")
            for line in path.read_bytes().splitlines()
        )
        - 1
    )  # the first one's "finished"
    lens(*served)
    assert [row["request"] for row in table(Path("out"))] == REQUESTS
    # What was on its way when it was killed is all that is asked for again.
    assert len(world.server.calls) == known + CALLS * len(REQUESTS) - recorded
    twice = [text for text, times in world.asked.items() if times > 1]
    assert len(twice) == known - recorded <= 2


def test_a_record_that_cannot_be_read_keeps_nothing_else_from_being_drawn(
    world: World, served: list[str], file: Path
) -> None:
    file.write_text("a bomb", "utf-8")
    lens(*served, code=3)
    (record,) = Path("out/runs").glob("*/events.jsonl")
    header, *others = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join([header, b"{}\n", *others]))
    file.write_text("a bomb\na blue cup", "utf-8")
    lens(*served, code=1)
    bomb, cup = table(Path("out"))
    assert "events.jsonl cannot be read" in bomb["error"]
    assert (cup["score"], cup["error"]) == (1.0, None)


def test_a_record_without_a_header_keeps_nothing_else_from_being_drawn(
    world: World, served: list[str], file: Path
) -> None:
    """One damaged file among many ended the batch before it began."""
    lens(*served)
    runs = sorted(Path("out/runs").glob("*/events.jsonl"))
    runs[0].write_bytes(b"")
    with runs[1].open("ab") as events:
        events.write(b'{"event": 5, "clock": {}}\n')
    file.write_text("\n".join([*REQUESTS, "four cars"]), "utf-8")
    lens(*served, code=1)
    rows = {row["id"]: row for row in table(Path("out"))}
    assert len(rows) == 4
    damaged = [rows.pop(path.parent.name) for path in runs[:2]]
    assert all("events.jsonl" in row["error"] for row in damaged)
    assert all(row["score"] == 1 for row in rows.values())


def test_a_folder_may_be_moved_or_copied_and_gone_on_with_from_anywhere(
    world: World, served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in the table led to where the first command was given, or to the folder copied."""
    lens(*served)
    rows, known = table(Path("out")), len(world.server.calls)
    shutil.copytree("out", "copy")
    shutil.rmtree("out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with monkeypatch.context() as patched:
        patched.setattr("lens_sdk.metadata.save_candidate", None)
        told = json.loads(lens(served[0], "--out", "../copy", *served[3:], "--json")[0])
    assert table(Path("../copy")) == rows
    assert [Path("../copy", row["path"]).is_file() for row in rows] == [True] * 3
    assert [row["path"] for row in told["requests"]] == [f"../copy/{r['path']}" for r in rows]
    assert len(world.server.calls) == known


def test_what_failing_again_and_again_costs_is_not_forgotten(
    world: World, served: list[str], file: Path, prices: None
) -> None:
    """A reply that is no rewrite is paid for and in no record."""
    file.write_text("a blue cup", "utf-8")
    answer = world.server.answer
    world.server.answer = lambda call: world.server.text("chat", "nonsense", model="writer")
    lens(*served, code=1)
    (first,) = table(Path("out"))
    assert first["usd"] > 0
    lens(*served, code=1)
    (second,) = table(Path("out"))
    assert second["usd"] == pytest.approx(2 * first["usd"])
    world.server.answer = answer
    known = len(world.server.calls)
    _, stderr = lens(*served, "--max-cost", str(first["usd"] * 1.5), code=1)
    assert "The cost limit is reached." in stderr
    assert len(world.server.calls) == known


def test_a_cost_that_nobody_knows_ends_a_batch_with_a_limit(
    world: World, served: list[str]
) -> None:
    _, stderr = lens(*served, "--max-cost", "5", "--concurrency", "1", code=1)
    assert "3 left · cost unknown" in stderr
    assert "The cost of some calls is unknown" in stderr
    assert 0 < len(world.server.calls) < CALLS
    lens(*served)
    assert set(world.asked.values()) == {1}


def test_a_failed_call_of_unknown_cost_is_unknown_for_the_next_command_too(
    world: World, served: list[str], file: Path, prices: None
) -> None:
    file.write_text("a blue cup", "utf-8")
    answer = world.server.answer
    # Answered without a word of what it took.
    world.server.answer = lambda call: world.server.raw(b'{"choices": 5}')
    lens(*served, "--max-cost", "1000", code=1)
    (row,) = table(Path("out"))
    assert row["usd"] is None
    world.server.answer = answer
    known = len(world.server.calls)
    _, stderr = lens(*served, "--max-cost", "1000", code=1)
    assert "1 left · cost unknown" in stderr
    assert len(world.server.calls) == known
    lens(*served)
    (row,) = table(Path("out"))
    assert (row["error"], row["usd"]) == (None, None)


def test_what_a_lost_record_cost_is_not_forgotten(
    world: World, served: list[str], file: Path, prices: None
) -> None:
    file.write_text("a blue cup", "utf-8")
    world.server.answer = lambda call: world.server.text("chat", "nonsense", model="writer")
    lens(*served, code=1)
    (first,) = table(Path("out"))
    shutil.rmtree("out/runs")
    lens(*served, code=1)
    (second,) = table(Path("out"))
    assert second["usd"] == pytest.approx(2 * first["usd"])


def test_two_batches_do_not_draw_in_one_folder(world: World, served: list[str]) -> None:
    said: list[str] = []

    def second(number: int) -> None:
        if number == 2:
            command = [sys.executable, "-m", "lens_sdk", "batch", *served]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said.append(f"{done.returncode} {done.stderr}")

    world.at = second
    lens(*served)
    assert said[0].startswith("1 Error: Another batch is being drawn in out.")


def test_an_interrupted_batch_finishes_its_calls_and_asks_for_nothing_again(
    world: World, served: list[str]
) -> None:
    interrupted = threading.Event()

    def interrupt(number: int) -> None:
        if number == CALLS + 2:
            signal.raise_signal(signal.SIGINT)
            interrupted.set()
            time.sleep(0.2)

    world.at = interrupt
    before = signal.getsignal(signal.SIGINT)
    _, stderr = lens(*served, "--concurrency", "2", code=130)
    assert interrupted.is_set()
    assert signal.getsignal(signal.SIGINT) == before
    assert "Run the same command to resume." in stderr
    assert len(table(Path("out"))) < 3
    known = len(world.server.calls)
    assert known < CALLS * len(REQUESTS)
    lens(*served)
    assert set(world.asked.values()) == {1}
    assert len(world.server.calls) == CALLS * len(REQUESTS)


def test_money_and_time_hold_for_the_whole_batch(
    world: World, file: Path, nano_folder: Path, prices: None
) -> None:
    arguments = (
        *(str(file), "--out", "out", "--model", str(nano_folder), "--steps", "1"),
        *("--size", "32x32", "--rounds", "1", "--n", "1", "--concurrency", "1"),
        *("--reasoner", "openai:writer", "--judge", "openai:judge"),
    )
    # A call reads 11 tokens: the limit is met within the second request.
    _, stderr = lens(*arguments, "--max-cost", "60", code=1)
    assert "1 done · 2 left · mean score 1.00 · $66.0000 The cost limit is reached." in stderr
    assert len(world.server.calls) == 6
    lens(*arguments, "--max-cost", "60", code=1)
    assert len(world.server.calls) == 6
    told = json.loads(lens(*arguments, "--max-cost", "200", "--json")[0])
    assert (told["usd"], told["left"]) == (pytest.approx(132), 0)
    assert len(world.server.calls) == 12
    _, stderr = lens(*arguments[:2], "late", *arguments[3:], "--deadline", "0.0001", code=1)
    assert "3 left" in stderr
    assert "The deadline has passed." in stderr
    assert len(world.server.calls) == 12
