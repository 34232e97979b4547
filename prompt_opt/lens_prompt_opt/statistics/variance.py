"""Where the variance of scores comes from, and what would reduce it most for its price."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple, TypeVar

from pydantic import Field

from lens_reasoner.types import Value

Source = Literal["request", "rewriter", "seed", "judge"]
K = TypeVar("K")
SOURCES: tuple[Source, ...] = ("request", "rewriter", "seed", "judge")


class Observation(NamedTuple):
    """A score with what it was measured under; each field is nested in those before it."""

    request: str
    draw: int
    seed: int
    vote: int
    score: float


class SamplingPlan(Value):
    """Sample sizes for one evaluation of a prompt.

    Attributes:
        requests: Number of requests.
        rewrites: Rewrites per request.
        pictures: Images per rewrite.
        votes: Judgements per image.
    """

    requests: int = Field(ge=1)
    rewrites: int = Field(default=1, ge=1)
    pictures: int = Field(default=1, ge=1)
    votes: int = Field(default=1, ge=1)

    def cost(self, prices: Mapping[str, float]) -> float:
        """Price of the whole plan, given prices per "rewrite", "generate" and "judge"."""
        picture = prices["generate"] + self.votes * prices["judge"]
        return self.requests * self.rewrites * (prices["rewrite"] + self.pictures * picture)

    def variance(self, components: Mapping[Source, float]) -> float:
        """Variance of the mean score under this plan."""
        total, count = 0.0, 1
        sizes = (self.requests, self.rewrites, self.pictures, self.votes)
        for source, size in zip(SOURCES, sizes, strict=True):
            count *= size
            total += components[source] / count
        return total


class Purchase(Value):
    """One way to spend more.

    Attributes:
        what: What to buy.
        extra_cost: Additional cost per evaluation, in the unit of the prices.
        variance_cut: Share of the variance of a mean score that it removes.
        worth: Relative reduction of the variance per relative increase of the cost; above 1 it
            beats increasing everything in proportion.
    """

    what: str
    extra_cost: float
    variance_cut: float
    worth: float


class VarianceLedger(Value):
    """Components of the variance of a score, from a nested first block.

    Attributes:
        components: Variance between requests; between rewrites of a request; between images of
            a rewrite; between judgements of an image.
        mean: Mean score.
        observations: Number of scores used.
        plan: The plan that `purchases` extend.
        purchases: What to buy next, the most worthwhile first; empty without prices.
    """

    components: dict[Source, float]
    mean: float
    observations: int
    plan: SamplingPlan
    purchases: tuple[Purchase, ...] = ()

    @property
    def shares(self) -> dict[Source, float]:
        """Each component's share of the variance of one score."""
        total = sum(self.components.values()) or 1.0
        return {source: value / total for source, value in self.components.items()}


def variance_ledger(
    observations: Sequence[Observation], plan: SamplingPlan, prices: Mapping[str, float]
) -> VarianceLedger:
    """Split the variance by the method of moments; negative components become zero."""
    components = _components(observations)
    return VarianceLedger(
        components=components,
        mean=fmean(o.score for o in observations) if observations else 0.0,
        observations=len(observations),
        plan=plan,
        purchases=_purchases(components, plan, prices) if any(prices.values()) else (),
    )


def _components(observations: Sequence[Observation]) -> dict[Source, float]:
    """Nested analysis of variance, from the innermost level outwards."""
    by_picture = _grouped(((o.request, o.draw, o.seed), o.score) for o in observations)
    judge, votes = _within(by_picture), _harmonic(by_picture)
    by_rewrite = _grouped((key[:2], fmean(scores)) for key, scores in by_picture.items())
    seed = max(_within(by_rewrite) - judge / votes, 0.0)
    rewrites = [(request, fmean(means)) for (request, _), means in by_rewrite.items()]
    by_request = _grouped(rewrites)
    inner = (seed + judge / votes) / _harmonic(by_rewrite)
    rewriter = max(_within(by_request) - inner, 0.0)
    means = [fmean(values) for values in by_request.values()]
    outer = (rewriter + inner) / _harmonic(by_request) if by_request else 0.0
    request = max(variance(means) - outer, 0.0) if len(means) > 1 else 0.0
    return {"request": request, "rewriter": rewriter, "seed": seed, "judge": judge}


def _grouped(pairs: Iterable[tuple[K, float]]) -> dict[K, list[float]]:
    groups: dict[K, list[float]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _within(groups: Mapping[K, list[float]]) -> float:
    spreads = [variance(values) for values in groups.values() if len(values) > 1]
    return fmean(spreads) if spreads else 0.0


def _harmonic(groups: Mapping[K, list[float]]) -> float:
    return len(groups) / sum(1 / len(values) for values in groups.values()) if groups else 1.0


def _purchases(
    components: Mapping[Source, float], plan: SamplingPlan, prices: Mapping[str, float]
) -> tuple[Purchase, ...]:
    now, cost = plan.variance(components), plan.cost(prices)
    if now <= 0 or cost <= 0:
        return ()
    names = {
        "requests": "a tenth more requests",
        "rewrites": "one more rewrite of each request",
        "pictures": "one more image of each rewrite",
        "votes": "one more judgement of each image",
    }
    options = []
    for field, name in names.items():
        value = getattr(plan, field)
        step = max(1, value // 10) if field == "requests" else 1
        more = plan.model_copy(update={field: value + step})
        extra, cut = more.cost(prices) - cost, 1 - more.variance(components) / now
        worth = (cut / (1 - cut)) / (extra / cost) if extra > 0 and cut < 1 else 0.0
        options.append(Purchase(what=name, extra_cost=extra, variance_cut=cut, worth=worth))
    return tuple(sorted(options, key=lambda option: -option.worth))
