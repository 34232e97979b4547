"""The top of the page: the claim, and what it took."""

from __future__ import annotations

from lens_prompt_opt.card import GainClaim
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.material import Material

_WIDTH, _HEIGHT = 380.0, 60.0
_WORTH_A_WORD = 0.02


def headline(material: Material) -> Markup:
    """The top of the page."""
    claim = material.result.claim
    summary = _improved(claim) if claim is not None else _unchanged(material)
    return join([summary, _earlier(material.result.earlier_ends), _tiles(material)])


def _earlier(ends: int) -> Markup | None:
    """A warning if the run had ended before its budget was raised."""
    if not ends:
        return None
    times = "once" if ends == 1 else f"{ends} times"
    return el(
        "p",
        f"The run had ended with another result {times} before its budget was raised. Each end "
        "used the whole error rate and looked at the same test split, so this claim proves less "
        "than its numbers suggest. New requests would settle it.",
        class_="note",
    )


def _improved(claim: GainClaim) -> Markup:
    before, after = (wording.points(s, sign=False) for s in (claim.seed_score, claim.best_score))
    confidence = f"{claim.confidence:.0%}".replace("%", " %")
    sure = "above zero" if claim.interval[0] > 0 else "not entirely above zero"
    lead = el(
        "p",
        "The share of criteria met rose from ",
        el("b", f"{before} %"),
        " with the seed prompt to ",
        el("b", f"{after} %"),
        " with the optimised one, on ",
        el("b", wording.number(claim.requests, "unseen request")),
        f" with {wording.number(claim.pictures, 'image')} each and the same image seeds for both ",
        f"prompts. The {confidence} interval is {sure}.",
        _undecided(claim),
        class_="lead",
    )
    number = el(
        "p",
        el("strong", wording.points(claim.gain)),
        el(
            "span",
            "points",
            el("small", f"{confidence} interval {wording.interval(claim.interval)}"),
        ),
        class_=f"gain {'good' if claim.interval[0] > 0 else 'soft'}",
    )
    return el("div", number, el("div", _bar(claim), lead), class_="claim")


def _undecided(claim: GainClaim) -> str | None:
    """A note on undecided criteria, if the optimised prompt has noticeably more of them."""
    if claim.undecided is None or claim.undecided[1] < claim.undecided[0] + _WORTH_A_WORD:
        return None
    before, after = (wording.points(share, sign=False) for share in claim.undecided)
    return (
        f" The judge could not decide {after} % of the criteria ({before} % with the seed prompt); "
        "they do not count for the score."
    )


def _unchanged(material: Material) -> Markup:
    tried = len(material.result.history.decisions)
    if material.result.end == "improved":
        said = "A better prompt was accepted, but there was no budget left to measure its gain."
    else:
        said = "No better prompt was accepted, so the seed prompt is returned unchanged."
    lead = el(
        "p",
        f"{wording.number(len(material.candidates) - 1, 'candidate')} besides the seed, ",
        f"{wording.number(tried, 'challenge')}. Nothing is claimed.",
        _unproven(material),
        class_="lead",
    )
    return el("div", el("p", said, class_="plain-gain"), lead, class_="claim none")


def _unproven(material: Material) -> str | None:
    """A sentence about the most promising challenger, if none was accepted."""
    card = material.result.unproven
    if card is None or card.claim is None:
        return None
    gain, bounds = wording.points(card.claim.gain), wording.interval(card.claim.interval)
    return (
        f" The most promising challenger, {card.lineage[-1].id}, gained {gain} points on the "
        f"test split ({bounds}), but the study's error rate does not cover it."
    )


def _bar(claim: GainClaim) -> Markup:
    """A line with zero, the interval and the gain."""
    low, high = min(claim.interval[0], 0.0), max(claim.interval[1], 0.0)
    span = (high - low) or 0.01
    low, high = low - 0.12 * span, high + 0.12 * span

    def x(gain: float) -> float:
        return 8 + (_WIDTH - 16) * (gain - low) / (high - low)

    left, right = x(claim.interval[0]), x(claim.interval[1])
    ends = [
        el("text", wording.points(gain), x=x(gain), y=12.0, class_="axis middle")
        for gain in claim.interval
    ]
    return el(
        "svg",
        el("title", f"Gain {claim}"),
        el("line", x1=8, x2=_WIDTH - 8, y1=30, y2=30, class_="gridline"),
        el("line", x1=x(0), x2=x(0), y1=18, y2=42, class_="zero"),
        el("text", "0", x=x(0), y=54.0, class_="axis middle"),
        el("rect", x=left, y=25, width=max(right - left, 2.0), height=10, rx=5, class_="span"),
        el("circle", cx=x(claim.gain), cy=30, r=8.0, class_="fill-accent"),
        *ends,
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        class_="claim-bar",
        role="img",
    )


def _tiles(material: Material) -> Markup:
    result = material.result
    total = result.cost[-1]
    accepted = len(material.accepted)
    challenges = len(result.history.decisions)
    cost = wording.amount(total.usd) if total.usd or not total.unpriced else "unknown"
    tiles = [
        (f"{total.images:,}", "images generated"),
        (cost, "spent" if not total.unpriced else f"known, {total.unpriced:,} calls unpriced"),
        (wording.duration(total.seconds), "of work"),
        (f"{len(material.candidates) - 1:,}", "candidates"),
        (f"{accepted} of {challenges}", "challenges accepted"),
    ]
    return el(
        "dl",
        *(el("div", el("dt", label), el("dd", value)) for value, label in tiles),
        class_="tiles",
    )
