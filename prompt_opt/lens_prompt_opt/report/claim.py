"""What the study claims, in one line, and what it took."""

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
    said = _improved(claim) if claim is not None else _unchanged(material)
    return join([said, _earlier(material.result.earlier_ends), _tiles(material)])


def _earlier(ends: int) -> Markup | None:
    """A warning where the run had ended before and its budget was raised."""
    if not ends:
        return None
    times = "once" if ends == 1 else f"{ends} times"
    return el(
        "p",
        f"The run had ended otherwise {times} before its budget was raised. Each end had the whole "
        "error rate and looked at the same test split, so this one proves less than its numbers "
        "say. New requests would settle it.",
        class_="note",
    )


def _improved(claim: GainClaim) -> Markup:
    before, after = (wording.points(s, sign=False) for s in (claim.seed_score, claim.best_score))
    confidence = f"{claim.confidence:.0%}".replace("%", " %")
    sure = "above zero" if claim.interval[0] > 0 else "not clear of zero"
    lead = el(
        "p",
        "Criteria met rose from ",
        el("b", f"{before} %"),
        " under the seed prompt to ",
        el("b", f"{after} %"),
        " under the optimised one, on ",
        el("b", wording.number(claim.requests, "request")),
        f" that nothing was decided on, {wording.number(claim.pictures, 'picture')} each, both ",
        f"prompts under the same image seeds. The {confidence} interval is {sure}.",
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
    """What the scores leave out, where the optimised prompt makes it more."""
    if claim.undecided is None or claim.undecided[1] < claim.undecided[0] + _WORTH_A_WORD:
        return None
    before, after = (wording.points(share, sign=False) for share in claim.undecided)
    return (
        f" The judge could not tell {after} % of the criteria, under the seed prompt {before} %; "
        "they count neither way."
    )


def _unchanged(material: Material) -> Markup:
    tried = len(material.result.history.decisions)
    if material.result.end == "improved":
        said = "A better prompt was accepted, but nothing was left to measure its gain."
    else:
        said = "No better prompt was established, so the seed prompt is returned unchanged."
    lead = el(
        "p",
        f"{wording.number(len(material.candidates) - 1, 'other candidate')} made, ",
        f"{wording.number(tried, 'challenge')} held. Nothing is claimed.",
        _unproven(material),
        class_="lead",
    )
    return el("div", el("p", said, class_="plain-gain"), lead, class_="claim none")


def _unproven(material: Material) -> str | None:
    """The challenger that looked best, where nothing was established."""
    card = material.result.unproven
    if card is None or card.claim is None:
        return None
    gain, bounds = wording.points(card.claim.gain), wording.interval(card.claim.interval)
    return (
        f" The challenger that looked best, {card.lineage[-1].id}, gained {gain} points on the "
        f"test split ({bounds}), but the study's error rate does not speak for it."
    )


def _bar(claim: GainClaim) -> Markup:
    """Zero, the interval and the gain on one line."""
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
        (f"{total.images:,}", "pictures drawn"),
        (cost, "spent" if not total.unpriced else f"known, {total.unpriced:,} calls unpriced"),
        (wording.duration(total.seconds), "of work"),
        (f"{len(material.candidates) - 1:,}", "candidates made"),
        (f"{accepted} of {challenges}", "challenges accepted"),
    ]
    return el(
        "dl",
        *(el("div", el("dt", label), el("dd", value)) for value, label in tiles),
        class_="tiles",
    )
