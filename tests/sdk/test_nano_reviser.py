"""The offline reviser: another faithful draft, or the facts that were not met."""

import pytest

from lens_reasoner import ImageRequest, JudgeError, Problem, Reviser, Rewrite, Usage
from lens_sdk.drafting import Draft
from lens_sdk.nano_faithful import Faithfulness
from lens_sdk.nano_reviser import NanoReviser
from lens_sdk.runtime import LensRuntime

REQUEST = ImageRequest(text="two red apples left of a blue cup")
DRAFTS = (
    "On a plain mint background are two small red apples and a large blue cup. The apples are on "
    "the left and in the upper left. The cup is in the lower right.",
    "On a plain sage background are two small red apples and a large blue cup. The apples are in "
    "the upper left and in the lower left. The cup is in the middle right.",
)


def _problems(*names: str) -> list[Problem]:
    return [Problem(criterion=name, question="?", fault="generator") for name in names]


def _rewrite(prompt: str, request: ImageRequest = REQUEST) -> Rewrite:
    return Rewrite(request=request.text, prompt=prompt, model="m", usage=Usage.zero())


@pytest.fixture
def drafts_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose drafts are faithful and follow from their seed."""

    def write(*_: object, seed: int, **__: object) -> Draft:
        return Draft(DRAFTS[seed % 2], complete=True, tokens_read=10, tokens_written=20)

    monkeypatch.setattr("lens_sdk.nano_reasoner.write_draft", write)


@pytest.mark.usefixtures("drafts_by_seed")
async def test_another_draft_is_taken_and_follows_from_the_prompt(
    nano_runtime: LensRuntime,
) -> None:
    reviser = NanoReviser(nano_runtime)
    assert isinstance(reviser, Reviser)
    found = set()
    for number in range(6):
        current = _rewrite(f"prompt {number}")
        revised = await reviser.revise(REQUEST, current, _problems("count:apple"))
        again = await NanoReviser(nano_runtime).revise(REQUEST, current, _problems("count:apple"))
        assert revised.prompt == again.prompt
        assert Faithfulness(REQUEST.text).fault(revised.prompt) == ""
        assert revised.usage.output_tokens == 20
        found.add(revised.prompt)
    assert found == set(DRAFTS)


async def test_where_no_draft_is_faithful_the_facts_are_added(nano_runtime: LensRuntime) -> None:
    # A random encoder writes nothing of use.
    current = _rewrite(REQUEST.text)
    names = ("count:apple", "position:apple left of cup")
    revised = await NanoReviser(nano_runtime).revise(REQUEST, current, _problems(*names))
    assert revised.prompt == (
        "two red apples left of a blue cup The picture shows two red apples. "
        "The red apples are left of the blue cup."
    )
    assert revised.usage.usd == 0
    with pytest.raises(JudgeError, match="nothing to add"):
        await NanoReviser(nano_runtime).revise(REQUEST, revised, _problems(*names))


async def test_detailed_requests_keep_their_words(nano_runtime: LensRuntime) -> None:
    text = (
        "The background is azure in the top half and sage in the bottom half. A large white house "
        "is in the centre, with a small red car in the lower left and a tree in the lower right."
    )
    request = ImageRequest(text=text)
    revised = await NanoReviser(nano_runtime).revise(
        request, _rewrite(text, request), _problems("background", "count:tree", "color:red car")
    )
    assert revised.prompt == (
        f"{text} The picture shows one red car. The picture shows one tree. The top half of the "
        "background is azure and the bottom half is sage."
    )
