"""The load test's cases, a little of each, against a server in this process."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from loopback_lens import Start

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import server_load

    return server_load


@pytest.mark.parametrize("name", ["batches", "crowd", "leavers", "memory"])
def test_cases_hold(bench: Any, start: Start, tmp_path: Path, name: str) -> None:
    from load_server import Server

    running = start(tmp_path / "state")
    load = bench.Load(Server(running.url, tmp_path / "state", os.getpid()), bench.QUICK)
    report = asyncio.run(bench.CASES[name](load))
    assert all(report.checks.values()), (report.checks, report.notes, report.figures)


def test_mixed_up_pictures_are_noticed(bench: Any) -> None:
    from load_client import Wanted, mistakes

    one, other = Wanted(1), Wanted(2)
    told = [{"seed": other.seed, "prompt": other.prompt}]
    assert mistakes(other, told, []) == []
    assert len(mistakes(one, told, [])) == 1
    assert mistakes(one, [], []) == ["0 pictures instead of 1"]
