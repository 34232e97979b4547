"""`lens batch`: a file of requests drawn, stopped, killed, gone on with, and told in a table."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_reasoner import Capabilities, ImageRequest
from lens_sdk import read_record
from lens_sdk.batch_requests import check_requests, read_requests
from lens_sdk.cli import app
from lens_sdk.errors import BatchFileError
from plain_generator import PlainGenerator
from reasoner.conftest import Call, LoopbackServer, Reply

REQUESTS = ["two red apples", "a blue cup", "three green trees"]


def lens(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["batch", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stdout, " ".join(result.stderr.split())


def table(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "requests.txt"
    path.write_text("\n\n".join(REQUESTS), encoding="utf-8")
    return path


# The file.


def test_a_text_file_has_a_request_per_line(file: Path) -> None:
    file.write_text("\ufeff two red apples \r\n\r\n{a sign: OPEN}\ntwo red apples\n日本\n", "utf-8")
    found = read_requests(file, {"seed": 3})
    assert [one.line for one in found] == [1, 3, 4, 5]
    assert found[0].request == ImageRequest(text="two red apples", seed=3)
    first, sign, second, other = (one.id for one in found)
    assert first.startswith("two-red-apples-")
    assert second == f"{first}-2"
    assert sign.startswith("a-sign-open-")
    assert other.startswith("picture-")
    # Names stay where lines come and go.
    file.write_text("日本\na new one\ntwo red apples", "utf-8")
    assert [one.id for one in read_requests(file)][::2] == [other, first]


def test_a_jsonl_file_has_texts_or_requests_with_fields_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    rubric = {"request": "b", "criteria": [{"name": "b", "kind": "object", "question": "b?"}]}
    lines = [
        "a",
        {"id": "B.1", "text": "b", "seed": 5, "width": 64, "height": 64, "rubric": rubric},
        {"id": 7, "text": "c", "seed": None, "aspect_ratio": "1:1", "group": "g"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    a, b, c = read_requests(path, {"seed": 3, "width": 32, "height": 32, "num_images": 2})
    assert a.request == ImageRequest(text="a", seed=3, width=32, height=32, num_images=2)
    assert (b.id, b.request.seed, b.request.width) == ("B.1", 5, 64)
    assert b.rubric is not None
    assert b.rubric.criteria[0].question == "b?"
    assert (c.id, c.request.seed, c.request.width) == ("7", None, None)


def test_all_lines_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    lines = [
        '"fine"',
        '{"text": "x", "steps": 3}',
        '{"text": " "}',
        '{"id": "A", "text": "x"}',
        '{"id": "a", "text": "y"}',
        '{"id": "../x", "text": "y"}',
        '{"id": "z"}',
        "[1]",
        '{"text"',
        '{"text": "x", "width": 64, "rubric": {}}',
    ]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(BatchFileError) as caught:
        read_requests(path)
    told = caught.value.message.splitlines()
    assert told[0] == f"8 lines of {path} cannot be used:"
    for line, what in zip(
        told[1:],
        [
            "line 2: steps: There is no such option. Did you mean num_inference_steps?",
            "line 3: text: the request text is empty",
            "line 5: the id 'a' is that of line 4 too",
            "line 6: the id '../x' names no file",
            "line 7: there is no text",
            "line 8: [1] is neither a string nor an object",
            "line 9: it is not JSON",
            "line 10: width 64 and height None",
        ],
        strict=True,
    ):
        assert line.startswith(what)
    many = tmp_path / "many.txt"
    many.write_text('{"text": "x"}\n' * 30, "utf-8")
    with pytest.raises(BatchFileError, match=r"line 20: it is JSON.*\nand 10 more "):
        read_requests(many)
    many.write_bytes(b"\xff\xfe")
    for wrong in (many, tmp_path / "missing.txt"):
        with pytest.raises(BatchFileError, match="cannot be read"):
            read_requests(wrong)
    many.write_text("\n \n")
    with pytest.raises(BatchFileError, match="no requests"):
        read_requests(many)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "日" * 100, "text": "x"}, "is longer than 200 bytes"),
        ({"id": "NUL", "text": "x"}, "names no file"),
        ({"id": "aux.txt", "text": "x"}, "names no file"),
        ({"id": "a.", "text": "x"}, "names no file"),
        ({"id": "STRASSE", "text": "x"}, "is that of line 1 too"),
        # The letters of one syllable.
        ({"id": "\u1100\u1161", "text": "x"}, "is that of line 2 too"),
        ({"text": "x", "extra": {"a": "\ud800"}}, "surrogate"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
def test_lines_that_would_end_a_batch_in_the_middle_are_refused(
    tmp_path: Path, line: object, said: str
) -> None:
    path = tmp_path / "requests.jsonl"
    last = line if isinstance(line, str) else json.dumps(line)
    lines = ['{"id": "straße", "text": "x"}', '{"id": "\uac00", "text": "x"}', last]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(BatchFileError, match=rf"^1 line .*\nline 3: .*{said}"):
        read_requests(path)


def test_the_same_line_may_be_there_very_often(tmp_path: Path) -> None:
    """Ten thousand took 20 seconds, and twice as many four times that."""
    path = tmp_path / "requests.txt"
    path.write_text("a red apple\n" * 10_000, "utf-8")
    before = time.process_time()
    found = read_requests(path)
    assert time.process_time() - before < 5
    assert [one.id for one in found[1:]] == [f"{found[0].id}-{n}" for n in range(2, 10_001)]


def test_what_the_generator_cannot_honour_is_told_of_every_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    lines = [{"text": "a"}, {"text": "b", "seed": 1}, {"text": "c", "width": 60, "height": 60}]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    requests, generator = read_requests(path), PlainGenerator()
    with pytest.raises(BatchFileError, match=r"1 line .*:\nline 3: size='60x60'"):
        check_requests(path, requests, generator)
    generator.capabilities = Capabilities()
    with pytest.raises(BatchFileError, match=r"2 lines .*:\nline 2: seed=1 .*\nline 3: size"):
        check_requests(path, requests, generator)


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


class World:
    """Rewriter, judge and painter behind one address, told what to refuse and when to do what."""

    def __init__(self, server: LoopbackServer) -> None:
        self.server = server
        self.down: dict[str, int] = {}
        self.at: Callable[[int], object] = lambda number: None
        server.answer = self._answer

    @property
    def asked(self) -> Counter[str]:
        """How often each thing was asked for."""
        return Counter(call.raw.decode() for call in self.server.calls)

    def _answer(self, call: Call) -> Reply:
        self.at(len(self.server.calls))
        server = self.server
        if call.path.endswith("/images/generations"):
            if "bomb" in call.body["prompt"]:
                return server.error(400, "safety system", code="moderation_blocked")
            return server.raw(json.dumps({"created": 1, "data": [self._picture(call)]}).encode())
        schema = json.dumps(call.body["response_format"])
        role = next((one for one in ("verdicts", "findings", "criteria") if one in schema), "")
        if role in self.down:
            return server.error(self.down[role], "no", retry_after_ms="5")
        asked = call.body["messages"][1]["content"]
        data: dict[str, Any]
        if role == "verdicts":
            data = {"verdicts": [{"id": 1, "evidence": "there", "answer": "yes"}]}
        elif role == "findings":
            data = {"findings": [{"id": 1, "evidence": "there", "status": "stated"}]}
        elif role == "criteria":
            line = {"name": "all", "kind": "other", "question": "Is it all there?", "source": ""}
            data = {"criteria": [line]}
        else:
            text = json.loads(asked)["request"]
            data = {"decision": "rewrite", "prompt": text, "reason": "", "category": "none"}
            if "poison" in text:
                data = {"decision": "refuse", "prompt": "", "reason": "No.", "category": "illegal"}
        return server.text("chat", json.dumps(data), model=call.body["model"])

    def _picture(self, call: Call) -> dict[str, str]:
        buffer = io.BytesIO()
        colour = (len(call.body["prompt"]), call.body["seed"] % 256, 0)
        Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
        return {"b64_json": base64.b64encode(buffer.getvalue()).decode()}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = LoopbackServer()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    yield World(server)
    server.close()


@pytest.fixture
def served(world: World, file: Path) -> list[str]:
    """The command, with everything behind the address."""
    return [
        *(str(file), "--out", "out", "--model", f"vllm-omni:{world.server.url}#painter"),
        *("--reasoner", "openai:writer", "--judge", "openai:judge", "--seed", "1"),
        *("--rounds", "1", "--n", "1"),
    ]


CALLS = 5
"""Of each request: rewrite, criteria, check of the prompt, picture, verdict."""


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


def test_a_judge_that_is_away_is_asked_again_by_the_same_command(
    world: World, served: list[str]
) -> None:
    world.down = {"verdicts": 503}
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
    world: World, served: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply that is no rewrite is paid for and in no record."""
    price = {"input": 1e6, "cached_input": 1e6, "output": 0}
    prices = {"date": "2026-11-22", "prices": {"writer": price}}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    monkeypatch.setenv("LENS_PRICES", str(tmp_path / "prices.json"))
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
    assert "The money is spent." in stderr
    assert len(world.server.calls) == known


