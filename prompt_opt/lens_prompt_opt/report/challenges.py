"""The section about challenges: each decision with its evidence."""

from __future__ import annotations

from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.material import Material

_WIDTH, _HEIGHT = 340.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 14.0, 12.0, 22.0, 26.0


def challenges(material: Material) -> Markup:
    """The section about the gate."""
    decisions = material.result.history.decisions
    if not decisions:
        return el("p", "No candidate challenged the incumbent.", class_="soft")
    cards = [_card(decision, material) for decision in decisions]
    return join([_rule(material), el("div", *cards, class_="challenges")])


def _rule(material: Material) -> Markup | None:
    gate = material.gate
    if gate is None:
        return None
    return el(
        "p",
        "Challenger and incumbent face the same requests of the selection split with the same "
        f"image seeds, {gate.block_requests} requests at a time; the test is evaluated after each "
        f"block. A prompt that gains no more than {wording.points(gate.min_gain, sign=False)} "
        f"points is accepted with a probability of at most {gate.alpha:.0%} in the whole study.",
        class_="note",
    )


def _card(decision: Decision, material: Material) -> Markup:
    word, colour = wording.VERDICTS[decision.verdict]
    gain = "no gain measured"
    if decision.gain is not None:
        gain = f"{wording.points(decision.gain)} points ({wording.interval(decision.interval)})"
    incumbent = decision.incumbent
    against = "the seed prompt" if incumbent == material.seed.id else incumbent
    return el(
        "article",
        el(
            "h3",
            f"Challenge {decision.number} ",
            el("span", word, class_=f"chip {colour}"),
        ),
        el(
            "p",
            el("a", el("code", decision.challenger), href=f"#c-{decision.challenger}"),
            f" against {against}",
        ),
        _evidence(decision),
        el("p", el("b", gain)),
        el(
            "p",
            f"{wording.evidence(decision, betting=material.betting)}, at level "
            f"{decision.level:.4f}, after {wording.number(decision.requests, 'request')} and "
            f"{wording.number(decision.images, 'new image')}",
            class_="note",
        ),
        *(el("p", f"{g.guard}: {g.message}", class_="note warn") for g in decision.guards),
        class_="card",
    )


def _evidence(decision: Decision) -> Markup | None:
    """A chart of evidence against requests; a challenger is accepted where it reaches the line."""
    looks = decision.looks
    if not looks:
        return None
    top = max(1.15, *(look.evidence for look in looks)) * 1.05
    most = looks[-1].requests or 1

    def place(requests: int, evidence: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * requests / most
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * max(evidence, 0.0) / top

    points = [place(0, 0.0), *(place(look.requests, look.evidence) for look in looks)]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    target, floor = place(0, 1.0)[1], place(0, 0.0)[1]
    colour = wording.VERDICTS[decision.verdict][1]
    return el(
        "svg",
        el("title", "Evidence for the challenger, block by block"),
        el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, class_="gridline"),
        el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=target, y2=target, class_="target"),
        el("text", "evidence needed", x=_LEFT + 2, y=target - 6, class_="axis"),
        el("path", d=path, class_=f"evidence {colour}"),
        *(el("circle", cx=x, cy=y, r=3.2, class_=f"fill-{colour}") for x, y in points[1:]),
        el("text", "0", x=_LEFT, y=_HEIGHT - 8, class_="axis middle"),
        el(
            "text",
            wording.number(looks[-1].requests, "request"),
            x=_WIDTH - _RIGHT,
            y=_HEIGHT - 8,
            class_="axis end",
        ),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        class_="evidence-chart",
        role="img",
    )
