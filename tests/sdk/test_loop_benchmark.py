"""The comparison of the loop with one shot: its statistics, and that it goes on where it was."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lens_sdk.errors import UnfinishedRunError
from lens_sdk.runtime import LensRuntime

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import loop_vs_oneshot

    return loop_vs_oneshot


def _row(index: int, seed: int, **correct: int) -> dict[str, Any]:
    way = {"images": 2, "seconds": 1.0}
    return {
        "index": index,
        "seed": seed,
        "task": "colors",
        "rounds": 2,
        "revisions": 1,
        "ways": {
            name: {**way, "correct": bool(correct.get(name, 0))}
            for name in ("plain", "one_shot", "best_of_k", "loop")
        },
    }


def test_differences_are_paired_and_resample_requests(benchmark: ModuleType) -> None:
    rows = [
        _row(i, s, loop=i < 6, one_shot=i < 3, best_of_k=i < 6) for i in range(8) for s in (0, 1)
    ]
    report = benchmark.summarise(rows)
    assert report["ways"]["loop"]["pass_rate"] == 0.75
    assert report["ways"]["plain"]["wilson_95"][0] == 0
    better = report["differences"]["loop - one_shot"]
    assert better["difference"] == pytest.approx(3 / 8)
    assert (better["only_first_right"], better["only_second_right"]) == (6, 0)
    low, high = better["bootstrap_95"]
    # Two seeds of eight requests are not sixteen requests.
    assert low <= 1 / 8
    assert high >= 5 / 8
    assert report["differences"]["loop - best_of_k"]["bootstrap_95"] == (0, 0)
    table = benchmark.to_markdown({**report, "settings": {"seeds": 2}})
    assert "| loop | 12 / 16 | 0.750 |" in table
    assert "| loop - one_shot | +0.375 |" in table


async def test_a_stopped_comparison_goes_on(
    benchmark: ModuleType, nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    settings = benchmark.Settings(requests=2, seeds=1, rounds=2, per_round=1, set_seed=1, steps=1)
    first = benchmark.Benchmark(nano_runtime, settings, tmp_path)
    assert [item["tag"] for item in first.items] == ["single_object", "two_object"]
    await first.run()
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2
    row = json.loads(lines[0])
    assert row["ways"]["best_of_k"]["images"] == row["ways"]["loop"]["images"] == 2
    assert row["ways"]["one_shot"]["images"] == 1
    assert row["ways"]["loop"]["seconds"] > row["ways"]["one_shot"]["seconds"]
    (tmp_path / "results.jsonl").write_text(lines[0] + lines[1][:20])
    second = benchmark.Benchmark(nano_runtime, settings, tmp_path)
    assert set(second.rows) == {(0, 0)}
    await second.run()
    again = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert again[0] == row
    assert again[1]["ways"]["loop"]["prompt"] == json.loads(lines[1])["ways"]["loop"]["prompt"]
    other = benchmark.Settings(requests=2, seeds=2, rounds=2, per_round=1, set_seed=1, steps=1)
    with pytest.raises(UnfinishedRunError, match="other settings"):
        benchmark.Benchmark(nano_runtime, other, tmp_path)
