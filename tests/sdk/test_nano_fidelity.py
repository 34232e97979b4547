"""What captions say about requests, where that is known."""

import pytest

from lens_core.nano.evaluation import nano_eval_prompts
from lens_reasoner import STRUCTURE, FidelityChecker, FidelityReport, ImageRequest
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoRubricWriter

REQUEST = "two red apples left of a blue cup"
GOOD = (
    "On a plain mint background are two small red apples and a large blue cup. The apples are on "
    "the left and in the upper left. The cup is in the middle right."
)
ALL = {
    "object:apple": "stated",
    "count:apple": "stated",
    "count:cup": "stated",
    "color:red apple": "stated",
    "color:blue cup": "stated",
    "position:apple left of cup": "stated",
}


async def _report(text: str, prompt: str) -> FidelityReport:
    request = ImageRequest(text=text)
    rubric = await NanoRubricWriter().write(request)
    return await NanoFidelityChecker().check(request, prompt, rubric)


async def _status(text: str, prompt: str) -> dict[str, str]:
    return {f.criterion: f.status for f in (await _report(text, prompt)).findings}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("", "", {}),
        ("two small red apples", "three small red apples", {"count:apple": "contradicted"}),
        ("red apples", "apples", {"color:red apple": "missing"}),
        ("blue cup", "green cup", {"color:blue cup": "contradicted"}),
        ("in the middle right", "on the left", {"position:apple left of cup": "contradicted"}),
        (" The cup is in the middle right.", "", {"position:apple left of cup": "missing"}),
        (
            "The cup is in the middle right.",
            "The cup is right of the apples.",
            {},
        ),
        (
            "The cup is in the middle right.",
            "The apples are above the cup.",
            {"position:apple left of cup": "contradicted"},
        ),
        (
            GOOD,
            "A blue cup is in the middle right.",
            {
                "object:apple": "missing",
                "count:apple": "missing",
                "color:red apple": "missing",
                "position:apple left of cup": "missing",
            },
        ),
    ],
)
async def test_what_a_caption_says(before: str, after: str, changed: dict[str, str]) -> None:
    assert before in GOOD
    assert await _status(REQUEST, GOOD.replace(before, after)) == {**ALL, **changed}


async def test_backgrounds() -> None:
    text = "a red apple on a mint background"
    assert (await _status(text, "A red apple. The background is plain mint."))[
        "background"
    ] == "stated"
    assert (await _status(text, "A red apple. The background is plain sage."))[
        "background"
    ] == "contradicted"
    assert (await _status(text, "A red apple."))["background"] == "missing"


async def test_true_captions_state_everything() -> None:
    for item in nano_eval_prompts(seed=3, per_task=8):
        report = await _report(item["prompt"], item["dense"])
        assert report.findings
        assert report.lost == (), (item["prompt"], item["dense"])


async def test_the_users_own_words_state_all_they_ask_for() -> None:
    for text in (REQUEST, "a red apple and a green apple", "a wooden apple"):
        report = await _report(text, text)
        rubric = await NanoRubricWriter().write(ImageRequest(text=text))
        assert {f.criterion: f.status for f in report.findings} == dict.fromkeys(
            (criterion.name for criterion in rubric.criteria), "stated"
        )


async def test_what_the_reader_cannot_tell_is_left_out() -> None:
    request = ImageRequest(text="a red apple and a green apple")
    rubric = await NanoRubricWriter().write(request)
    both = await NanoFidelityChecker().check(request, "Two apples, red and green.", rubric)
    assert both.findings == ()
    request = ImageRequest(text="a wooden apple")
    rubric = await NanoRubricWriter().write(request)
    rubric = rubric.model_copy(update={"criteria": (*rubric.criteria, STRUCTURE)})
    report = await NanoFidelityChecker().check(request, "An apple.", rubric)
    assert {f.criterion for f in report.findings} == {"count:apple"}
    assert isinstance(NanoFidelityChecker(), FidelityChecker)
