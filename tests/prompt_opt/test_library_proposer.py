"""The proposer that needs no model: entries of a library, matched to what fails."""

import pytest

from lens_prompt_opt import (
    FailureMode,
    FailureReport,
    Hypothesis,
    ProposalBrief,
    SectionEdit,
    StudyConfigError,
)
from lens_prompt_opt.library_proposer import LibraryEntry, LibraryProposer
from lens_reasoner import PromptSection, SystemPrompt

ENTRIES = [
    LibraryEntry("Counting", "Count.", ("count",)),
    LibraryEntry("Counting", "Count twice.", ("count",)),
    LibraryEntry("Colours", "Name colours.", ("color",)),
    LibraryEntry("Style", "Be vivid."),
    LibraryEntry("Mood", ""),
]
PROMPT = SystemPrompt(
    name="p",
    version="1",
    sections=(
        PromptSection(name="Role", text="Rewrite."),
        PromptSection(name="Mood", text="Set a mood."),
    ),
)


def mode(kind: str, fault: str = "reasoner") -> FailureMode:
    return FailureMode.model_validate(
        {"name": f"{kind}: left out", "kinds": [kind], "fault": fault, "count": 3, "share": 0.1}
    )


def brief(**changes: object) -> ProposalBrief:
    modes = (mode("color"), mode("count", "generator"))
    report = FailureReport(modes=modes, checked=30, by_fault={"reasoner": 3, "generator": 3})
    return ProposalBrief.model_validate(
        {"prompt": PROMPT, "failures": report, "wanted": 9, **changes}
    )


def tried(text: str, status: str, section: str = "Counting") -> SectionEdit:
    return SectionEdit(
        section=section,
        kind="add",
        text=text,
        hypothesis=Hypothesis.model_validate({"status": status}),
    )


async def proposed(**changes: object) -> list[tuple[str, str, str]]:
    found = await LibraryProposer(ENTRIES).propose(brief(**changes), {})
    assert found.usage.usd == 0
    return [(edit.kind, edit.section, edit.text) for [edit] in found.edits]


async def test_entries_for_the_modes_come_first_and_say_what_they_aim_at() -> None:
    found = await LibraryProposer(ENTRIES).propose(brief(), {})
    edits = [edit for [edit] in found.edits]
    assert [edit.section for edit in edits[:3]] == ["Colours", "Counting", "Counting"]
    assert edits[0].hypothesis.failure_mode == "color: left out"
    assert edits[0].hypothesis.kinds == ("color",)
    assert {edit.section: edit.kind for edit in edits}["Mood"] == "remove"


async def test_what_is_there_refuted_or_tried_enough_is_left_out() -> None:
    there = PROMPT.with_section("Colours", "Name colours.", version="2")
    assert "Name colours." not in {text for _, _, text in await proposed(prompt=there)}
    refuted = await proposed(tried=(tried("Count.", "refuted"),))
    assert "Count." not in {text for _, _, text in refuted}
    once = await proposed(tried=(tried("Count.", "unclear"),))
    assert "Count." in {text for _, _, text in once}
    twice = await proposed(tried=(tried("Count.", "unclear"), tried("Count.", "unclear")))
    assert "Count." not in {text for _, _, text in twice}
    assert "Mood" not in {section for _, section, _ in await proposed(protected=("Mood",))}


async def test_no_more_than_wanted_and_the_same_for_the_same_seed() -> None:
    assert len(await proposed(wanted=2)) == 2
    assert await proposed(seed=4) == await proposed(seed=4)
    orders = {tuple(await proposed(seed=seed)) for seed in range(8)}
    assert len(orders) > 1


async def test_for_the_whole_prompt_each_section_comes_once() -> None:
    [edits] = (await LibraryProposer(ENTRIES).propose(brief(scope="whole"), {})).edits
    assert sorted(edit.section for edit in edits) == ["Colours", "Counting", "Mood", "Style"]


def test_an_empty_library_is_refused() -> None:
    with pytest.raises(StudyConfigError, match="empty"):
        LibraryProposer([])
