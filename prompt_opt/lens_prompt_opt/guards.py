"""What no candidate may do, however well it scores."""

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
"""The section that demonstrations go to; the only one that may quote requests."""

_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

SAFETY_SECTION = "Refusals"
"""Protected wherever a prompt has it."""


class GuardFinding(Value):
    """A guard that a candidate ran into.

    Attributes:
        guard: Name of the guard.
        message: What is wrong, with the numbers.
    """

    guard: str
    message: str


class GuardRules(Value):
    """Limits that the guards hold candidates to.

    Attributes:
        protected: Names of sections that must stay word for word, besides those that the prompt
            itself marks as protected.
        keep: Phrases that must stay in the prompt, wherever they are.
        max_characters: Longest rendered system prompt.
        copied_words: So many words in a row from a request are a copy.
        max_lost: How much more often than under the incumbent a rewrite may lose a criterion, as a
            share of criteria.
        min_diversity: Least mean distance between images of one request under different seeds,
            as a share of the incumbent's.
        max_cut: Largest share of rewrites that may be longer than the generator reads.
        max_undecided: How much more often than under the incumbent the judge may be unable to tell,
            as a share of criteria. What it cannot tell is left out of the score, so a prompt that
            hides what fails would score well.
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
    """Guards that need no evaluation, run before a candidate costs anything.

    Attributes:
        rules: The limits.
        seed: The prompt the study started from.
        requests: Texts that must not be copied into a prompt.
    """

    rules: GuardRules
    seed: SystemPrompt
    requests: Sequence[str]

    def check(self, candidate: Candidate) -> list[GuardFinding]:
        """What is wrong with the candidate's text; empty if nothing."""
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
        """Runs of words of the requests that the seed prompt does not hold already."""
        size = self.rules.copied_words
        known = _runs([section.text for section in self.seed.sections], size)
        return _runs(self.requests, size) - known


@dataclass(frozen=True)
class OutcomeGuard:
    """Guards that compare what candidate and incumbent did on the same cells.

    Attributes:
        rules: The limits.
        max_prompt_tokens: Tokens the generator reads; None if unknown.
    """

    rules: GuardRules
    max_prompt_tokens: int | None = None

    def check(
        self, candidate: Sequence[Outcome], incumbent: Sequence[Outcome]
    ) -> list[GuardFinding]:
        """What is wrong with the candidate's behaviour; empty if nothing."""
        findings = []
        mine, theirs = seed_diversity(candidate), seed_diversity(incumbent)
        if mine is not None and theirs and mine < self.rules.min_diversity * theirs:
            findings.append(
                _found("diversity", f"pictures differ by {mine:.3f} over seeds, were {theirs:.3f}")
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
        """Whether the candidate's rewrites lose more of what was asked for."""
        mine, theirs = lost_share(candidate), lost_share(incumbent)
        if mine is None or theirs is None or mine <= theirs + self.rules.max_lost:
            return []
        return [_found("intent", f"{mine:.1%} of criteria lost in rewriting, were {theirs:.1%}")]


def seed_diversity(outcomes: Iterable[Outcome]) -> float | None:
    """Mean distance between images of one request under different seeds; None if unknown."""
    prints: dict[tuple[str, int], list[int]] = {}
    for outcome in outcomes:
        if outcome.fingerprint is not None and not outcome.cell.vote:
            key = outcome.cell.request, outcome.cell.generator
            prints.setdefault(key, []).append(outcome.fingerprint)
    gaps = [distance(a, b) for group in prints.values() for a, b in combinations(group, 2)]
    return fmean(gaps) if gaps else None


def lost_share(statements: Iterable[Mapping[str, Statement]]) -> float | None:
    """Share of looked-up criteria that rewrites leave out or contradict; None if none was."""
    found = [status != "stated" for said in statements for status in said.values()]
    return fmean(found) if found else None


def token_estimate(text: str) -> int:
    """About as many tokens as `text` has: 4 characters or 3/4 of a word each, the larger.

    Characters of scripts without spaces are one each.
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
