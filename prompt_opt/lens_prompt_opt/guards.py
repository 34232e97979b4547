"""Rules that no candidate may break, however well it scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

from pydantic import Field

from lens_prompt_opt.cells import Outcome, undecided_share
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.fingerprints import distance
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.revision import Statement
from lens_reasoner.types import Value

EXAMPLES_SECTION = "Examples"
"""The section for demonstrations, and the only one that may quote requests."""

_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

SAFETY_SECTION = "Refusals"
"""Protected in every prompt that has it."""


class GuardFinding(Value):
    """A guard that rejected a candidate.

    Attributes:
        guard: Name of the guard.
        message: What is wrong, with the numbers.
    """

    guard: str
    message: str


class GuardRules(Value):
    """Limits that candidates are checked against.

    Attributes:
        protected: Names of sections that must not change, besides those that the prompt itself
            marks as protected.
        keep: Phrases that must stay in the prompt, in any section.
        max_characters: Maximum length of the rendered system prompt.
        copied_words: This many consecutive words from a request count as copied.
        max_lost: By how much the share of criteria that rewrites lose may exceed the incumbent's.
        min_diversity: Minimum mean distance between images of a request under different seeds, as a
            share of the incumbent's.
        max_cut: Maximum share of rewrites that are longer than the generator reads.
        max_undecided: By how much the share of criteria that the judge cannot decide may exceed the
            incumbent's. Undecided criteria do not count for the score, so a prompt that hides what
            fails would score well.
    """

    protected: tuple[str, ...] = (SAFETY_SECTION,)
    keep: tuple[str, ...] = ()
    max_characters: int = Field(default=12_000, ge=1)
    copied_words: int = Field(default=6, ge=3)
    max_lost: float = Field(default=0.05, ge=0, le=1)
    min_diversity: float = Field(default=0.7, ge=0, le=1)
    max_cut: float = Field(default=0.02, ge=0, le=1)
    max_undecided: float = Field(default=0.05, ge=0, le=1)


@dataclass(frozen=True)
class PromptGuard:
    """Guards; they run before a candidate costs anything.

    Attributes:
        rules: The limits.
        seed: The prompt the study started from.
        requests: Texts that must not be copied into a prompt.
    """

    rules: GuardRules
    seed: SystemPrompt
    requests: Sequence[str]

    def check(self, candidate: Candidate) -> list[GuardFinding]:
        """Findings against the candidate's text; empty if there are none."""
        rendered = candidate.prompt.render()
        findings = [
            _found("protected section", f"section {name!r} was changed or removed")
            for name in self._changed(candidate.prompt)
        ]
        findings += [
            _found("protected text", f"the phrase {phrase!r} is missing")
            for phrase in self.rules.keep
            if phrase in self.seed.render() and phrase not in rendered
        ]
        if len(rendered) > self.rules.max_characters:
            limit = self.rules.max_characters
            findings.append(_found("length", f"{len(rendered)} characters exceed {limit}"))
        if copied := self._copied(candidate):
            findings.append(_found("copy", f"{copied[0]!r} is copied from a request"))
        return findings

    def _changed(self, prompt: SystemPrompt) -> list[str]:
        before = {section.name: section.text for section in self.seed.sections}
        after = {section.name: section.text for section in prompt.sections}
        marked = {section.name for section in self.seed.sections if section.protected}
        names = sorted((marked | set(self.rules.protected)) & before.keys())
        return [name for name in names if before[name] != after.get(name)]

    def _copied(self, candidate: Candidate) -> list[str]:
        texts = [s.text for s in candidate.prompt.sections if s.name != EXAMPLES_SECTION]
        return sorted(_runs(texts, self.rules.copied_words) & self._forbidden)

    @cached_property
    def _forbidden(self) -> set[str]:
        """Runs of words in the requests that are not already in the seed prompt."""
        size = self.rules.copied_words
        known = _runs([section.text for section in self.seed.sections], size)
        return _runs(self.requests, size) - known


@dataclass(frozen=True)
class OutcomeGuard:
    """Guards that compare candidate and incumbent on the same cells.

    Attributes:
        rules: The limits.
        max_prompt_tokens: Number of tokens the generator reads; None if unknown.
    """

    rules: GuardRules
    max_prompt_tokens: int | None = None

    def check(
        self, candidate: Sequence[Outcome], incumbent: Sequence[Outcome]
    ) -> list[GuardFinding]:
        """Findings against the candidate's behaviour; empty if there are none."""
        findings = []
        mine, theirs = seed_diversity(candidate), seed_diversity(incumbent)
        if mine is not None and theirs and mine < self.rules.min_diversity * theirs:
            findings.append(
                _found("diversity", f"distance between seeds is {mine:.3f}, was {theirs:.3f}")
            )
        if self.max_prompt_tokens is not None:
            cut = _share(token_estimate(o.rewrite) > self.max_prompt_tokens for o in candidate)
            if cut > self.rules.max_cut:
                findings.append(
                    _found("prompt length", f"{cut:.0%} of rewrites exceed what is read")
                )
        open_now, open_before = undecided_share(candidate) or 0.0, undecided_share(incumbent) or 0.0
        if open_now > open_before + self.rules.max_undecided:
            findings.append(
                _found(
                    "undecided",
                    f"the judge cannot tell {open_now:.1%} of criteria, were {open_before:.1%}",
                )
            )
        return findings

    def check_intent(
        self,
        candidate: Iterable[Mapping[str, Statement]],
        incumbent: Iterable[Mapping[str, Statement]],
    ) -> list[GuardFinding]:
        """Whether the candidate's rewrites lose more of the request than the incumbent's."""
        mine, theirs = lost_share(candidate), lost_share(incumbent)
        if mine is None or theirs is None or mine <= theirs + self.rules.max_lost:
            return []
        return [_found("intent", f"{mine:.1%} of criteria lost in rewriting, were {theirs:.1%}")]


def seed_diversity(outcomes: Iterable[Outcome]) -> float | None:
    """Mean distance between images of a request under different seeds; None if unknown."""
    prints: dict[tuple[str, int], list[int]] = {}
    for outcome in outcomes:
        if outcome.fingerprint is not None and not outcome.cell.vote:
            key = outcome.cell.request, outcome.cell.generator
            prints.setdefault(key, []).append(outcome.fingerprint)
    gaps = [distance(a, b) for group in prints.values() for a, b in combinations(group, 2)]
    return fmean(gaps) if gaps else None


def lost_share(statements: Iterable[Mapping[str, Statement]]) -> float | None:
    """Share of checked criteria that rewrites omit or contradict; None if none was checked."""
    found = [status != "stated" for said in statements for status in said.values()]
    return fmean(found) if found else None


def token_estimate(text: str) -> int:
    """A rough token count: one per 4 characters or per 3/4 of a word, whichever is larger.

    Characters of scripts without spaces count as one token each.
    """
    dense = len(_DENSE.findall(text))
    return dense + max((len(text) - dense) // 4, len(_DENSE.sub("", text).split()) * 4 // 3)


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _runs(texts: Iterable[str], size: int) -> set[str]:
    runs = set()
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        runs |= {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
    return runs


def _found(guard: str, message: str) -> GuardFinding:
    return GuardFinding(guard=guard, message=message)
