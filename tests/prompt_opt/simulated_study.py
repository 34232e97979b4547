"""A small study on the simulator with real parts; run as a module, it can kill itself.

    python -m prompt_opt.simulated_study FOLDER [CALLS]

Every paid call is noted in FOLDER/paid.txt when it is made; at the last of CALLS the process is
killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lens_prompt_opt import Budget, FactorialSearch, PairedSequentialGate, PromptStudy, StudyResult
from lens_prompt_opt.simulation.parts import (
    SimulatedFidelity,
    SimulatedGenerator,
    SimulatedJudge,
    simulated_reasoner,
    simulated_requests,
)
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import World, seed_prompt

WORLD = World("test world")
BUDGET = Budget(images=170, usd=20)


def study(on_call: Callable[[str], None] = lambda call: None, **changes: object) -> PromptStudy:
    """The study; `changes` replace its parts."""
    parts: dict[str, object] = {
        "reasoner": simulated_reasoner(WORLD, on_call=on_call),
        "generator": SimulatedGenerator(WORLD, on_call=on_call),
        "judge": SimulatedJudge(WORLD, on_call=on_call),
        "prompts": simulated_requests(WORLD, 24),
        "fidelity": SimulatedFidelity(WORLD),
        "proposer": SimulatedProposer(helps=0.8, hurts=0.0, gain=0.8),
        "strategy": FactorialSearch(pairs=8),
        "gate": PairedSequentialGate(alpha=0.3, block_requests=4, pictures=1),
        "test_pictures": 1,
    }
    return PromptStudy(**{**parts, **changes})  # type: ignore[arg-type]


def run(folder: Path | None, on_call: Callable[[str], None] = lambda call: None) -> StudyResult:
    """The study from beginning to end, or from where it was."""
    work = study(on_call).optimize(seed=seed_prompt(), budget=BUDGET, run_dir=folder)
    return asyncio.run(work)


@dataclass
class PaidCalls:
    """Notes calls in a file and kills the process at one of them."""

    folder: Path
    kill_at: int | None
    made: int = 0

    def __call__(self, call: str) -> None:
        self.made += 1
        with (self.folder / "paid.txt").open("a") as file:
            file.write(f"{call}\n")
        if self.made == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    run(folder / "run", PaidCalls(folder, int(sys.argv[2]) if len(sys.argv) > 2 else None))
