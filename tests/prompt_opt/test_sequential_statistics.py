"""Error rates of the tests and coverage of the intervals, exactly where that can be had."""

import random
from collections import defaultdict
from collections.abc import Callable
from math import comb, exp
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_prompt_opt.statistics import sequential
from lens_prompt_opt.statistics.betting import BettingEvidence, betting_interval
from lens_prompt_opt.statistics.intervals import BettingInterval, ClusterBootstrap
from lens_prompt_opt.statistics.multiplicity import EqualShares, OnlineFallback, Tried
from lens_prompt_opt.statistics.sequential import BettingTest, SpendingTest
from lens_prompt_opt.statistics.spending import look


def _chance_to_reach(threshold: float, outcomes: dict[float, float], steps: int) -> float:
    """Exact chance that the capital ever reaches a threshold, over all paths of few outcomes."""
    paths = {(): 1.0}
    reached = 0.0
    for _ in range(steps):
        grown: dict[tuple[float, ...], float] = defaultdict(float)
        for path, chance in paths.items():
            for value, share in outcomes.items():
                longer = tuple(sorted((*path, value)))
                evidence = BettingEvidence(0.0, lowest=-1.0)
                evidence.update(longer)
                if exp(evidence.log_capital) >= threshold:
                    reached += chance * share
                else:
                    grown[longer] += chance * share
        paths = grown
    return reached


@pytest.mark.parametrize(
    "outcomes",
    [
        {-1.0: 0.5, 1.0: 0.5},
        {-1.0: 0.1, 1.0 / 9: 0.9},
        {-0.2: 0.5, 0.2: 0.5},
        {-0.5: 0.2, 0.0: 0.6, 0.5: 0.2},
    ],
)
def test_nobody_grows_rich_without_a_gain(outcomes: dict[float, float]) -> None:
    assert sum(value * chance for value, chance in outcomes.items()) == pytest.approx(0)
    for alpha in (0.3, 0.1):
        assert _chance_to_reach(1 / alpha, outcomes, 14) <= alpha


@given(
    st.lists(st.floats(-1, 1), max_size=12),
    st.floats(0, 0.9),
    st.none() | st.floats(0, 5),
)
def test_capital_is_a_fair_game_at_every_point(
    past: list[float], null_mean: float, hint: float | None
) -> None:
    evidence = BettingEvidence(null_mean, lowest=-1.0, hint=hint)
    evidence.update(past)
    before = evidence.log_capital
    # The two-point distribution on the bounds with the null mean, one step ahead.
    up = (null_mean + 1) / 2
    after = 0.0
    for value, chance in ((1.0, up), (-1.0, 1 - up)):
        step = BettingEvidence(null_mean, lowest=-1.0, hint=hint)
        step.update([*past, value])
        after += chance * exp(step.log_capital - before)
    assert after == pytest.approx(1.0, rel=1e-9)


def test_a_gain_is_found() -> None:
    rng = random.Random(1)
    found = 0
    for _ in range(50):
        test = BettingTest().start(level=0.05, min_gain=0.0, horizon=120)
        for _ in range(15):
            test.update([max(-1.0, min(1.0, rng.gauss(0.12, 0.25))) for _ in range(8)])
            if test.finding != "undecided":
                break
        found += test.finding == "better"
    assert found >= 45


def test_boundaries_are_those_in_the_literature() -> None:
    # Lan and DeMets' O'Brien-Fleming-type boundaries, one-sided 2.5 %, five equal looks.
    times = tuple(k / 5 for k in range(1, 6))
    found = [look(0.025, times[:k]).score for k in range(1, 6)]
    assert found == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=0.01)


def _null_differences(rng: random.Random) -> list[float]:
    """Differences as studies see them: multiples of a sixth, most of them 0, mean 0."""
    return [rng.choice((-2, -1, -1, 0, 0, 0, 0, 1, 1, 2)) / 6 for _ in range(8)]


def _skewed_differences(rng: random.Random) -> list[float]:
    return [0.1 if rng.random() < 0.8 else -0.4 for _ in range(8)]


def _rare_losses(rng: random.Random) -> list[float]:
    """A challenger that gains a little and fails badly on one request in twenty."""
    return [1 / 19 if rng.random() < 0.95 else -1.0 for _ in range(8)]


