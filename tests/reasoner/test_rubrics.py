"""Writing rubrics, and rubrics as files."""

import json

import pytest

from lens_reasoner import (
    STRUCTURE,
    Criterion,
    ImageRequest,
    LLMRubricWriter,
    Rubric,
    RubricFileError,
    load_rubric,
    save_rubric,
)
from scripted_chat import ScriptedChat

REQUEST = ImageRequest(text='Two RED  apples under a sign "Obst & Gemüse"')


def _item(kind="object", question="Is it there?", source="", **more):
    return {"name": "n", "kind": kind, "question": question, "source": source, **more}


async def _written(*items):
    chat = ScriptedChat(lambda _: {"criteria": list(items)})
    rubric = await LLMRubricWriter(chat).write(REQUEST)
    assert rubric.criteria[-1] == STRUCTURE
    return rubric.criteria[:-1]


@pytest.mark.parametrize(
    ("copied", "source"),
    [
        ("two red apples", "Two RED apples"),
        ("apples", "apples"),
        ("three pears", REQUEST.text),
        ("", REQUEST.text),
        ("(", REQUEST.text),
    ],
)
async def test_sources_are_words_of_the_request(copied, source) -> None:
    (criterion,) = await _written(_item(source=copied))
    assert criterion.source == source


async def test_text_criteria_know_the_text() -> None:
    given, quoted, unknown, other = await _written(
        _item("text", text="Obst  & Gemüse"),
        _item("text", 'Does the sign read "Obst & Gemüse"?'),
        _item("text", 'Is "A" or "B" written?'),
        _item("object", 'Is there "x"?', text="x"),
    )
    assert given.expected == quoted.expected == {"text": "Obst & Gemüse"}
    assert unknown.expected == other.expected == {}


def test_fingerprints_tell_writers_apart() -> None:
    def writer(model="a", **how):
        return LLMRubricWriter(ScriptedChat(lambda _: {}, model=model), **how)

    assert writer().fingerprint == writer().fingerprint
    assert len({w.fingerprint for w in (writer(), writer("b"), writer(temperature=None))}) == 3


def test_rubrics_are_files_to_read_and_edit(tmp_path) -> None:
    rubric = Rubric(
        request="ein Café",
        criteria=(
            Criterion(name="sign", kind="text", question="Sign?", expected={"text": "CAFÉ"}),
            Criterion(name="cups", kind="count", question="Two?", weight=2.5, source="Café"),
        ),
        author="gpt",
    )
    path = save_rubric(rubric, tmp_path / "deep" / "rubric.json")
    assert load_rubric(path) == rubric
    text = path.read_text(encoding="utf-8")
    assert "CAFÉ" in text
    assert "seconds" not in text


def test_rubrics_are_written_by_hand(tmp_path) -> None:
    path = tmp_path / "mine.json"
    criteria = [{"name": "red", "kind": "color", "question": "Is the cup red?"}]
    path.write_text(json.dumps({"request": "a red cup", "criteria": criteria}))
    rubric = load_rubric(path)
    assert (rubric.author, rubric.usage.usd) == ("human", 0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "the file: Invalid JSON"),
        (b"\xff", "UTF-8"),
        (b'{"request": "x", "criteria": []}', "criteria"),
        (b'{"request": "x", "criteria": [{"name": "a", "kind": "colour"}]}', "criteria.0.kind"),
    ],
)
def test_files_that_are_no_rubrics_say_where(tmp_path, content, complaint) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(RubricFileError, match=complaint):
        load_rubric(tmp_path / "r.json")
