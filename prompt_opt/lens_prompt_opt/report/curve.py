"""The section about the gain over the seed prompt during the study, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.history import ScreenRecord
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material

_WIDTH, _HEIGHT = 880.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 24.0, 18.0, 46.0
_Z95 = 1.96


@dataclass(frozen=True)
class Mark:
    """One estimate of a gain over the seed prompt.

    Attributes:
        images: Images of all comparisons so far.
        gain: The estimate.
        low: Lower end of its interval.
        high: Upper end of its interval.
        kind: "screen" from the search, "accepted" or "rejected" by the gate, or "claim".
        label: Description.
    """

    images: int
    gain: float
    low: float
    high: float
    kind: str
    label: str


def curve(material: Material) -> Markup:
    """The section with the score curve."""
    marks = _marks(material)
    if not marks:
        return el("p", "There are no comparisons to show.", class_="soft")
    axes = _Axes(marks)
    kinds = {mark.kind for mark in marks}
    legend = [
        el("li", el("span", class_=f"dot {colour}"), said)
        for kind, (colour, said) in _KINDS.items()
        if kind in kinds
    ]
    svg = el(
        "svg",
        el("title", "Gain over the seed prompt, comparison by comparison"),
        *axes.grid(),
        _steps(marks, axes),
        *(_drawn(mark, axes) for mark in marks),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        width=_WIDTH,
        height=_HEIGHT,
        class_="curve",
    )
    rows = [
        el("tr", el("td", m.label), el("td", wording.points(m.gain), class_="num"),
           el("td", wording.interval((m.low, m.high)), class_="num"),
           el("td", f"{m.images:,}", class_="num"))
        for m in marks
    ]  # fmt: skip
    heads = ("Comparison", "Gain", "95 % interval", "Images so far")
    scroll = el("div", svg, class_="scroll", tabindex="0", role="region", aria_label="Score curve")
    shown = el("div", table(heads, rows), class_="scroll")
    numbers = el("details", el("summary", "The numbers"), shown)
    return join([el("ul", *legend, class_="legend"), scroll, numbers])


_KINDS = {
    "screen": ("ring-blue", "screening estimate, shrunk towards zero"),
    "accepted": ("fill-good", "challenge, accepted"),
    "rejected": ("fill-bad", "challenge, not accepted"),
    "claim": ("fill-accent", "the claim, on the test split"),
}


def _marks(material: Material) -> list[Mark]:
    """Screenings and challenges by the round of their candidate, then the claim."""
    history = material.result.history
    events: list[tuple[int, ScreenRecord | Decision]] = [
        *((_round(material, screen.candidate), screen) for screen in history.screens),
        *((_round(material, decision.challenger), decision) for decision in history.decisions),
    ]
    events.sort(key=lambda pair: pair[0])
    images, base, found = 0, {material.seed.id: 0.0}, []
    for _, event in events:
        if isinstance(event, ScreenRecord):
            images += event.images
            found.append(_of_screen(event, images, base.get(event.reference, 0.0)))
        elif event.gain is not None:
            images += 2 * event.images
            start = base.get(event.incumbent, 0.0)
            found.append(_of_decision(event, images, start))
            if event.accepted:
                base[event.challenger] = start + event.gain
    claim = material.result.claim
    if claim is not None:
        images += 2 * len(material.result.pictures)
        low, high = claim.interval
        found.append(Mark(images, claim.gain, low, high, "claim", "claim, test split"))
    return found


def _round(material: Material, candidate: str) -> int:
    known = material.candidates.get(candidate)
    return known.round if known is not None else 0


def _of_screen(screen: ScreenRecord, images: int, start: float) -> Mark:
    gain, reach = start + screen.gain, _Z95 * screen.error
    label = f"search, candidate {screen.candidate}"
    return Mark(images, gain, gain - reach, gain + reach, "screen", label)


def _of_decision(decision: Decision, images: int, start: float) -> Mark:
    low, high = decision.interval
    gain = start + (decision.gain or 0.0)
    kind = "accepted" if decision.accepted else "rejected"
    label = f"challenge {decision.number}, candidate {decision.challenger}"
    return Mark(images, gain, start + low, start + high, kind, label)


class _Axes:
    """Maps images and gains to coordinates."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        low = min(0.0, *(max(mark.low, mark.gain - _REACH) for mark in marks))
        high = max(0.0, *(min(mark.high, mark.gain + _REACH) for mark in marks))
        self.step = next(s for s in _STEPS if (high - low) / s <= 6 or s == _STEPS[-1])
        self.low = self.step * (low // self.step)
        self.high = self.step * -(-high // self.step) or self.step
        self._most = max(mark.images for mark in marks) or 1

    def x(self, images: float) -> float:
        return _LEFT + 12 + (_WIDTH - _LEFT - _RIGHT - 24) * images / self._most

    def y(self, gain: float) -> float:
        clipped = min(max(gain, self.low), self.high)
        share = (clipped - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def grid(self) -> list[Markup]:
        """Grid lines and labels."""
        out = []
        for number in range(round((self.high - self.low) / self.step) + 1):
            gain = self.low + number * self.step
            y = self.y(gain)
            zero = abs(gain) < self.step / 100
            out += [
                el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y,
                   class_="zero" if zero else "gridline"),
                el("text", wording.points(gain).replace(".0", "") if not zero else "0",
                   x=_LEFT - 10, y=y + 4, class_="axis end"),
            ]  # fmt: skip
        floor = _HEIGHT - _BOTTOM + 18
        tick = next(t for t in _TICKS if self._most / t <= 8 or t == _TICKS[-1])
        for images in range(0, self._most + 1, tick):
            out.append(el("text", f"{images:,}", x=self.x(images), y=floor, class_="axis middle"))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        label = "images of these comparisons"
        out.append(el("text", label, x=middle, y=floor + 20, class_="axis middle"))
        return out


_REACH = 0.6
"""Intervals that extend further than this from the gain are clipped."""

_TICKS = tuple(digit * 10**power for power in range(1, 7) for digit in (1, 2, 5))
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def _steps(marks: Sequence[Mark], axes: _Axes) -> Markup | None:
    """The gain of the incumbent, which changes when a challenger is accepted."""
    accepted = [mark for mark in marks if mark.kind == "accepted"]
    if not accepted:
        return None
    path = f"M{axes.x(0):.1f} {axes.y(0):.1f}"
    for mark in accepted:
        path += f" H{axes.x(mark.images):.1f} V{axes.y(mark.gain):.1f}"
    path += f" H{axes.x(marks[-1].images):.1f}"
    return el("path", d=path, class_="incumbent")


def _drawn(mark: Mark, axes: _Axes) -> Markup:
    colour = _KINDS[mark.kind][0]
    x, low, high, y = axes.x(mark.images), axes.y(mark.low), axes.y(mark.high), axes.y(mark.gain)
    title = f"{mark.label}: {wording.points(mark.gain)} ({wording.interval((mark.low, mark.high))})"
    radius = 7.0 if mark.kind == "claim" else 5.5
    return el(
        "g",
        el("title", title),
        el("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker {mark.kind}"),
        el("circle", cx=x, cy=y, r=radius, class_=colour),
    )
