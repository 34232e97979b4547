"""Components of variance and effects of edits are found where they were put."""

import random
from itertools import combinations

import pytest

from lens_prompt_opt.statistics.screening import (
    EffectPrior,
    PairScore,
    edit_effects,
    sign_rows,
)
from lens_prompt_opt.statistics.variance import Observation, SamplingPlan, variance_ledger

PRICES = {"rewrite": 0.002, "generate": 0.01, "judge": 0.001}


def _nested_scores(deviations: dict[str, float], requests: int) -> list[Observation]:
    rng = random.Random(5)
    found = []
    for request in range(requests):
        base = 0.5 + rng.gauss(0, deviations["request"])
        for draw in range(2):
            rewrite = base + rng.gauss(0, deviations["rewriter"])
            for seed in range(2):
                picture = rewrite + rng.gauss(0, deviations["seed"])
                for vote in range(2 if seed == 0 else 1):
                    score = picture + rng.gauss(0, deviations["judge"])
                    found.append(Observation(str(request), draw, seed, vote, score))
    return found


def test_components_of_variance_are_recovered() -> None:
    put = {"request": 0.2, "rewriter": 0.1, "seed": 0.15, "judge": 0.05}
    ledger = variance_ledger(_nested_scores(put, 3000), SamplingPlan(requests=50), PRICES)
    for source, deviation in put.items():
        assert ledger.components[source] == pytest.approx(deviation**2, rel=0.15)
    assert sum(ledger.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("loud", "best"),
    [("request", "a tenth more requests"), ("judge", "one more judgement of each image")],
)
def test_what_to_buy_next_follows_the_loudest_source(loud: str, best: str) -> None:
    deviations = dict.fromkeys(("request", "rewriter", "seed", "judge"), 0.01) | {loud: 0.3}
    ledger = variance_ledger(_nested_scores(deviations, 400), SamplingPlan(requests=50), PRICES)
    assert ledger.purchases[0].what == best


def test_purchases_promise_what_the_plan_keeps() -> None:
    ledger = variance_ledger(
        _nested_scores({"request": 0.1, "rewriter": 0.1, "seed": 0.1, "judge": 0.1}, 200),
        SamplingPlan(requests=50),
        PRICES,
    )
    bought = next(p for p in ledger.purchases if p.what == "one more image of each rewrite")
    more = SamplingPlan(requests=50, pictures=2)
    now = ledger.plan.variance(ledger.components)
    assert 1 - more.variance(ledger.components) / now == pytest.approx(bought.variance_cut)
    assert bought.extra_cost == pytest.approx(50 * 0.011)


@pytest.mark.parametrize("factors", [1, 3, 7, 8, 12])
def test_no_two_edits_go_together_in_the_design(factors: int) -> None:
    rows = sign_rows(factors)
    assert all(sum(column) == 0 for column in zip(*rows, strict=True))
    for i, j in combinations(range(factors), 2):
        assert sum(row[i] * row[j] for row in rows) == 0


def _pairs(effects: list[dict[str, float]], count: int, noise: float) -> list[PairScore]:
    rng = random.Random(9)
    kinds = ("count", "color", "text")
    rows = sign_rows(len(effects))
    pairs = []
    for i in range(count):
        signs = rows[i % len(rows)]
        differences = {
            kind: sum(s * e.get(kind, 0.0) for s, e in zip(signs, effects, strict=True))
            + rng.gauss(0, noise)
            for kind in kinds
        }
        pairs.append(PairScore(signs, differences, dict.fromkeys(kinds, 1 / 3)))
    return pairs


def test_effects_of_edits_screened_together_are_told_apart() -> None:
    effects = [{"count": 0.15}, {"color": -0.15}, {}, {"text": 0.1, "count": 0.02}]
    aims = [("count",), ("color",), ("text",), ("text",)]
    found = edit_effects(_pairs(effects, 800, 0.5), aims, EffectPrior())
    for effect, put in zip(found, effects, strict=True):
        assert effect.gain == pytest.approx(sum(put.values()) / 3, abs=3 * effect.error + 0.005)
    assert found[0].aimed_gain == pytest.approx(0.15, abs=0.06)
    assert found[1].aimed_gain + 2 * found[1].aimed_error < 0


def test_an_aim_lets_an_effect_be_seen_through_the_noise_of_other_criteria() -> None:
    effects: list[dict[str, float]] = [{"count": 0.15}, {}]
    pairs = _pairs(effects, 60, 0.5)
    aimed = edit_effects(pairs, [("count",), ("color",)], EffectPrior())
    aimless = edit_effects(pairs, [(), ()], EffectPrior())
    assert aimed[0].gain / aimed[0].error > aimless[0].gain / aimless[0].error


def test_without_data_nothing_is_known_but_the_prior() -> None:
    [effect] = edit_effects([], [("count",)], EffectPrior())
    assert effect.gain == 0
