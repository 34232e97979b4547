"""The result of comparing a judge with people, as values, JSON and markdown."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

from pydantic import Field

from lens_reasoner.errors import CalibrationError
from lens_reasoner.types import Probability, Value

Z95 = 1.959963984540054
"""Standard normal quantile for two-sided 95 % intervals."""


class Rate(Value):
    """A share with its 95 % Wilson interval; both are None if nothing was counted.

    Attributes:
        hits: Number of hits.
        total: Number of trials.
    """

    hits: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def value(self) -> float | None:
        """The share."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of Wilson's score interval."""
        if not self.total:
            return None
        n, share = self.total, self.hits / self.total
        centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
        # Rounding must not push an end past the share itself.
        return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))

    def __str__(self) -> str:
        """Such as "0.90 [0.70, 0.97] (18/20)"."""
        if self.value is None or self.interval is None:
            return "-"
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}] ({self.hits}/{self.total})"


class Agreement(Value):
    """How a judge's answers compare with human labels for one group of criteria.

    Attributes:
        group: "all", a kind, or a criterion.
        true_yes: Label yes, judge yes.
        false_no: Label yes, judge no.
        true_no: Label no, judge no.
        false_yes: Label no, judge yes.
        undecided: Label yes or no, judge could not tell.
    """

    group: str
    true_yes: int = 0
    false_no: int = 0
    true_no: int = 0
    false_yes: int = 0
    undecided: int = 0

    @property
    def labels(self) -> int:
        """Number of labels in the group, including undecided ones."""
        return self.answered.total + self.undecided

    @property
    def answered(self) -> Rate:
        """Agreement among the criteria that the judge decided."""
        right = self.true_yes + self.true_no
        return Rate(hits=right, total=right + self.false_no + self.false_yes)

    @property
    def true_positive_rate(self) -> Rate:
        """Share of yes labels that the judge answered with yes."""
        return Rate(hits=self.true_yes, total=self.true_yes + self.false_no)

    @property
    def true_negative_rate(self) -> Rate:
        """Share of no labels that the judge answered with no."""
        return Rate(hits=self.true_no, total=self.true_no + self.false_yes)

    def corrected_rate(self, share: float) -> float | None:
        """Estimate people's share of yes where the judge's is `share` (Rogan and Gladen, 1978).

        None if the judge's answers carry no information about people's.
        """
        yes, no = self.true_positive_rate.value, self.true_negative_rate.value
        if yes is None or no is None or yes + no <= 1:
            return None
        return min(1.0, max(0.0, (share + no - 1) / (yes + no - 1)))


class TrustRule(Value):
    """When a group of criteria is distrusted.

    Attributes:
        min_labels: A group with fewer labels is not rated; for rates, this many of each of yes and
            no.
        min_agreement: Distrusted if even the upper end of the agreement's interval is lower.
        min_rates: Distrusted if the true-yes rate plus the true-no rate is lower; 1 is guessing.
        max_undecided: Distrusted if a larger share is undecided.
    """

    min_labels: int = Field(default=10, ge=1)
    min_agreement: Probability = 0.8
    min_rates: float = Field(default=1.4, ge=1, le=2)
    max_undecided: Probability = 0.5

    def reasons(self, group: Agreement) -> tuple[str, ...]:
        """Why a group is distrusted; empty if it is not, or if there are too few labels."""
        found = []
        yes, no = group.true_positive_rate, group.true_negative_rate
        enough = min(yes.total, no.total) >= self.min_labels
        if enough and yes.hits / yes.total + no.hits / no.total < self.min_rates:
            found.append(
                f"true yes {yes.hits / yes.total:.2f} + true no {no.hits / no.total:.2f} "
                f"< {self.min_rates}"
            )
        interval = group.answered.interval
        if (
            group.answered.total >= self.min_labels
            and interval
            and interval[1] < self.min_agreement
        ):
            found.append(f"agreement at most {interval[1]:.2f} < {self.min_agreement}")
        if group.labels >= self.min_labels and group.undecided > self.max_undecided * group.labels:
            found.append(f"undecided {group.undecided} of {group.labels}")
        return tuple(found)

    def __str__(self) -> str:
        """The rule as a sentence."""
        return (
            f"Distrusted (with at least {self.min_labels} labels): agreement whose 95 % interval "
            f"ends below {self.min_agreement}; true-yes and true-no rates that add up to less than "
            f"{self.min_rates} (at least {self.min_labels} labels of each); more than "
            f"{self.max_undecided:.0%} undecided."
        )


class Distrusted(Value):
    """A kind of criteria, or one criterion, whose verdicts should not be trusted, and why."""

    group: str
    reasons: tuple[str, ...]


class CalibrationReport(Value):
    """How far a judge agrees with people.

    Attributes:
        judges: Names of the judges whose verdicts were compared.
        overall: All criteria together.
        kinds: By kind of criterion.
        criteria: By criterion, across all images; each group is named "REQUEST: NAME".
        rule: When a group is distrusted.
        distrusted: The groups that the rule distrusts.
        unmatched: Labels without a verdict on their image and criterion.
        unclear: Pairs of image and criterion for which people could not tell, or were evenly split.
    """

    judges: tuple[str, ...]
    overall: Agreement
    kinds: tuple[Agreement, ...]
    criteria: tuple[Agreement, ...]
    rule: TrustRule
    distrusted: tuple[Distrusted, ...]
    unmatched: int
    unclear: int

    def markdown(self) -> str:
        """The report as a short markdown page."""
        judges = ", ".join(self.judges) or "no judge"
        lines = [
            f"# Calibration of {judges}",
            "",
            f"{self.overall.labels} labels compared. Left out: {self.unclear} unclear and "
            f"{self.unmatched} without a verdict. Intervals: 95 %, Wilson, "
            "treating labels of one image as independent.",
            "",
            "| criteria | agreement | true yes | true no | undecided |",
            "|---|---|---|---|---|",
            *(_row(group) for group in (self.overall, *self.kinds)),
            "",
            str(self.rule),
            "",
        ]
        if self.distrusted:
            lines += [f"- {_cell(d.group)}: {'; '.join(d.reasons)}" for d in self.distrusted]
        else:
            lines.append("Nothing is distrusted.")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the report as markdown (.md) or JSON (.json); missing folders are created.

        Raises:
            CalibrationError: The path has another suffix.
        """
        target = Path(path)
        if target.suffix not in {".md", ".json"}:
            raise CalibrationError(
                f"{target} ends in neither .md nor .json.", hint="Choose one of them."
            )
        text = self.markdown() if target.suffix == ".md" else self.model_dump_json(indent=2) + "\n"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target


def _row(group: Agreement) -> str:
    rates = (group.answered, group.true_positive_rate, group.true_negative_rate)
    cells = [_cell(group.group), *map(str, rates), f"{group.undecided}/{group.labels}"]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