def test_a_cost_that_nobody_knows_ends_a_batch_with_a_limit(
    world: World, served: list[str]
) -> None:
    _, stderr = lens(*served, "--max-cost", "5", "--concurrency", "1", code=1)
    assert "3 left · cost unknown" in stderr
    assert "What some calls cost is not known" in stderr
    assert 0 < len(world.server.calls) < CALLS
    lens(*served)
    assert set(world.asked.values()) == {1}


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
    assert "Go on with the same command." in stderr
    assert len(table(Path("out"))) < 3
    known = len(world.server.calls)
    assert known < CALLS * len(REQUESTS)
    lens(*served)
    assert set(world.asked.values()) == {1}
    assert len(world.server.calls) == CALLS * len(REQUESTS)


def test_money_and_time_hold_for_the_whole_batch(
    world: World, file: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = {"input": 1e6, "cached_input": 1e6, "output": 0}
    prices = {"date": "2026-11-22", "prices": {"writer": price, "judge": price}}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    monkeypatch.setenv("LENS_PRICES", str(tmp_path / "prices.json"))
    arguments = (
        *(str(file), "--out", "out", "--model", str(nano_folder), "--steps", "1"),
        *("--size", "32x32", "--rounds", "1", "--n", "1", "--concurrency", "1"),
        *("--reasoner", "openai:writer", "--judge", "openai:judge"),
    )
    # A call reads 11 tokens: the limit is met within the second request.
    _, stderr = lens(*arguments, "--max-cost", "60", code=1)
    assert "1 done · 2 left · mean score 1.00 · $66.0000 The money is spent." in stderr
    assert len(world.server.calls) == 6
    lens(*arguments, "--max-cost", "60", code=1)
    assert len(world.server.calls) == 6
    told = json.loads(lens(*arguments, "--max-cost", "200", "--json")[0])
    assert (told["usd"], told["left"]) == (pytest.approx(132), 0)
    assert len(world.server.calls) == 12
    _, stderr = lens(*arguments[:2], "late", *arguments[3:], "--deadline", "0.0001", code=1)
    assert "3 left" in stderr
    assert "The time is over." in stderr
    assert len(world.server.calls) == 12
