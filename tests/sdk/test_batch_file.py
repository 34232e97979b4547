"""The file of `lens batch`: what its lines may say, and all that cannot be used told at once."""

import json
import time
from pathlib import Path

import pytest

from lens_reasoner import Capabilities, ImageRequest
from lens_sdk.batch_requests import check_requests, read_requests
from lens_sdk.errors import BatchFileError
from plain_generator import PlainGenerator


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
    many.write_bytes(b"\xff")
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
