"""The loop of the stages that are made of roles: a step, a record, a saved state."""

from collections.abc import Callable, Mapping
from typing import Any

from lens_core.training.config import StageConfig
from lens_core.training.journal import Journal
from lens_core.training.role_states import RoleStates


def run_steps(
    config: StageConfig, states: RoleStates, run: Callable[[int], Mapping[str, Any]]
) -> None:
    """Run a stage's steps from its newest state to the last one; all processes must call.

    Args:
        config: The stage's settings.
        states: Where it is saved and resumed; `log.jsonl` lies in the same folder.
        run: Runs the step of a number, from 0, and returns its diagnostics.

    Raises:
        CheckpointError: A state could not be read or written.
    """
    first = states.resume()
    journal = Journal.of_stage(states.folder, config, first) if states.workers.leads else None
    try:
        for step in range(first, config.steps):
            record, done = run(step), step + 1
            if journal is not None and (done % config.log_every == 0 or _holds_scores(record)):
                journal.report(done, **record)
            if done % config.save_every == 0 or done == config.steps:
                states.save(done)
    finally:
        states.wait()
        if journal is not None:
            journal.close()


def _holds_scores(record: Mapping[str, Any]) -> bool:
    """Whether a step's diagnostics tell scores, of which none may be missing from the log."""
    return not record.keys().isdisjoint({"start", "teacher", "validation"})