@pytest.mark.parametrize(
    ("method", "draw"),
    [
        (BettingTest(), _null_differences),
        (BettingTest(), _skewed_differences),
        (BettingTest(), _rare_losses),
        (SpendingTest(), _null_differences),
    ],
)
def test_looking_after_every_block_keeps_the_level(
    method: sequential.TestMethod, draw: Callable[[random.Random], list[float]]
) -> None:
    rng = random.Random(7)
    runs, wrong = 500, 0
    for _ in range(runs):
        test = method.start(level=0.05, min_gain=0.0, horizon=56)
        while test.finding == "undecided":
            test.update(draw(rng))
        wrong += test.finding == "better"
    # Three standard errors above 5 %.
    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("method", [BettingTest(), SpendingTest()], ids=lambda method: method.name)
def test_tests_stop_early_for_worse_and_for_no_difference(method: sequential.TestMethod) -> None:
    rng = random.Random(3)
    ends = {}
    for gain in (-0.25, 0.0):
        test = method.start(level=0.02, min_gain=0.0, horizon=400)
        blocks = 0
        while test.finding == "undecided":
            test.update([rng.gauss(gain, 0.2) for _ in range(8)])
            blocks += 1
        ends[gain] = (test.finding, blocks)
    assert ends[-0.25][0] in {"worse", "no_difference"}
    assert ends[0.0][0] in {"worse", "no_difference"}
    assert ends[-0.25][1] < 50


def test_gains_below_the_minimum_are_not_better() -> None:
    rng = random.Random(5)
    better = 0
    for _ in range(100):
        test = SpendingTest().start(level=0.05, min_gain=0.1, horizon=96)
        while test.finding == "undecided":
            test.update([rng.gauss(0.08, 0.2) for _ in range(8)])
        better += test.finding == "better"
    assert better <= 8


@given(st.floats(0.001, 0.5), st.lists(st.booleans(), max_size=30))
def test_levels_of_useless_challengers_never_sum_to_more_than_alpha(
    alpha: float, useful: list[bool]
) -> None:
    # Whatever the true gains, as long as every useful one is accepted and no other is.
    tried: list[Tried] = []
    spent = 0.0
    for good in useful:
        level = OnlineFallback().next_level(alpha, tried)
        tried.append(Tried(level, accepted=good))
        spent += 0.0 if good else level
    assert spent <= alpha * (1 + 1e-9)


def test_equal_shares_run_out() -> None:
    tried: list[Tried] = []
    for _ in range(5):
        tried.append(Tried(EqualShares(5).next_level(0.05, tried), accepted=False))
    assert sum(t.level for t in tried) == pytest.approx(0.05)
    assert EqualShares(5).next_level(0.05, tried) < 1e-9


def test_betting_intervals_cover_and_shrink() -> None:
    rng = random.Random(11)
    covered, widths = 0, {}
    for _ in range(100):
        values = [rng.choice((-0.4, 0.0, 0.1, 0.5)) for _ in range(40)]
        low, high = betting_interval(values, confidence=0.9, lowest=-1.0, highest=1.0)
        covered += low <= 0.05 <= high
        assert -1 <= low <= fmean(values) <= high <= 1
    assert covered >= 90
    for count in (20, 200):
        values = [rng.gauss(0.1, 0.1) for _ in range(count)]
        low, high = BettingInterval().interval(values, 0.95)
        widths[count] = high - low
    assert widths[200] < widths[20] / 2


def test_bootstrap_intervals_cover_about_as_often_as_they_say() -> None:
    rng = random.Random(13)
    method = ClusterBootstrap(resamples=400)
    covered = 0
    for _ in range(300):
        values = [rng.expovariate(4.0) - 0.15 for _ in range(25)]
        low, high = method.interval(values, 0.9)
        covered += low <= 0.25 - 0.15 <= high
    assert 0.85 <= covered / 300 <= 0.96


@pytest.mark.parametrize("count", [10, 25, 44])
def test_bootstrap_intervals_cover_gains_of_few_requests(count: int) -> None:
    method = ClusterBootstrap(resamples=1000)
    bounds = [method.interval([0.6] * k + [0.0] * (count - k), 0.95) for k in range(count + 1)]
    assert all(low < 0.6 * k / count < high for k, (low, high) in enumerate(bounds))
    for percent in range(2, 100, 4):
        p = percent / 100
        covered = sum(
            comb(count, k) * p**k * (1 - p) ** (count - k)
            for k, (low, high) in enumerate(bounds)
            if low <= 0.6 * p <= high
        )
        assert covered > 0.92, p


def test_intervals_of_next_to_nothing_say_next_to_nothing() -> None:
    for method in (BettingInterval(), ClusterBootstrap()):
        assert method.interval([], 0.95) == (-1.0, 1.0)
    for values in ([0.1, 0.1, 0.1], [0.25, 0.25, 0.25]):
        low, high = ClusterBootstrap().interval(values, 0.95)
        assert low < -0.5
        assert high > 0.5, "three equal values say little"
