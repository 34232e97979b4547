"""`lens batch`: a file of requests drawn and told in a table, with what failed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from batch_world import REQUESTS, World, lens, table
from lens_sdk import read_record

# Drawn offline.


def test_a_file_is_drawn_and_only_what_is_new_is_drawn_again(
    file: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("--model", str(nano_folder), "--seed", "1", "--steps", "1", "--size", "32x32")
    arguments = (str(file), "--out", "out", *how, "--rounds", "1")
    stdout, stderr = lens(*arguments)
    assert stdout == "out/results.jsonl\n"
    assert "3/3" in stderr
    assert "3 done · mean score" in stderr
    rows = table(Path("out"))
    assert [row["request"] for row in rows] == REQUESTS
    for row in rows:
        assert (row["error"], row["pictures"], row["usd"]) == (None, 2, 0)
        assert row["seed"] in {1, 2}
        record = read_record(Path("out", row["path"]))
        assert (record["request"]["text"], record["score"]) == (row["request"], row["score"])
        assert Path(row["path"]).stem == row["id"]
    events = {path: path.read_bytes() for path in Path("out/runs").glob("*/events.jsonl")}
    assert len(events) == 3

    # Nothing is left: the model is not even loaded.
    with monkeypatch.context() as patched:
        patched.setattr("lens_sdk.runtime.LensRuntime.load", None)
        told = json.loads(lens(*arguments, "--json")[0])
    seen_from_here = [{**row, "path": f"out/{row['path']}"} for row in rows]
    assert (told["left"], told["usd"], told["requests"]) == (0, 0, seen_from_here)

    file.write_text("\n".join(["four cars", REQUESTS[2], REQUESTS[0]]), "utf-8")
    lens(*arguments)
    assert [row["request"] for row in table(Path("out"))] == [
        *("four cars", REQUESTS[2], REQUESTS[0])
    ]
    assert all(path.read_bytes() == before for path, before in events.items())
    # Its picture was moved away: that is written again from the record.
    Path("out", rows[0]["path"]).unlink()
    lens(*arguments)
    assert Path("out", rows[0]["path"]).is_file()
    assert all(path.read_bytes() == before for path, before in events.items())

    _, stderr = lens(*arguments, "--rounds", "2", code=1)
    assert "limits.max_rounds was 1 and is now 2" in stderr


@pytest.mark.parametrize(
    ("line", "options", "code", "said"),
    [
        ("a cup", ("--size", "30x30"), 1, "line 1: size='30x30'"),
        (" ", (), 1, "no requests"),
        ("a cup", ("--model", "openai"), 1, "OPENAI_API_KEY"),
        ("a cup", ("--steps", "0"), 2, "--steps"),
        ("a cup", ("--max-cost", "0"), 2, "--max-cost"),
        ("a cup", ("--reasoner", "clever"), 1, "openai:MODEL"),
    ],
)
def test_nothing_is_loaded_or_written_for_what_makes_no_sense(
    file: Path, nano_folder: Path, line: str, options: tuple[str, ...], code: int, said: str
) -> None:
    file.write_text(line, "utf-8")
    given = ("--model", str(nano_folder), *options)
    _, stderr = lens(str(file), "--out", "out", *given, code=code)
    assert said in stderr
    assert not Path("out").exists()


# Drawn over the wire.


def test_what_fails_is_told_and_keeps_nothing_else_from_being_drawn(
    world: World, served: list[str], file: Path
) -> None:
    file.write_text("\n".join(["a bomb", "two red apples", "some poison"]), "utf-8")
    _, stderr = lens(*served, code=3)
    assert "1 done · 2 failed · mean score 1.00 · cost unknown" in stderr
    bomb, apples, poison = table(Path("out"))
    assert (bomb["error_kind"], bomb["path"], bomb["score"]) == ("refused", None, None)
    assert "safety system" in bomb["error"]
    assert (apples["error"], apples["score"], apples["seed"]) == (None, 1.0, 1)
    assert (poison["error_kind"], poison["stop_reason"]) == ("refused", "refused")
    assert poison["error"] == "Refused (illegal): No."

    before = len(world.server.calls)
    lens(*served, code=3)
    # The picture that was refused is asked for again; its prompt is known, and so are the others.
    again = world.server.calls[before:]
    assert [call.body["prompt"] for call in again if "prompt" in call.body] == ["a bomb"]
    assert not [call for call in again if b"decision" in call.raw or b"apples" in call.raw]

    world.down = {"verdicts": 401}
    file.write_text("a blue cup\na bomb", "utf-8")
    lens(*served, code=1)
    cup = table(Path("out"))[0]
    assert (cup["score"], cup["error_kind"], cup["stop_reason"]) == (None, "judge", "unjudged")
    assert Path("out", cup["path"]).is_file()
    world.down = {}
    pictures = [call for call in world.server.calls if b"a blue cup" in call.raw]
    lens(*served, code=3)
    again = table(Path("out"))[0]
    assert (again["score"], again["error"]) == (1.0, None)
    assert (again["path"], again["seed"]) == (cup["path"], cup["seed"])
    more = [call for call in world.server.calls if b"a blue cup" in call.raw][len(pictures) :]
    assert not [call for call in more if "prompt" in call.body]


def test_a_provider_that_is_away_is_asked_again_by_the_same_command(
    world: World, served: list[str]
) -> None:
    world.server.pages["/v1/images/generations"] = world.server.error(
        503, "busy", retry_after_ms="5"
    )
    _, stderr = lens(*served, code=5)
    assert "3 failed" in stderr
    assert {row["error_kind"] for row in table(Path("out"))} == {"server"}
    del world.server.pages["/v1/images/generations"]
    rewrites = Counter(text for text in world.asked.elements() if "decision" in text)
    lens(*served)
    assert Counter(text for text in world.asked.elements() if "decision" in text) == rewrites
    assert all(row["score"] == 1 for row in table(Path("out")))


@pytest.mark.parametrize("status", [429, 503])
def test_a_judge_that_is_away_is_asked_again_by_the_same_command(
    world: World, served: list[str], status: int
) -> None:
    world.down = {"verdicts": status}
    _, stderr = lens(*served, code=5)
    assert "3 failed" in stderr
    assert {row["error_kind"] for row in table(Path("out"))} == {"judge"}
    asked = len(world.server.calls)
    world.down = {}
    lens(*served)
    assert all(row["score"] == 1 for row in table(Path("out")))
    again = [call.path for call in world.server.calls[asked:]]
    assert not [path for path in again if path.endswith("/images/generations")]


def test_who_is_turned_away_by_a_busy_provider_costs_nothing(
    world: World, served: list[str], file: Path
) -> None:
    """The first one's cost was unknown, which ended a batch with a limit."""
    world.server.pages["/v1/chat/completions"] = world.server.error(429, "busy", retry_after_ms="5")
    _, stderr = lens(*served, "--max-cost", "5", "--concurrency", "1", code=5)
    assert "0 done · 3 failed" in stderr
    assert "unknown" not in stderr
    assert {row["usd"] for row in table(Path("out"))} == {0}
