"""Whether a prompt still says what was asked for: by words, and by a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_reasoner import (
    STRUCTURE,
    ChatError,
    Criterion,
    FidelityChecker,
    ImageRequest,
    LexicalFidelity,
    LLMFidelity,
    Rubric,
    Usage,
    run_sync,
)
from lens_reasoner.fidelity.reading import read, stem
from scripted_chat import SPENT, ScriptedChat, failure

SCENE = (
    "Two glossy red apples lie on a pale wooden table, to the left of a blue cup. There are no "
    'people or dogs in the room, but a cat sleeps there. A sign reads "OPEN 24".'
)


def _status(source, kind, prompt=SCENE, *, request=None, **expected):
    criterion = Criterion(
        name="c", kind=kind, question="Is it so?", source=source, expected=expected
    )
    text = request or source or "x"
    report = run_sync(
        LexicalFidelity().check(
            ImageRequest(text=text), prompt, Rubric(request=text, criteria=(criterion,))
        )
    )
    return report.status("c")


@pytest.mark.parametrize(
    ("source", "kind", "status"),
    [
        ("two red apples", "count", "stated"),
        ("2 apples", "count", "stated"),
        ("a pair of apples", "count", "stated"),
        ("three red apples", "count", "contradicted"),
        ("one cup", "count", "stated"),
        ("two cups", "count", "missing"),
        ("three bananas", "count", "missing"),
        ("two red apples", "color", "stated"),
        ("a crimson apple", "color", "stated"),
        ("the apples are red", "color", "stated"),
        ("two green apples", "color", "contradicted"),
        ("a green pear", "color", "missing"),
        ("two green apples", "object", "stated"),
        ("a banana", "object", "missing"),
        ("a dog", "object", "contradicted"),
        ("a cat", "object", "stated"),
        ("no people", "other", "stated"),
        ("without people or dogs", "other", "stated"),
        ("no apples", "other", "contradicted"),
        ("no birds", "other", "missing"),
        ("apples left of a cup", "position", "stated"),
        ("a cup to the right of the apples", "position", "stated"),
        ("a cup above a table", "position", "missing"),
        ("a wooden table", "attribute", "stated"),
        ("a marble table", "attribute", "missing"),
        ("a sleeping cat", "relation", "stated"),
        ('a sign that says "OPEN 24"', "text", "stated"),
        ('a sign that says "open 24"', "text", "missing"),
        ("", "object", None),
        ("the", "object", None),
        ("a whole cat", "structure", None),
    ],
)
def test_words_of_the_request_are_looked_up(source, kind, status) -> None:
    assert _status(source, kind) == status


@pytest.mark.parametrize(
    ("source", "kind", "prompt", "status"),
    [
        ("three cats", "count", "Three cats: one cat is black, two cats are white.", "stated"),
        ("two cats", "count", "A cat sits beside another cat.", "stated"),
        ("a red cup", "color", "A blue cup stands on a red table.", "contradicted"),
        ("a black cat", "color", "The cat sleeps. Its fur is black.", "stated"),
        ("a grey wolf", "color", "A silver wolf howls.", "stated"),
        ("children", "object", "A child plays in the sand.", "stated"),
        ("12 candles", "count", "A dozen candles burn on a cake.", "stated"),
        ("an orange", "object", "Peeled fruit.", None),
        ("no hat", "other", "A man without a hat, and a dog.", "stated"),
        ("a dog", "object", "A man without a hat, and a dog.", "stated"),
        ("a dog", "object", "A man with no hat and a dog.", "stated"),
    ],
)
def test_prompts_in_many_wordings(source, kind, prompt, status) -> None:
    assert _status(source, kind, prompt) == status


@pytest.mark.parametrize(
    ("source", "prompt", "status"),
    [
        ("ein roter Apfel auf dem Tisch", "Ein roter Apfel liegt auf dem alten Tische.", "stated"),
        ("eine Katze mit einem Hut", "Eine kleine graue Katze mit grünen Augen.", "missing"),
        ("eine Katze ohne Hut", "Eine graue Katze sitzt da, ohne einen Hut.", "stated"),
        ("два красных яблока", "На столе лежат два красных яблока.", "stated"),
        ("два красных яблока", "На столе лежит груша.", "missing"),
        ("两个红苹果", "桌上有两个鲜红的苹果。", "stated"),
        ("2个红苹果", "桌上有两个鲜红的苹果。", "stated"),
        ("三个红苹果", "桌上有两个鲜红的苹果。", "missing"),
    ],
)
def test_other_languages_are_looked_up_by_their_words(source, prompt, status) -> None:
    assert _status(source, "other", prompt) == status


def test_data_of_a_criterion_count_as_its_words() -> None:
    assert _status("", "count", **{"class": "apple", "count": 2}) == "stated"
    assert _status("", "count", **{"class": "apple", "count": 3}) == "contradicted"
    assert _status("", "color", **{"class": "cup", "color": "blue"}) == "stated"
    assert _status("", "text", text="OPEN 24") == "stated"
    assert _status("", "text", text="CLOSED") == "missing"


def test_evidence_is_the_sentence_that_decides() -> None:
    request = ImageRequest(text="three apples, a dog and a bear")
    kinds = {"three apples": "count", "a dog": "object", "a bear": "object"}
    rubric = Rubric(
        request=request.text,
        criteria=(
            *(
                Criterion(name=source, kind=kind, question="Is it so?", source=source)
                for source, kind in kinds.items()
            ),
            STRUCTURE,
        ),
    )
    checker = LexicalFidelity()
    assert isinstance(checker, FidelityChecker)
    report = run_sync(checker.check(request, SCENE, rubric))
    assert [finding.evidence for finding in report.findings] == [
        SCENE.split(". ")[0] + ".",
        SCENE.split(". ")[1] + ".",
        "",
    ]
    assert [f.criterion for f in report.lost] == list(kinds)
    assert report.usage == Usage.zero()
    assert report.prompt == SCENE
    assert checker.fingerprint == LexicalFidelity().fingerprint


@given(st.text(), st.text(), st.sampled_from(["count", "color", "object", "position", "text"]))
def test_any_words_can_be_looked_up_anywhere(source, prompt, kind) -> None:
    assert _status(source, kind, prompt, request="x") in {None, "stated", "missing", "contradicted"}


@given(st.text())
def test_sentences_and_words_belong_together(text) -> None:
    reading = read(text)
    assert all(word.sentence < len(reading.sentences) for word in reading.words)
    for word in reading.words:
        # What is in a text is found in it, unless the text denies it somewhere.
        if word.content and not any(other.negated for other in reading.words):
            assert _status(text, "other", text) != "contradicted"
            break


@pytest.mark.parametrize(
    ("forms"),
    [
        "apple apples",
        "box boxes",
        "berry berries",
        "glass glasses",
        "bus bus",
        "sit sits sitting",
        "smile smiling smiled smiles",
        "knife knives",
        "torch torches",
    ],
)
def test_forms_of_a_word_have_one_stem(forms) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


RUBRIC = Rubric(
    request="two cups and a dog",
    criteria=(
        Criterion(name="cups", kind="count", question="Two cups?", source="two cups"),
        Criterion(name="dog", kind="object", question="A dog?", source="a dog"),
        Criterion(name="calm", kind="other", question="Is it calm?"),
        STRUCTURE,
    ),
)
REQUEST = ImageRequest(text=RUBRIC.request)
PROMPT = "Two white cups on a shelf."


async def test_a_model_is_asked_about_all_criteria_at_once() -> None:
    found = [
        {"id": 2, "evidence": "a dog", "status": "missing"},
        {"id": 1, "evidence": "two  WHITE cups", "status": "stated"},
        {"id": 3, "evidence": "a quiet mood", "status": "stated"},
    ]
    chat = ScriptedChat(lambda _: {"findings": found})
    report = await LLMFidelity(chat).check(REQUEST, PROMPT, RUBRIC)
    assert [(f.criterion, f.status, f.evidence) for f in report.findings] == [
        ("cups", "stated", "two  WHITE cups"),
        ("dog", "missing", ""),
        ("calm", "stated", ""),  # words that are not in the prompt are no evidence
    ]
    assert (report.checker, report.usage) == ("scripted", SPENT)
    (call,) = chat.calls
    assert call.data["prompt"] == PROMPT
    assert [c["question"] for c in call.data["criteria"]] == ["Two cups?", "A dog?", "Is it calm?"]
    properties = call.schema.model_json_schema()["$defs"]["_Item"]["properties"]
    assert list(properties) == ["id", "evidence", "status"]


async def test_findings_missing_or_contradictory_are_left_out() -> None:
    found = [
        {"id": 1, "evidence": "", "status": "stated"},
        {"id": 1, "evidence": "", "status": "missing"},
        {"id": 2, "evidence": "", "status": "missing"},
        {"id": 9, "evidence": "", "status": "missing"},
    ]
    report = await LLMFidelity(ScriptedChat(lambda _: {"findings": found})).check(
        REQUEST, PROMPT, RUBRIC
    )
    assert [f.criterion for f in report.findings] == ["dog"]


@pytest.mark.parametrize("answer", [{"findings": []}, failure("html")])
async def test_no_finding_at_all_is_an_error_with_its_cost(answer) -> None:
    with pytest.raises(ChatError) as caught:
        await LLMFidelity(ScriptedChat(lambda _: answer)).check(REQUEST, PROMPT, RUBRIC)
    assert caught.value.usage == SPENT


async def test_nothing_to_look_up_costs_nothing() -> None:
    chat = ScriptedChat(lambda _: failure())
    only = Rubric(request="x", criteria=(STRUCTURE,))
    report = await LLMFidelity(chat).check(REQUEST, PROMPT, only)
    assert (report.findings, report.usage, chat.calls) == ((), Usage.zero(), [])
