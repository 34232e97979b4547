"""Replies and headers of any kind: read right, or refused with one typed error."""

import datetime
import email.utils
import json
import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from lens_reasoner.openai_errors import retry_after
from lens_reasoner.openai_wire import read_chat, read_responses
from lens_reasoner.structured import OffSchema, read_json


class Item(BaseModel):
    name: str
    count: int


class Items(BaseModel):
    items: list[Item]


_items = st.builds(
    Items, items=st.lists(st.builds(Item, name=st.text(), count=st.integers(-(2**40), 2**40)))
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
_chatter = st.text(st.characters(blacklist_characters="{}`", blacklist_categories=["Cs"]))


@given(_items, _chatter, _chatter, st.sampled_from(["plain", "fenced", "words"]))
def test_a_value_is_found_again_however_it_is_wrapped(value, before, after, wrapping) -> None:
    text = value.model_dump_json()
    if wrapping == "fenced":
        text = f"{before}\n```json\n{text}\n```\n{after}" if "```" not in text else text
    elif wrapping == "words":
        text = f"{before}{text}{after}"
    assert read_json(text, Items) == value


@given(st.text() | _json.map(json.dumps))
@example("{}")
@example('{"items": [1]}')
def test_anything_else_is_one_error_that_says_what_is_wrong(text: str) -> None:
    if text == '{"items": []}':
        return
    with pytest.raises(OffSchema, match=r"^- "):
        read_json(text, Items)


@pytest.mark.parametrize("thought", ["One {item}?", '{"items": [1]}', "```json\n{}\n```", ""])
def test_thoughts_before_the_value_are_left_alone(thought: str) -> None:
    value = Items(items=[Item(name="a </b> c", count=2)])
    assert read_json(f"<think>{thought}</think>\n{value.model_dump_json()}", Items) == value


@pytest.mark.parametrize(
    "thought",
    [
        "So {ITEMS}, or\n```json\n{ITEMS}\n```\nNo.</think>",
        "<thinking>{ITEMS}</thinking>",
        "[THINK]{ITEMS}[/THINK]",
        "<|channel|>analysis<|message|>{ITEMS}<|end|><|start|>assistant<|channel|>final<|message|>",
    ],
)
def test_a_draft_within_the_thoughts_is_no_answer(thought: str) -> None:
    draft = Items(items=[Item(name="draft", count=0)]).model_dump_json()
    value = Items(items=[Item(name="</think>", count=1)])
    text = f"{thought.replace('{ITEMS}', draft)}\n{value.model_dump_json()}"
    assert read_json(text, Items) == value
    assert read_json(value.model_dump_json(), Items) == value


def test_problems_name_the_field_and_not_the_wrapping() -> None:
    with pytest.raises(OffSchema, match=r"^- items\.0\.count: Input should be a valid integer"):
        read_json('Here you are:\n```json\n{"items": [{"name": "a", "count": "b"}]}\n```', Items)


@pytest.mark.parametrize("read", [read_chat, read_responses])
@given(data=_json)
def test_any_json_is_a_reply_or_a_value_error(read, data) -> None:
    try:
        reply = read(data)
    except (ValueError, AttributeError):
        return
    assert isinstance(reply.text, str)


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_header_is_a_wait_or_none(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after({name: value})
        assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.floats(0, 1e6))
def test_seconds_and_milliseconds(seconds: float) -> None:
    assert retry_after({"retry-after": repr(seconds)}) == seconds
    wait = retry_after({"retry-after-ms": repr(seconds * 1000), "retry-after": "1"})
    assert wait == pytest.approx(seconds)


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1)))
def test_dates_are_read_as_the_time_until_then(date: datetime.datetime) -> None:
    moment = date.replace(tzinfo=datetime.UTC, microsecond=0)
    header = email.utils.format_datetime(moment, usegmt=True)
    expected = max(0.0, moment.timestamp() - time.time())
    assert retry_after({"retry-after": header}) == pytest.approx(expected, abs=5)
