"""A proposer without a language model: prewritten sections, matched to failure modes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lens_prompt_opt.edits import EditKind, Hypothesis, SectionEdit
from lens_prompt_opt.errors import StudyConfigError
from lens_prompt_opt.failures import FailureMode
from lens_prompt_opt.proposer import ProposalBrief, Proposals
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.types import CriterionKind, Usage


@dataclass(frozen=True)
class LibraryEntry:
    """One way to write a section.

    Attributes:
        section: Name of the section.
        text: Its text; empty proposes to remove the section.
        kinds: Kinds of criteria that it should help; empty if it has no particular aim.
        reason: Why, in a sentence.
    """

    section: str
    text: str
    kinds: tuple[CriterionKind, ...] = ()
    reason: str = ""


class LibraryProposer:
    """Proposes entries of a library; those that match a failure mode come first.

    It does not know which entries are good; that is for the study to find out. It skips entries
    that are in the prompt already, those whose hypothesis was refuted, and those that were tried
    `patience` times without a clear result.

    Example:
        ```python
        proposer = LibraryProposer([
            LibraryEntry("Counting", "Give the number of every kind of object.", ("count",)),
            LibraryEntry("Mood", "", reason="it may distract"),
        ])
        ```
    """

    def __init__(
        self, entries: Sequence[LibraryEntry], *, patience: int = 2, name: str = "library"
    ) -> None:
        """Set the library.

        Args:
            entries: The entries; several may be for the same section.
            patience: How often to try an entry whose effect stays unclear.
            name: Name for records.

        Raises:
            StudyConfigError: The library is empty.
        """
        if not entries:
            raise StudyConfigError("The library is empty.", hint="Give at least one entry.")
        self._entries = tuple(entries)
        self._patience = patience
        self._name = name

    @property
    def name(self) -> str:
        """Name for records."""
        return f"{self._name} of {len(self._entries)} entries"

    async def propose(self, brief: ProposalBrief, pictures: Mapping[str, bytes]) -> Proposals:
        """See `Proposer.propose`. Images are ignored."""
        rng = random.Random(brief.seed)
        fresh = [entry for entry in self._entries if self._is_open(entry, brief)]
        rng.shuffle(fresh)
        edits = []
        for mode in brief.failures.modes:
            aimed = [entry for entry in fresh if set(entry.kinds) & set(mode.kinds)]
            edits += [_edit(entry, brief.prompt, mode) for entry in aimed]
            fresh = [entry for entry in fresh if entry not in aimed]
        edits += [_edit(entry, brief.prompt, None) for entry in fresh]
        if brief.scope == "whole":
            whole = {edit.section: edit for edit in reversed(edits)}
            return Proposals(edits=(tuple(whole.values()),) if whole else (), usage=Usage.zero())
        return Proposals(edits=tuple((edit,) for edit in edits)[: brief.wanted], usage=Usage.zero())

    def _is_open(self, entry: LibraryEntry, brief: ProposalBrief) -> bool:
        present = {section.name: section for section in brief.prompt.sections}
        there = present.get(entry.section)
        if there is not None and (there.protected or there.name in brief.protected):
            return False
        if (there.text if there is not None else "") == entry.text:
            return False
        tried = [
            edit.hypothesis.status
            for edit in brief.tried
            if (edit.section, edit.text) == (entry.section, entry.text)
        ]
        return "refuted" not in tried and len(tried) < self._patience


def _edit(entry: LibraryEntry, prompt: SystemPrompt, mode: FailureMode | None) -> SectionEdit:
    there = any(section.name == entry.section for section in prompt.sections)
    kind: EditKind = "remove" if not entry.text else "replace" if there else "add"
    return SectionEdit(
        section=entry.section,
        kind=kind,
        text=entry.text,
        hypothesis=Hypothesis(
            failure_mode=mode.name if mode is not None else "",
            kinds=entry.kinds,
            reason=entry.reason,
        ),
    )
