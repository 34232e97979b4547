"""Killed at any call and started again, a study ends as if nothing had happened."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import Budget, RunDirectoryError, StudyInterruptedError, StudyMismatchError
from lens_prompt_opt.journal import DiskJournal
from lens_prompt_opt.report import report_run
from lens_prompt_opt.run_directory import RunDirectory
from lens_prompt_opt.simulation.parts import SimulatedJudge
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner import ChatError, GeneratedImage, JudgeError, Rubric, Verdict
from prompt_opt.simulated_study import BUDGET, WORLD, PaidCalls, run, study

CONCURRENCY = 8
PAID = ("rewrite:", "generate:", "judge:")


def _untimed(value: Any) -> Any:
    """A result without the times, which are never the same twice."""
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if k != "seconds"}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def _result(folder: Path) -> Any:
    return _untimed(json.loads((folder / "run" / "result.json").read_text()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder / "run", PaidCalls(folder, None))
    return folder


def _paid(folder: Path) -> Counter[str]:
    return Counter((folder / "paid.txt").read_text().splitlines())


def _keys(folder: Path) -> list[str]:
    """Keys of what is kept; a last line cut short counts for nothing."""
    lines = (folder / "run" / "calls.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["key"] for line in lines if line.endswith("\n")]


def test_nothing_is_paid_twice_in_one_run(whole: Path) -> None:
    again = {call: times for call, times in _paid(whole).items() if times > 1}
    # The variance ledger asks the judge a second time about one picture of each search request.
    assert len(again) == 7
    assert all(call.startswith("judge") and times == 2 for call, times in again.items())


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.98])
def test_a_killed_study_goes_on_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path, share: float
) -> None:
    kill_at = int(share * _paid(whole).total())
    command = [sys.executable, "-m", "prompt_opt.simulated_study", str(tmp_path)]
    where = {"cwd": Path(__file__).parents[1]}
    killed = subprocess.run([*command, str(kill_at)], **where, check=False)  # type: ignore[call-overload]
    assert killed.returncode == -signal.SIGKILL
    kept = sum(key.startswith(PAID) for key in _keys(tmp_path))
    assert kept > 0
    again = PaidCalls(tmp_path, None)
    run(tmp_path / "run", again)
    assert _result(tmp_path) == _result(whole)
    # No call whose result had arrived is made again.
    assert again.made == _paid(whole).total() - kept
    # Only what was under way when the process died can have been paid for and not kept.
    assert (_paid(tmp_path) - _paid(whole)).total() <= CONCURRENCY
    assert _paid(tmp_path).keys() == _paid(whole).keys()


def test_a_finished_study_costs_nothing_to_open_again(whole: Path) -> None:
    before = _paid(whole).total()
    result = run(whole / "run", PaidCalls(whole, None))
    assert _paid(whole).total() == before
    assert _untimed(json.loads(result.model_dump_json(exclude={"run_dir"}))) == _result(whole)


class _OutOfOrder:
    """A judge whose server is down for a while."""

    name = "simulated"

    def __init__(self, fails_from: int, paid: PaidCalls) -> None:
        self._judge = SimulatedJudge(WORLD, on_call=paid)
        self._left = fails_from

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        self._left -= 1
        if self._left < 0:
            try:
                raise ChatError("down", fault="server")
            except ChatError as error:
                raise JudgeError("No verdict was given.") from error
        return await self._judge.judge(image, rubric)


def test_a_judge_that_is_out_stops_the_study_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    paid = PaidCalls(tmp_path, None)
    broken = study(paid, judge=_OutOfOrder(60, paid))
    with pytest.raises(StudyInterruptedError, match="run it again"):
        asyncio.run(broken.optimize(seed=seed_prompt(), budget=BUDGET, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run" / "result.json").exists()
    run(tmp_path / "run", paid)
    assert _result(tmp_path) == _result(whole)
    assert _paid(tmp_path) == _paid(whole)


def test_a_directory_belongs_to_one_study(whole: Path) -> None:
    other = study(test_pictures=2)
    with pytest.raises(StudyMismatchError, match="test_pictures"):
        asyncio.run(other.optimize(seed=seed_prompt(), budget=BUDGET, run_dir=whole / "run"))


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.open({}), pytest.raises(RunDirectoryError, match="in use"), directory.open({}):
        pass
    with directory.open({}):
        pass


def test_a_full_disk_stops_a_study_before_more_is_paid_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid, put = PaidCalls(tmp_path, None), DiskJournal.put

    def full(journal: DiskJournal, key: str, record: Any) -> None:
        if paid.made > 40:
            raise OSError(28, "No space left on device")
        put(journal, key, record)

    monkeypatch.setattr(DiskJournal, "put", full)
    with pytest.raises(StudyInterruptedError, match="No space left"):
        run(tmp_path / "run", paid)
    assert paid.made <= 41 + CONCURRENCY


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit for the size of files")
def test_what_a_full_disk_cut_off_is_no_line(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        journal = DiskJournal(tmp_path)
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                journal.put("long", {"text": "x" * 300})
        # Whatever else went wrong is not hidden by closing.
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "calls.jsonl").read_bytes() == b""


def test_a_line_cut_short_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.put("a", {"x": 1})
    journal.put("b", {"x": 2})
    journal.close()
    path = tmp_path / "calls.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "c", "rec')
    again = DiskJournal(tmp_path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ({"x": 1}, {"x": 2}, None)
    again.put("c", {"x": 3})
    again.close()
    assert DiskJournal(tmp_path).get("c") == {"x": 3}
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    for damage in (b"nonsense", b"[" * 100_000):
        path.write_bytes(damage + b"\n")
        with pytest.raises(RunDirectoryError, match=r"^Line 1") as raised:
            DiskJournal(tmp_path)
        assert raised.value.hint == "Remove the line; its call is then made again."


def test_a_result_of_another_version_is_written_anew(tmp_path: Path) -> None:
    """The study went to its end and then failed over the old file."""
    run(tmp_path, lambda call: None)
    whole = json.loads((tmp_path / "result.json").read_text())
    for text in ("{}", '{"best": 1, "earlier_ends": 0}', '{"earlier_ends": [2]}'):
        (tmp_path / "result.json").write_text(text)
        assert run(tmp_path, lambda call: None).earlier_ends == 1
        assert json.loads((tmp_path / "result.json").read_text()) == whole | {"earlier_ends": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed_prompt", None),
        ("seed_prompt", 5),
        ("seed_prompt.sections", "x"),
        ("seed_prompt.name", 5),
        ("models", ["x"]),
        ("models.generate", {}),
        ("strategy", "x"),
        ("gate", []),
        ("gate.alpha", "x"),
        ("gate.block_requests", None),
        ("guards", 5),
        ("guards.keep", {"a": 1}),
        ("random_seed", {}),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_field_of_a_study_is_named(
    whole: Path, tmp_path: Path, field: str, value: Any, finished: bool
) -> None:
    folder = shutil.copytree(whole / "run", tmp_path / "run")
    if not finished:
        (folder / "result.json").unlink()
    study: Any = json.loads((folder / "study.json").read_text())
    *outer, last = field.split(".")
    inside = study
    for name in outer:
        inside = inside[name]
    inside[last] = value
    (folder / "study.json").write_text(json.dumps(study))
    with pytest.raises(RunDirectoryError, match=rf"study\.json' is damaged: {re.escape(field)}"):
        report_run(folder)
    with pytest.raises(StudyMismatchError, match=field.partition(".")[0]):
        run(folder, PaidCalls(tmp_path, None))


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000])
def test_a_file_of_a_run_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"study\.json' cannot be read"):
        run(tmp_path, lambda call: None)
    with pytest.raises(RunDirectoryError, match=r"study\.json' cannot be read"):
        report_run(tmp_path)


def test_a_raised_budget_goes_on_where_the_old_one_ended(tmp_path: Path) -> None:
    paid = PaidCalls(tmp_path, None)
    little = study(paid).optimize(
        seed=seed_prompt(), budget=Budget(images=120), run_dir=tmp_path / "run"
    )
    first = asyncio.run(little)
    assert (first.cost[-1].images <= 120, first.earlier_ends) == (True, 0)
    assert first.unproven is not None
    spent = _paid(tmp_path)
    raised = run(tmp_path / "run", paid)
    # Whoever raises budgets until a claim comes out is told that it is not the first end.
    assert raised.history.decisions != first.history.decisions
    assert raised.earlier_ends == 1
    assert raised.unproven is None
    assert not (tmp_path / "run" / "unproven.json").exists()
    assert "ended with another result once" in raised.report(tmp_path / "report.html").read_text()
    assert max((_paid(tmp_path) - spent).values()) == 1
    assert not (_paid(tmp_path) - spent).keys() & spent.keys()
