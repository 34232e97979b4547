"""The table of an ablation: means and intervals over seeds."""

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from scipy.stats import t as student

from lens_core.nano.evaluation import wilson_interval
from lens_core.training.ablation.scoring import CellScore

Interval = tuple[float, float]


class VariantResult(BaseModel):
    """The cells of one variant.

    Attributes:
        name: The variant.
        cells: Scores by seed.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    cells: dict[int, CellScore]

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return sum(cell.score for cell in self.cells.values()) / len(self.cells)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean score over seeds (Student's t); None for a single seed."""
        return seed_interval([cell.score for cell in self.cells.values()])

    @property
    def strict(self) -> tuple[float, Interval] | None:
        """Share of all pictures that are right, with its Wilson interval; seeds are pooled."""
        shares = [(cell.strict, cell.pictures) for cell in self.cells.values()]
        total = sum(count for _, count in shares)
        right = 0
        for share, count in shares:
            if share is None:
                return None
            right += round(share * count)
        return right / total, wilson_interval(right, total)


class AblationReport(BaseModel):
    """A finished ablation.

    Attributes:
        study: Its name.
        question: What it answers.
        steps: Optimiser steps of every cell.
        variants: Their results.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    question: str
    steps: int
    variants: tuple[VariantResult, ...]

    def to_markdown(self) -> str:
        """The table."""
        lines = [
            f"{self.question} ({self.steps} steps)",
            "",
            "| variant | seeds | score | 95 % interval over seeds | all right | 95 % interval |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for variant in self.variants:
            strict = variant.strict
            cells = [
                variant.name,
                str(len(variant.cells)),
                f"{variant.mean:.3f}",
                _range(variant.interval),
                "" if strict is None else f"{strict[0]:.3f}",
                "" if strict is None else _range(strict[1]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The numbers, with the intervals."""
        rows: list[Mapping[str, object]] = [
            {
                "name": variant.name,
                "mean": variant.mean,
                "interval_95": variant.interval,
                "strict": variant.strict,
                "cells": {seed: cell.model_dump() for seed, cell in variant.cells.items()},
            }
            for variant in self.variants
        ]
        return {"study": self.study, "steps": self.steps, "variants": rows}


def seed_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of a few independent values; None for a single one."""
    count = len(values)
    if count < 2:
        return None
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    spread = float(student.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean - spread, mean + spread


def _range(interval: Interval | None) -> str:
    return "one seed" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
