"""What goes into a study: requests and their splits, edits and what they may not touch."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lens_prompt_opt import Candidate, EditError, PromptSet, PromptSetError, SectionEdit
from lens_prompt_opt.cells import Cell, CellStream, Outcome, mean_score, paired_differences
from lens_prompt_opt.edits import apply_edits, crossover
from lens_prompt_opt.fingerprints import distance, fingerprint
from lens_prompt_opt.guards import (
    EXAMPLES_SECTION,
    GuardRules,
    OutcomeGuard,
    PromptGuard,
    seed_diversity,
)
from lens_reasoner import GeneratedImage, GenerationSettings, PromptSection, SystemPrompt


def _prompt(**sections: str) -> SystemPrompt:
    return SystemPrompt(
        name="test",
        version="1",
        sections=tuple(PromptSection(name=n, text=t) for n, t in sections.items()),
    )


BASE = _prompt(Task="Write prompts.", Count="Say the number.", Refusals="Refuse the unlawful.")


def test_requests_are_read_with_and_without_fields(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    lines = [
        '"a red cup"',
        '{"text": "two dogs", "id": "dogs", "group": "animals", "aspect_ratio": "3:4"}',
        "",
        '{"text": "A  Red cup"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    prompts = PromptSet.load(path)
    assert [request.id for request in prompts.requests] == ["r0001", "dogs"]
    assert prompts.requests[1].request.aspect_ratio == "3:4"
    assert prompts.duplicates == 1


def test_defaults_are_for_what_requests_leave_open(tmp_path: Path) -> None:
    """A default negative prompt was never used: an empty one counted as given."""
    path = tmp_path / "requests.jsonl"
    path.write_text('"a"\n{"text": "b", "negative_prompt": "fog", "seed": 0}', encoding="utf-8")
    prompts = PromptSet.load(path)
    defaults = {"negative_prompt": "text", "seed": 5, "extra": {"quality": "low"}}
    first, second = (one.request for one in prompts.with_defaults(defaults).requests)
    assert (first.negative_prompt, first.seed, first.extra) == ("text", 5, {"quality": "low"})
    assert (second.negative_prompt, second.seed, second.extra) == ("fog", 0, {"quality": "low"})
    with pytest.raises(ValidationError, match="Did you mean num_inference_steps"):
        prompts.with_defaults({"steps": 3})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{oops', "Line 2"),
        ("[" * 100_000, "Line 1"),
        ('{"txt": "a"}', "Request 1"),
        ('{"text": "a", "steps": 3}', "num_inference_steps"),
        ('{"text": "  "}', "empty"),
        ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}', "more than once"),
        ("", "no requests in"),
    ],
)
def test_bad_requests_are_refused_by_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PromptSetError, match=said):
        PromptSet.load(path)
    with pytest.raises(PromptSetError, match=r"missing\.jsonl"):
        PromptSet.load(tmp_path / "missing.jsonl")


@given(st.integers(20, 120), st.integers(0, 1000))
def test_splits_are_disjoint_complete_and_follow_the_seed(count: int, seed: int) -> None:
    prompts = PromptSet.of(f"request {i}" for i in range(count))
    splits = prompts.split(seed)
    parts = [{r.id for r in part} for part in (splits.search, splits.selection, splits.test)]
    assert sum(map(len, parts)) == count == len(set.union(*parts))
    assert prompts.split(seed) == splits
    shuffled = PromptSet(requests=tuple(reversed(prompts.requests)))
    assert shuffled.split(seed).hashes() == splits.hashes()
    assert shuffled.sha256 == prompts.sha256


def test_a_group_stays_in_one_split(tmp_path: Path) -> None:
    lines = [
        {"id": f"{group}{i}", "text": f"{group} {i}", "group": group}
        for group in "abcdefghijklmnopqrst"
        for i in range(3)
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    prompts = PromptSet.load(path)
    for seed in range(5):
        splits = prompts.split(seed)
        for part in (splits.search, splits.selection, splits.test):
            names = [request.group for request in part]
            assert all(names.count(name) == 3 for name in names)


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(PromptSetError, match="at least 4"):
        PromptSet.of(["a", "b", "c", "d", "e"]).split(0)


def test_edits_change_one_section_and_leave_the_rest() -> None:
    edits = [
        SectionEdit(section="Count", text="Say the number twice."),
        SectionEdit(section="Colour", kind="add", text="Name colours."),
        SectionEdit(section="Task", kind="remove"),
    ]
    made = apply_edits(BASE, edits)
    assert [s.name for s in made.sections] == ["Count", "Refusals", "Colour"]
    assert made.section("Count").text == "Say the number twice."
    assert made.section("Refusals") == BASE.section("Refusals")
    assert made.version != BASE.version


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (SectionEdit(section="Refusals", text="Refuse nothing."), "protected"),
        (SectionEdit(section="Marked", text="Other."), "protected"),
        (SectionEdit(section="Nowhere", text="Other."), "Cannot replace"),
        (SectionEdit(section="Task", kind="add", text="Other."), "Cannot add"),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit: SectionEdit, said: str) -> None:
    marked = PromptSection(name="Marked", text="Stays.", protected=True)
    prompt = BASE.model_copy(update={"sections": (*BASE.sections, marked)})
    with pytest.raises(EditError, match=said):
        apply_edits(prompt, [edit], protected=("Refusals",))


def test_crossover_brings_what_the_other_changed() -> None:
    seed = Candidate.seed(BASE)
    first = Candidate.edited(seed, [SectionEdit(section="Task", text="Write well.")])
    second = Candidate.edited(
        seed,
        [
            SectionEdit(section="Count", text="Count."),
            SectionEdit(section="New", kind="add", text="N."),
        ],
    )
    edits = crossover(first, second, seed)
    assert edits is not None
    child = Candidate.edited(first, edits, origin="crossover", other_parents=(second,))
    texts = {s.name: s.text for s in child.prompt.sections}
    assert (texts["Task"], texts["Count"], texts["New"]) == ("Write well.", "Count.", "N.")
    assert child.parents == (first.id, second.id)
    rival = Candidate.edited(seed, [SectionEdit(section="Task", text="Write badly.")])
    assert crossover(first, rival, seed) is None
    assert crossover(first, seed, seed) is None


def _found(rules: GuardRules, edits: list[SectionEdit], requests: list[str]) -> list[str]:
    guard = PromptGuard(rules, BASE, requests)
    made = Candidate.edited(Candidate.seed(BASE), edits)
    return [finding.guard for finding in guard.check(made)]


def test_guards_on_the_text_of_a_prompt() -> None:
    request = "a grey cat asleep on a blue velvet sofa"
    rules = GuardRules(max_characters=300, keep=("Say the number",))
    add = SectionEdit(section="New", kind="add", text="Describe light.")
    assert _found(rules, [add], [request]) == []
    copied = add.model_copy(update={"text": "Such as a grey CAT, asleep on a blue velvet sofa."})
    assert _found(rules, [copied], [request]) == ["copy"]
    shown = copied.model_copy(update={"section": EXAMPLES_SECTION})
    assert _found(rules, [shown], [request]) == []
    long = add.model_copy(update={"text": "word " * 100})
    assert _found(rules, [long], []) == ["length"]
    count = SectionEdit(section="Count", text="Never count.")
    assert _found(rules, [count], []) == ["protected text"]
    gone = SectionEdit(section="Refusals", kind="remove")
    assert _found(rules, [gone], []) == ["protected section"]


def _outcome(seed: int, fingerprint: int, rewrite: str = "a cup") -> Outcome:
    return Outcome(Cell("r", seed), 1.0, rewrite=rewrite, fingerprint=fingerprint)


def test_guards_on_what_a_prompt_does() -> None:
    guard = OutcomeGuard(GuardRules(), max_prompt_tokens=50)
    varied = [_outcome(seed, value) for seed, value in enumerate((0, 2**32 - 1, 2**64 - 1))]
    alike = [_outcome(seed, value) for seed, value in enumerate((0, 1, 3))]
    assert guard.check(varied, varied) == []
    assert [f.guard for f in guard.check(alike, varied)] == ["diversity"]
    long = [_outcome(o.cell.seed, o.fingerprint or 0, "word " * 60) for o in varied]
    assert [f.guard for f in guard.check(long, varied)] == ["prompt length"]
    lossy, faithful = [{"a": "missing", "b": "stated"}], [{"a": "stated", "b": "stated"}]
    assert [f.guard for f in guard.check_intent(lossy, faithful)] == ["intent"]
    assert guard.check_intent(faithful, lossy) == []
    assert guard.check_intent([{}], faithful) == []
    assert seed_diversity([_outcome(0, 5)]) is None


def test_fingerprints_tell_pictures_apart() -> None:
    from PIL import Image

    def picture(flip: bool) -> GeneratedImage:
        gradient = Image.linear_gradient("L").rotate(90)
        image = gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else gradient
        return GeneratedImage.from_pil(
            image.convert("RGB"), prompt="p", seed=0, settings=GenerationSettings(), generator="g"
        )

    assert distance(fingerprint(picture(False)), fingerprint(picture(False))) == 0
    assert distance(fingerprint(picture(False)), fingerprint(picture(True))) > 0.8


def test_streams_give_every_request_once_with_seeds_of_their_own() -> None:
    requests = PromptSet.of(f"request {i}" for i in range(10)).requests
    stream = CellStream(requests, "a", pictures=2, generators=(0, 1))
    cells = [cell for block in stream.blocks(3) for cell in block]
    assert len(cells) == 40 == len(set(cells))
    assert {cell.request for cell in cells} == {request.id for request in requests}
    assert len({cell.seed for cell in cells}) == 20, "both generators draw the same seeds"
    again = [cell for block in stream.blocks(7) for cell in block]
    assert again == cells
    other = {c.seed for b in CellStream(requests, "b", pictures=2).blocks(3) for c in b}
    assert not other & {cell.seed for cell in cells}
    assert all(0 <= cell.seed < 2**31 for cell in cells)


def test_scores_are_paired_by_cell_and_averaged_by_request() -> None:
    a1, a2, b = Cell("a", 1), Cell("a", 2), Cell("b", 3)
    ours = [Outcome(a1, 1.0), Outcome(a2, 0.5), Outcome(b, None)]
    theirs = [Outcome(a1, 0.5), Outcome(a2, 0.5), Outcome(b, 0.0)]
    assert paired_differences(ours, theirs) == {"a": 0.25}
    assert mean_score(theirs) == 0.25, "requests weigh the same, however many pictures they have"
    assert mean_score([Outcome(b, None)]) is None


def test_a_candidate_survives_json() -> None:
    made = Candidate.edited(
        Candidate.seed(BASE), [SectionEdit(section="Task", text="Write well.")], round=3
    )
    assert Candidate.model_validate(json.loads(made.model_dump_json())) == made


@pytest.mark.parametrize("seed", range(4))
def test_groups_do_not_part_what_is_all_but_equal(seed: int) -> None:
    texts = [(f"A red cup, no {n}", f"a red cup no {n}.", f"paraphrase {n}") for n in range(20)]
    requests = [
        {"id": f"{n} {place}", "request": {"text": text}, "group": group}
        for n, alike in enumerate(texts)
        for place, (text, group) in enumerate(
            zip(alike, ("" if n % 2 else f"one {n}", f"other {n}", f"other {n}"), strict=True)
        )
    ]
    splits = PromptSet.model_validate({"requests": requests}).split(seed)
    found = [{r.id.split()[0] for r in part} for part in (splits.search, splits.selection)]
    found.append({r.id.split()[0] for r in splits.test})
    assert sum(map(len, found)) == 20, "each three are in one split"
