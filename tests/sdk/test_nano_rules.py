"""The rule-following reasoner: it does what its prompt says and nothing else."""

import pytest

from lens_core.nano.evaluation import nano_eval_prompts
from lens_prompt_opt.edits import apply_edits, prompt_id
from lens_prompt_opt.failures import FailureReport
from lens_prompt_opt.library_proposer import LibraryProposer
from lens_prompt_opt.proposer import ProposalBrief
from lens_reasoner import ImageRequest, PromptSection, SystemPrompt
from lens_sdk.nano_caption import read_caption
from lens_sdk.nano_faithful import Faithfulness
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoRubricWriter
from lens_sdk.nano_proposals import NANO_LIBRARY, POOR_PROMPT
from lens_sdk.nano_rule_reasoner import NanoRuleReasoner
from lens_sdk.nano_rules import read_rules

GOOD = (
    "Give the number of all objects. Give every object a colour. Give the size of all objects. "
    "Say where each object is and how they lie to each other. Name a plain background."
)


def prompt_of(*sentences: str) -> SystemPrompt:
    section = PromptSection(name="Rules", text=" ".join(sentences))
    return SystemPrompt(name="rules", version="1", sections=(section,))


async def written(prompt: SystemPrompt, text: str, seed: int = 0) -> str:
    rewrite = await NanoRuleReasoner(prompt).rewrite(ImageRequest(text=text, seed=seed))
    return rewrite.prompt


@pytest.mark.parametrize(
    ("sentence", "topics"),
    [
        ("State how many of each there are.", {"count"}),
        ("Repeat the colours asked for.", {"color"}),
        ("Give every object a colour.", {"color", "every color"}),
        ("Name the background colour.", {"background"}),
        ("Never mention colours.", set()),
        ("Write in plain English.", set()),
        ("Give the size of all objects, but do not invent further objects.", set()),
    ],
)
def test_a_sentence_asks_for_its_topics_or_forbids_them(sentence: str, topics: set[str]) -> None:
    assert read_rules(prompt_of(sentence)).topics == topics


def test_a_later_sentence_overrides_an_earlier_one() -> None:
    assert "count" not in read_rules(prompt_of("Give the number.", "Leave out the number."))
    assert "count" in read_rules(prompt_of("No need to count.", "Give the number."))


async def test_under_good_rules_everything_asked_for_is_said_and_nothing_against_it() -> None:
    for item in nano_eval_prompts(11, 8):
        caption = await written(prompt_of(GOOD), item["prompt"], seed=3)
        assert Faithfulness(item["prompt"]).fault(caption) == "", (item["prompt"], caption)


async def test_what_the_poor_prompt_leaves_out_is_found_to_be_missing() -> None:
    request = ImageRequest(text="three red cars left of a blue cup", seed=1)
    rubric = await NanoRubricWriter().write(request)
    said = {}
    for prompt in (POOR_PROMPT, prompt_of(GOOD)):
        rewrite = await NanoRuleReasoner(prompt).rewrite(request)
        report = await NanoFidelityChecker().check(request, rewrite.prompt, rubric)
        said[prompt.name] = {finding.criterion: finding.status for finding in report.findings}
    assert said["nano"]["color:red car"] == "missing"
    assert said["nano"]["count:car"] != "stated"
    assert said["nano"]["position:car left of cup"] == "missing"
    assert set(said["rules"].values()) == {"stated"}


async def test_a_rule_changes_what_it_is_about_and_nothing_else() -> None:
    text = "two apples above a cup"
    without = await written(prompt_of(GOOD), text, seed=9)
    longer = await written(prompt_of(GOOD, "Say that nothing else is there."), text, seed=9)
    assert longer == f"{without} Nothing else is in the picture."
    plain = read_caption(await written(prompt_of(GOOD, "Do not mention colours."), text, seed=9))
    before = read_caption(without)
    assert plain.groups["apple"].color == ""
    assert plain.groups["apple"].regions == before.groups["apple"].regions


async def test_the_same_seed_gives_the_same_caption_and_others_differ() -> None:
    captions = [await written(prompt_of(GOOD), "a cup", seed=seed) for seed in (1, 1, 2, 3)]
    assert captions[0] == captions[1]
    assert len(set(captions)) > 1


async def test_requests_about_other_things_stay_as_they_are() -> None:
    assert await written(POOR_PROMPT, "a dragon over the sea") == "a dragon over the sea"


async def test_every_entry_of_the_library_makes_another_prompt_and_mood_can_be_removed() -> None:
    brief = ProposalBrief(
        prompt=POOR_PROMPT,
        failures=FailureReport(modes=(), checked=0, by_fault={}),
        wanted=len(NANO_LIBRARY),
    )
    proposals = await LibraryProposer(NANO_LIBRARY).propose(brief, {})
    made = [apply_edits(POOR_PROMPT, edits) for edits in proposals.edits]
    assert len({prompt_id(prompt) for prompt in made}) == len(NANO_LIBRARY)
    [mended] = [p for p in made if "Mood" not in {s.name for s in p.sections}]
    assert read_rules(mended).topics == {"brief"}


def test_a_cache_tells_the_prompts_it_follows_apart() -> None:
    marks = {NanoRuleReasoner(prompt_of(text)).fingerprint for text in (GOOD, "Be brief.")}
    assert len(marks) == 2
