"""Edits of a sectioned system prompt, their hypotheses, and the candidates they produce."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from lens_prompt_opt.errors import EditError
from lens_reasoner.prompts import PromptSection, SystemPrompt
from lens_reasoner.types import Value

EditKind = Literal["replace", "add", "remove"]
HypothesisStatus = Literal["open", "confirmed", "refuted", "unclear"]


class Hypothesis(Value):
    """What an edit is expected to do.

    Attributes:
        failure_mode: Name of the failure mode it aims at.
        kinds: Kinds of criteria that should be met more often.
        reason: Why, in a sentence.
        status: "confirmed" if the interval of the change is above zero, "refuted" if below,
            "unclear" if it contains zero.
        change: Change in the pass rate of `kinds`. From a screening it is shrunk towards zero; on a
            prompt card it is measured on the test split.
        interval: Interval of `change`: 80 % for a screening, on a card the claim's confidence.
    """

    failure_mode: str = ""
    kinds: tuple[str, ...] = ()
    reason: str = ""
    status: HypothesisStatus = "open"
    change: float | None = None
    interval: tuple[float, float] | None = None

    def tested(self, change: float, interval: tuple[float, float]) -> Hypothesis:
        """The hypothesis with its test result."""
        low, high = interval
        status = "confirmed" if low > 0 else "refuted" if high < 0 else "unclear"
        known = {"status": status, "change": change, "interval": interval}
        return self.model_copy(update=known)


class SectionEdit(Value):
    """One section replaced, added at the end, or removed.

    Attributes:
        section: Name of the section.
        kind: What is done to it.
        text: The new text; empty for "remove" and only then.
        hypothesis: What the edit is expected to do.
    """

    section: str = Field(min_length=1)
    kind: EditKind = "replace"
    text: str = ""
    hypothesis: Hypothesis = Hypothesis()

    @model_validator(mode="after")
    def _text_where_needed(self) -> Self:
        if (self.kind == "remove") != (not self.text.strip()):
            raise ValueError(
                f"a {self.kind!r} edit of {self.section!r} has text {self.text[:40]!r}; "
                "only 'remove' has no text"
            )
        return self

    def tested(self, change: float, interval: tuple[float, float]) -> SectionEdit:
        """The edit with the test result of its hypothesis."""
        return self.model_copy(update={"hypothesis": self.hypothesis.tested(change, interval)})


class Candidate(Value):
    """A system prompt under study, and its origin.

    Attributes:
        id: Hash of the rendered prompt; equal prompts are the same candidate.
        prompt: The prompt.
        parents: Ids of the candidates it was made from; none for the seed.
        edits: Changes relative to the first parent.
        origin: How it was made, such as "seed", "edit", "composite", "crossover".
        round: The round it was made in, from 0.
    """

    id: str
    prompt: SystemPrompt
    parents: tuple[str, ...] = ()
    edits: tuple[SectionEdit, ...] = ()
    origin: str = "seed"
    round: int = Field(default=0, ge=0)

    @classmethod
    def seed(cls, prompt: SystemPrompt) -> Candidate:
        """The prompt a study starts from."""
        return cls(id=prompt_id(prompt), prompt=prompt)

    @classmethod
    def edited(
        cls,
        parent: Candidate,
        edits: Sequence[SectionEdit],
        *,
        origin: str = "edit",
        round: int = 0,
        protected: Collection[str] = (),
        other_parents: Sequence[Candidate] = (),
    ) -> Candidate:
        """Apply `edits` to `parent`.

        Raises:
            EditError: An edit does not apply, or touches a protected section.
        """
        prompt = apply_edits(parent.prompt, edits, protected=protected)
        return cls(
            id=prompt_id(prompt),
            prompt=prompt,
            parents=(parent.id, *(other.id for other in other_parents)),
            edits=tuple(edits),
            origin=origin,
            round=round,
        )


def prompt_id(prompt: SystemPrompt) -> str:
    """The first twelve hexadecimal digits of the rendered prompt's SHA-256."""
    return hashlib.sha256(prompt.render().encode()).hexdigest()[:12]


def apply_edits(
    prompt: SystemPrompt, edits: Sequence[SectionEdit], *, protected: Collection[str] = ()
) -> SystemPrompt:
    """Apply `edits` in order; the version becomes a hash of the new text.

    Raises:
        EditError: A section to change is missing, one to add exists, a protected one is touched, a
            new text or name is not a valid section, or no section would be left.
    """
    sections = {section.name: section for section in prompt.sections}
    for edit in edits:
        locked = {*protected, *(s.name for s in prompt.sections if s.protected)}
        if edit.section in locked:
            raise EditError(
                f"The edit touches the protected section {edit.section!r}.",
                hint=f"Leave {sorted(locked)} as they are.",
            )
        there = edit.section in sections
        if there == (edit.kind == "add"):
            raise EditError(
                f"Cannot {edit.kind} section {edit.section!r} of {sorted(sections)}.",
                hint="Add sections that are missing; replace or remove those that are there.",
            )
        if edit.kind == "remove":
            del sections[edit.section]
        else:
            sections[edit.section] = _section(edit)
    if not sections:
        raise EditError("The edits leave no section.", hint="Keep at least one.")
    return _renamed(prompt, tuple(sections.values()))


def _section(edit: SectionEdit) -> PromptSection:
    try:
        return PromptSection(name=edit.section, text=edit.text.strip())
    except ValidationError as error:
        raise EditError(
            f"The text for section {edit.section[:60]!r} is not a valid section: "
            f"{error.errors()[0]['msg']}.",
            hint="Give a plain name, and text without headings of sections.",
        ) from error


def crossover(first: Candidate, second: Candidate, ancestor: Candidate) -> list[SectionEdit] | None:
    """Edits that apply to `first` what `second` changed since `ancestor`.

    None if both changed the same section differently, or there is nothing to apply.
    """
    mine, theirs, before = (_texts(c.prompt) for c in (first, second, ancestor))
    edits = []
    for name in dict.fromkeys([*before, *theirs]):
        if theirs.get(name) == before.get(name) or theirs.get(name) == mine.get(name):
            continue
        if mine.get(name) != before.get(name):
            return None
        kind: EditKind = "remove" if name not in theirs else "replace" if name in mine else "add"
        hypothesis = next(
            (edit.hypothesis for edit in second.edits if edit.section == name), Hypothesis()
        )
        edits.append(
            SectionEdit(section=name, kind=kind, text=theirs.get(name, ""), hypothesis=hypothesis)
        )
    return edits or None


def _texts(prompt: SystemPrompt) -> dict[str, str]:
    return {section.name: section.text for section in prompt.sections}


def _renamed(prompt: SystemPrompt, sections: tuple[PromptSection, ...]) -> SystemPrompt:
    changed = SystemPrompt(name=prompt.name, version=prompt.version, sections=sections)
    return changed.model_copy(update={"version": prompt_id(changed)})
