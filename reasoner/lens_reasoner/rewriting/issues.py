"""Issues of a rewritten prompt that code can find."""

from __future__ import annotations

import re

from lens_reasoner.rewriting.languages import language_changed
from lens_reasoner.rewriting.quotes import lost_quotes, without_quotes
from lens_reasoner.types import RewriteIssue

DETAILED_WORDS = 60
"""A request with at least this many words counts as detailed."""

KEPT_SHARE = 0.8
"""Share of a detailed request's distinct words that the prompt must keep."""


def find_issues(request: str, prompt: str) -> tuple[RewriteIssue, ...]:
    """Find lost quotes, a change of language, and large changes to a detailed request.

    The language is recognised by script and by common words of seven languages. Words are counted
    only in scripts that separate them with spaces.
    """
    issues = [RewriteIssue(kind="lost_quote", detail=text) for text in lost_quotes(request, prompt)]
    if language_changed(without_quotes(request), without_quotes(prompt)):
        issues.append(
            RewriteIssue(kind="other_language", detail="not written in the request's language")
        )
    kept = kept_share(request, prompt)
    if len(_words(request)) >= DETAILED_WORDS and kept < KEPT_SHARE:
        issues.append(
            RewriteIssue(
                kind="much_changed",
                detail=f"keeps {kept:.0%} of the words of a request that was detailed already",
            )
        )
    return tuple(issues)


def kept_share(request: str, prompt: str) -> float:
    """Share of the request's distinct words that the prompt has; 1 if the request has none."""
    asked, written = set(_words(request)), set(_words(prompt))
    return len(asked & written) / len(asked) if asked else 1.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def as_instruction(issue: RewriteIssue) -> str:
    """The issue as a sentence for the model that is asked to fix it."""
    match issue.kind:
        case "lost_quote":
            return f"This quoted text is missing or changed, copy it exactly: {issue.detail}"
        case "other_language":
            return "It is not written in the language of the request."
        case "much_changed":
            return "The request was detailed already: keep its words and change almost nothing."
