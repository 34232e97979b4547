"""Writing rules, parsed from the sentences of a system prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from lens_reasoner.prompts import SystemPrompt

Topic = Literal[
    "count",
    "color",
    "every color",
    "place",
    "relation",
    "size",
    "large size",
    "background",
    "alone",
    "style",
    "detail",
    "mood",
    "company",
    "brief",
]
"""What a rule can be about. "alone": nothing else is in the image. "company": something else is.
"brief": a single sentence."""

_WORDS: Final[tuple[tuple[Topic, str], ...]] = (
    ("count", r"\bnumbers?\b|\bcounts?\b|\bhow many\b"),
    (
        "every color",
        r"\b(?:every|each|all)\b.*\bcolou?rs?\b|\bcolou?rs? of (?:every|each)\b",
    ),
    ("color", r"(?<!background )\bcolou?rs?\b(?! of the background)"),
    ("place", r"\bwhere\b|\bplaces?\b|\bregions?\b"),
    ("relation", r"\beach other\b|\brelations?\b|\brelative\b"),
    ("large size", r"\bas (?:large|big) as\b"),
    ("size", r"\bsizes?\b"),
    ("background", r"\bbackground\b"),
    ("alone", r"\bnothing else\b|\bno other (?:objects|things)\b"),
    ("style", r"\bdrawing style\b|\boutlines?\b"),
    ("detail", r"\bparts?\b|\bdetails?\b"),
    ("mood", r"\bmoods?\b|\bfeelings?\b|\batmosphere\b"),
    ("company", r"\binvent\b|\bfurther (?:objects|things)\b"),
    ("brief", r"\bshort\b|\bbrief\b|\bone sentence\b|\bfew words\b"),
)
_NOT: Final = re.compile(
    r"\b(?:not|never|don't|without|avoid|omit|leave out|no need|no matter)\b", re.IGNORECASE
)
_IMPLIED: Final[dict[Topic, Topic]] = {"every color": "color", "large size": "size"}


@dataclass(frozen=True)
class WritingRules:
    """What a writer that follows a prompt literally does.

    Attributes:
        topics: The topics it writes about; it leaves out all others.
    """

    topics: frozenset[Topic] = frozenset()

    def __contains__(self, topic: Topic) -> bool:
        """Whether to write about a topic."""
        return topic in self.topics


def read_rules(prompt: SystemPrompt) -> WritingRules:
    """Parse a prompt's rules: one for every sentence that names a topic.

    A sentence with "not", "never", "without" and the like forbids its topics; any other asks for
    them. Later sentences override earlier ones. Sentences without a known topic and section names
    are ignored.
    """
    topics: set[Topic] = set()
    for section in prompt.sections:
        for sentence in re.split(r"(?<=[.!?;])\s+|\n+", section.text):
            named = set(_topics(sentence))
            if _NOT.search(sentence):
                topics -= named
            else:
                topics |= named
    return WritingRules(frozenset(topics))


def _topics(sentence: str) -> Iterator[Topic]:
    for topic, pattern in _WORDS:
        if re.search(pattern, sentence, re.IGNORECASE):
            yield topic
            if topic in _IMPLIED:
                yield _IMPLIED[topic]
