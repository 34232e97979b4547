"""Predicting what a budget will buy, before anything is paid for."""

from __future__ import annotations

from math import inf

from pydantic import Field

from lens_prompt_opt.budget import Budget
from lens_reasoner.types import Value


class UnitPrices(Value):
    """Price of one call of each part, and time per image; 0 where unknown.

    Attributes:
        rewrite: Dollars per rewrite.
        generate: Dollars per image.
        judge: Dollars per judgement.
        seconds: Wall-clock seconds per image, including rewriting and judging.
    """

    rewrite: float = Field(default=0.0, ge=0)
    generate: float = Field(default=0.0, ge=0)
    judge: float = Field(default=0.0, ge=0)
    seconds: float = Field(default=0.0, ge=0)

    @property
    def cell(self) -> float:
        """US dollars for one rewrite, image and judgement."""
        return self.rewrite + self.generate + self.judge


class StudyPlan(Value):
    """Images of the parts of a study whose size is known in advance.

    Attributes:
        test: For the final claim.
        challenge: At most, for one challenge.
        calibration: For the variance ledger.
    """

    test: int
    challenge: int
    calibration: int


class StudyEstimate(Value):
    """What a study is expected to consume.

    Attributes:
        images: Images that fit the tightest limit.
        limited_by: Name of that limit.
        plan: Images of the fixed parts.
        search: Images left for the search.
        usd: US dollars, without the proposer; None without prices.
        seconds: Wall-clock seconds; None if the time per image is unknown.
        enough: Whether the fixed parts and at least one challenge's worth of search fit.
    """

    images: int
    limited_by: str
    plan: StudyPlan
    search: int
    usd: float | None
    seconds: float | None
    enough: bool

    def __str__(self) -> str:
        """The estimate in a few lines."""
        lines = [
            f"{self.images} images (limited by {self.limited_by}): {self.plan.test} for the "
            f"final claim, up to {self.plan.challenge} for a challenge, {self.plan.calibration} "
            f"to measure the variance, {self.search} for the search."
        ]
        if self.usd is not None:
            lines.append(f"About {self.usd:.2f} dollars, plus the proposer.")
        if self.seconds is not None:
            lines.append(f"About {self.seconds / 60:.0f} minutes.")
        if not self.enough:
            lines.append("That is too little: raise the budget or use fewer requests.")
        return "\n".join(lines)


def estimate(budget: Budget, prices: UnitPrices, plan: StudyPlan) -> StudyEstimate:
    """How many images the tightest limit allows, and what they cost."""
    limits = {
        "images": budget.images if budget.images is not None else inf,
        "calls": budget.calls // 3 if budget.calls is not None else inf,
        "usd": budget.usd / prices.cell if budget.usd and prices.cell else inf,
        "seconds": budget.seconds / prices.seconds if budget.seconds and prices.seconds else inf,
    }
    name = min(limits, key=lambda limit: limits[limit])
    known = limits[name] < inf
    images = int(limits[name]) if known else 0
    search = max(images - plan.test - plan.challenge - plan.calibration, 0)
    return StudyEstimate(
        images=images,
        limited_by=name if known else "unknown prices",
        plan=plan,
        search=search,
        usd=images * prices.cell if prices.cell else None,
        seconds=images * prices.seconds if prices.seconds else None,
        enough=not known or search >= plan.challenge,
    )
