"""Images and runs as self-contained HTML for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_reasoner.image import GeneratedImage
    from lens_reasoner.run_state import Candidate, LoopResult
    from lens_reasoner.types import Rubric
    from lens_reasoner.verdict import Verdict

WIDEST = 384
"""Maximum width of an image in pixels."""

_MARKS = {"yes": ("✓", "#1a7f37"), "no": ("✗", "#cf222e"), "cannot_tell": ("?", "#9a6700")}
_DIM = "opacity:.65;font-size:.85em"


def picture(image: GeneratedImage, *, label: str = "", width: int = WIDEST) -> str:
    """One image with a caption that says how it was made.

    Args:
        image: The image.
        label: Heading above the image.
        width: Maximum width in pixels.
    """
    settings = image.settings
    details = (
        f"{settings.width}x{settings.height}" if settings.width else "",
        "" if image.seed is None else f"seed {image.seed}",
        f"{settings.num_inference_steps} steps" if settings.num_inference_steps else "",
        "" if settings.guidance_scale is None else f"guidance {settings.guidance_scale:g}",
        image.generator,
    )
    small = escape(" · ".join(filter(None, details)))
    heading = f"<strong>{escape(label)}</strong>" if label else ""
    return (
        f'<figure style="margin:0 1em 1em 0;display:inline-block;vertical-align:top;'
        f'max-width:{width}px">{heading}'
        f'<img src="{_address(image)}" alt="{escape(image.prompt)}" '
        f'style="max-width:{width}px;display:block;min-width:128px">'
        f'<figcaption><div>{escape(image.prompt)}</div><div style="{_DIM}">{small}</div>'
        f"</figcaption></figure>"
    )


def verdict_list(verdict: Verdict, rubric: Rubric | None = None) -> str:
    """A judge's answers, one line per criterion."""
    questions = {c.name: c.question for c in rubric.criteria} if rubric is not None else {}
    lines = []
    for answer in verdict.verdicts:
        mark, colour = _MARKS[answer.answer]
        question = escape(questions.get(answer.criterion, answer.criterion))
        seen = f' <span style="{_DIM}">{escape(answer.evidence)}</span>' if answer.evidence else ""
        lines.append(f'<div><b style="color:{colour}">{mark}</b> {question}{seen}</div>')
    score = "no score" if verdict.score is None else f"score {verdict.score:.2f}"
    return f"{''.join(lines)}<div style='{_DIM}'>{score}, by {escape(verdict.judge)}</div>"


def side_by_side(
    candidates: Sequence[tuple[str, Candidate]], rubric: Rubric | None, *, width: int = WIDEST
) -> str:
    """Images side by side, each with its verdict below.

    Args:
        candidates: Labels and candidates.
        rubric: The criteria, for their questions.
        width: Maximum width of each image in pixels.
    """
    shown = []
    for label, candidate in candidates:
        below = "" if candidate.verdict is None else verdict_list(candidate.verdict, rubric)
        shown.append(
            f'<div style="display:inline-block;vertical-align:top;max-width:{width}px;'
            f'margin-right:1em">{picture(candidate.image, label=label, width=width)}{below}</div>'
        )
    return f"<div>{''.join(shown)}</div>"


def run(result: LoopResult) -> str:
    """A run: the request, the best image with its verdict, and smaller versions of the others."""
    parts = [f"<h4 style='margin:0'>{escape(result.request.text)}</h4>"]
    if result.refused is not None:
        parts.append(f"<div>Refused: {escape(result.refused.reason)}</div>")
    best = result.best
    if best is not None:
        parts.append(side_by_side([("Best", best)], result.rubric))
    others = [c for c in result.candidates if best is None or c.index != best.index]
    small = [picture(c.image, label=_place(c), width=128) for c in others]
    if small:
        parts.append(f"<details><summary>{len(small)} more</summary>{''.join(small)}</details>")
    for failure in result.failures:
        parts.append(f'<div style="color:#9a6700">{escape(failure.message)}</div>')
    usd = result.usage.usd
    summary = (
        f"stopped: {result.stop_reason.replace('_', ' ')}",
        f"{len(result.candidates)} images",
        "cost unknown" if usd is None else f"${usd:.4f}",
        f"{result.timings['total']:.1f} s" if "total" in result.timings else "",
    )
    parts.append(f'<div style="{_DIM}">{escape(" · ".join(filter(None, summary)))}</div>')
    return "".join(parts)


def _place(candidate: Candidate) -> str:
    score = "" if candidate.score is None else f", {candidate.score:.2f}"
    return f"round {candidate.round + 1}{score}"


def _address(image: GeneratedImage) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
