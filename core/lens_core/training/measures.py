"""Means of what is measured within a step, over samples and workers."""

from dataclasses import dataclass, field

from torch import Tensor

from lens_core.training.workers import Workers


@dataclass
class Measures:
    """Running means of named values."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """Count values `[B]`, or a single one."""
        for name, value in values.items():
            flat = value.detach().double().reshape(-1)
            self.sums[name] = self.sums.get(name, 0.0) + float(flat.sum())
            self.counts[name] = self.counts.get(name, 0) + len(flat)

    def means(self, workers: Workers) -> dict[str, float]:
        """Means over everything that any worker counted."""
        parts = workers.gather((self.sums, self.counts))
        names = sorted({name for sums, _ in parts for name in sums})
        return {
            name: sum(sums.get(name, 0.0) for sums, _ in parts)
            / sum(counts.get(name, 0) for _, counts in parts)
            for name in names
        }
