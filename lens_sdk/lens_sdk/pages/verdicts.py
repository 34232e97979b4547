"""Images and verdicts as HTML."""

from __future__ import annotations

import base64
import io

from lens_prompt_opt.report.markup import Markup, el
from lens_reasoner import GeneratedImage, Rubric, Verdict

MOST_BYTES = 400_000
"""Larger image files are scaled down, so that pages with many images stay usable."""

_LONGEST_SIDE = 1024
_ANSWERS = {
    "yes": ("yes", "✓", "satisfied"),
    "no": ("no", "✗", "not satisfied"),
    "cannot_tell": ("unsure", "?", "cannot tell"),
}


def picture(image: GeneratedImage, caption: Markup, *, best: bool) -> Markup:
    """An image with a caption."""
    settings = image.settings
    shown = el(
        "img",
        src=data_uri(image),
        width=settings.width,
        height=settings.height,
        alt=image.prompt,
    )
    words = el("figcaption", caption)
    return el("figure", shown, words, class_="picture best" if best else "picture")


def data_uri(image: GeneratedImage) -> str:
    """An image as a data URI: the file itself, or a smaller version if it is large."""
    data, kind = image.data, str(image.media_type)
    if len(data) > MOST_BYTES:
        smaller = image.image.convert("RGB")
        smaller.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        buffer = io.BytesIO()
        smaller.save(buffer, "WEBP", quality=88)
        data, kind = buffer.getvalue(), "image/webp"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def verdict_list(verdict: Verdict, rubric: Rubric | None) -> Markup:
    """A judge's verdict on an image, criterion by criterion; users can label each line."""
    questions = {c.name: c.question for c in rubric.criteria} if rubric else {}
    lines = []
    for line in verdict.verdicts:
        kind, sign, meaning = _ANSWERS[line.answer]
        mark = el("span", sign, class_=f"mark {kind} judged", role="img", aria_label=meaning)
        question = questions.get(line.criterion, line.criterion)
        words = el(
            "span",
            el("b", question, class_="question"),
            el("small", line.evidence, class_="judged-text") if line.evidence else None,
        )
        told = {"data_image": verdict.image_sha256, "data_criterion": line.criterion}
        lines.append(el("li", mark, words, **told))
    return el("ul", *lines, class_="verdict")


def score_badge(score: float | None) -> Markup:
    """An image's score as a badge."""
    if score is None:
        return el("span", "not judged", class_="score none")
    kind = "full" if score == 1 else "part"
    return el("span", f"{score:.0%}", class_=f"score {kind} judged-text")
