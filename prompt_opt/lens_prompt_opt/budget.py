"""Limits on everything a study pays for, and the ledger of what it paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from lens_prompt_opt.errors import UnknownCostError
from lens_reasoner.types import Usage, Value

Stage = Literal["rubric", "rewrite", "generate", "judge", "fidelity", "cluster", "propose"]
STAGES: tuple[Stage, ...] = get_args(Stage)

_CALLS_PER_CELL = 3


class BudgetExhaustedError(Exception):
    """The next block does not fit the budget; ends a strategy and never reaches the user."""


class Budget(Value):
    """Limits of a study; None means no limit.

    Attributes:
        usd: US dollars, over all stages.
        images: Images generated.
        seconds: Wall-clock seconds of work, without pauses between resumed runs.
        calls: Calls to any part.
    """

    usd: float | None = Field(default=None, gt=0)
    images: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    calls: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is self.images is self.seconds is self.calls is None:
            raise ValueError("a budget needs at least one of usd, images, seconds and calls")
        return self


@dataclass(slots=True)
class StageSpend:
    """What one stage has consumed so far.

    Attributes:
        calls: Calls with a result.
        images: Images generated.
        usd: US dollars, as far as known.
        seconds: Seconds inside calls, summed over concurrent ones.
        unpriced: Calls of unknown cost.
    """

    calls: int = 0
    images: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    unpriced: int = 0


class SpendRow(Value):
    """One row of the cost table; see `StageSpend`."""

    stage: str
    calls: int
    images: int
    usd: float
    seconds: float
    unpriced: int


class Ledger:
    """Tracks spending by stage and says whether more fits the budget.

    Spending is entered in the order of the study rather than the clock, so that a resumed run stops
    where an uninterrupted one does.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.stages: dict[Stage, StageSpend] = {stage: StageSpend() for stage in STAGES}
        self.wall_seconds = 0.0
        self.reserved_images = 0
        self._images = 0
        self._calls = 0

    def add(
        self,
        stage: Stage,
        usage: Usage,
        seconds: float,
        *,
        images: int = 0,
        failed: bool = False,
    ) -> None:
        """Enter one call.

        Args:
            stage: The call's stage.
            usage: What it consumed.
            seconds: How long it took.
            images: Images it generated.
            failed: Whether it failed. A failed call may be unpriced under any limits, because
                failures seldom state their cost.

        Raises:
            UnknownCostError: There is a dollar limit and the call's cost is unknown.
        """
        if usage.usd is None and self.budget.usd is not None and not failed:
            raise UnknownCostError(
                f"A call of stage {stage!r} does not state its cost, and the budget is "
                f"{self.budget.usd} dollars.",
                hint="Give the part a price list, or limit images, calls or seconds instead.",
            )
        self.add_plain(stage, usage.usd, seconds, images=images)

    def add_plain(
        self, stage: Stage, usd: float | None, seconds: float, *, images: int = 0
    ) -> None:
        """`add` without a `Usage`, for performance."""
        spent = self.stages[stage]
        spent.calls += 1
        spent.images += images
        spent.seconds += seconds
        self._calls += 1
        self._images += images
        if usd is None:
            spent.unpriced += 1
        else:
            spent.usd += usd

    @property
    def images(self) -> int:
        """Images generated so far."""
        return self._images

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self._calls

    @property
    def usd(self) -> float:
        """US dollars so far, as far as known."""
        return sum(spend.usd for spend in self.stages.values())

    def usd_per_cell(self) -> float:
        """US dollars per image, without proposals; 0 before the first image."""
        spent = self.usd - self.stages["propose"].usd
        return spent / self._images if self._images else 0.0

    def usd_per_proposal(self) -> float:
        """US dollars per call of the proposer; 0 before the first."""
        spent = self.stages["propose"]
        return spent.usd / spent.calls if spent.calls else 0.0

    def seconds_per_cell(self) -> float:
        """Wall-clock seconds per image so far; 0 before the first image."""
        return self.wall_seconds / self._images if self._images else 0.0

    def unit_prices(self, unit: Literal["usd", "seconds"]) -> Mapping[str, float]:
        """Mean price of one call, for each stage of a cell."""
        return {
            stage: getattr(self.stages[stage], unit) / max(self.stages[stage].calls, 1)
            for stage in ("rewrite", "generate", "judge")
        }

    def fits(self, cells: int, *, proposals: int = 0, reserve: bool = True) -> bool:
        """Whether a block of this many new cells and proposals stays within every limit.

        Numbers of images and of calls to reasoner, generator, judge and proposer are known
        beforehand and never exceed the limits. Writing a rubric, checking a rewrite and sorting
        failures take additional calls, by which one block can exceed the call limit. Dollars and
        seconds are estimated from the calls so far, so one block can exceed these limits by the
        estimate's error.
        """
        budget = self.budget
        held = self.reserved_images if reserve else 0
        everything = cells + held
        if budget.images is not None and self._images + everything > budget.images:
            return False
        if budget.calls is not None:
            calls = _CALLS_PER_CELL * everything + proposals
            if self._calls + calls > budget.calls:
                return False
        if budget.usd is not None:
            usd = everything * self.usd_per_cell() + proposals * self.usd_per_proposal()
            if self.usd + usd > budget.usd:
                return False
        if budget.seconds is None:
            return True
        return self.wall_seconds + everything * self.seconds_per_cell() <= budget.seconds

    def cells_left(self, *, most: int = 10**9) -> int:
        """How many new cells still fit beside what is reserved; at most `most`."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle) else (low, middle - 1)
        return low

    def table(self) -> tuple[SpendRow, ...]:
        """One row per stage with calls, and the total."""
        rows = [
            SpendRow(stage=stage, **asdict(spend))
            for stage, spend in self.stages.items()
            if spend.calls
        ]
        total = SpendRow(
            stage="total",
            calls=self._calls,
            images=self._images,
            usd=self.usd,
            seconds=self.wall_seconds,
            unpriced=sum(row.unpriced for row in rows),
        )
        return (*rows, total)
