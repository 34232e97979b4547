"""The training loop of the denoiser, for any data, alone or on many processes.

Configuration (`config`), the layout of weights (`parallel`) and this loop are kept apart: the loop
never asks where weights live. A step draws its chances from the seed and the number of its batches,
so a run that is killed goes on exactly where it was saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lens_core.errors import NonFiniteError, ParameterError
from lens_core.training.batches import Batch, BatchSource
from lens_core.training.checkpointing import Checkpoints
from lens_core.training.config import DenoiserConfig
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.flow_matching import flow_matching
from lens_core.training.heldout import validation_loss
from lens_core.training.journal import Journal
from lens_core.training.legacy import legacy_state
from lens_core.training.metrics import TrainingMetrics
from lens_core.training.optim import TOLERATED_SKIPS
from lens_core.training.rng import generator_states
from lens_core.training.state_values import restoring
from lens_core.training.workers import Workers


@dataclass(frozen=True)
class Monitoring:
    """What shows how well a run is doing.

    Attributes:
        held_out: Batches of the validation loss.
        draw: Draws sample pictures with the averaged weights into a file. Every process calls it,
            and says whether it wants them.
    """

    held_out: Sequence[Batch] = ()
    draw: Callable[[DenoiserTraining, Path, bool], None] | None = None


@dataclass
class DenoiserRun:
    """A run of the denoiser's training.

    Attributes:
        config: Settings; the same ones must be given again to resume.
        training: Weights, average and optimisers.
        source: This process's data.
        workers: The processes that train together.
        folder: For `checkpoints/`, `log.jsonl`, `tensorboard/` and `samples/`.
        monitoring: Validation and samples.
        step: Optimiser steps done.
        skipped: Of them, those left out because a gradient was not finite.
        batches: Batches drawn by all processes together.
    """

    config: DenoiserConfig
    training: DenoiserTraining
    source: BatchSource
    workers: Workers
    folder: Path
    monitoring: Monitoring = field(default_factory=Monitoring)
    step: int = 0
    skipped: int = 0
    batches: int = 0
    _in_a_row: int = 0

    def train(self) -> None:
        """Train to the last step, from the newest state in the folder if there is one.

        Raises:
            NonFiniteError: Gradients stayed NaN or infinite for many steps in a row.
            CheckpointError: A state could not be read or written.
            ParameterError: `global_batch` does not fit the processes.
        """
        config = self.config
        accumulate = batches_per_step(config, self.workers)
        checkpoints = Checkpoints(
            self.folder / "checkpoints", self.workers, config.keep_checkpoints
        )
        self._resume(checkpoints)
        metrics = TrainingMetrics(config, self.training.device, self.workers)
        leads = self.workers.leads
        journal = Journal.of_stage(self.folder, config, self.step) if leads else None
        try:
            while self.step < config.steps:
                record = self._advance(accumulate, metrics)
                record |= self._validate()
                if self.step % config.log_every == 0 or "validation" in record:
                    record = metrics.record() | record
                    if journal is not None:
                        journal.report(self.step, **record)
                if self.step % config.save_every == 0 or self.step == config.steps:
                    self._save(checkpoints)
                self._draw(journal)
        finally:
            checkpoints.wait()
            if journal is not None:
                journal.close()

    def _advance(self, accumulate: int, metrics: TrainingMetrics) -> dict[str, Any]:
        """One optimiser step."""
        weights, align = self.training.weights, []
        for part in range(accumulate):
            batch = next(self.source)
            number = self.batches + part * self.workers.count + self.workers.rank
            weights.begin_batch(last=part == accumulate - 1)
            outcome = flow_matching(self.training, batch, number)
            loss = outcome.losses.mean() + self.config.align_weight * outcome.align
            (loss / accumulate).backward()  # type: ignore[no-untyped-call]
            weights.end_batch()
            metrics.add(batch, outcome.losses, outcome.timesteps)
            align.append(outcome.align.detach())
        self.batches += accumulate * self.workers.count
        norm, finite = self.training.update(self.step)
        self.step += 1
        self.skipped += not finite
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row > TOLERATED_SKIPS:
            raise NonFiniteError(
                f"{self._in_a_row} steps in a row had gradients that are not finite, the last one "
                f"step {self.step}; lower the learning rate or train in float32"
            )
        record = {"norm": norm, "skipped": self.skipped}
        if self.config.align_block is not None:
            record["align"] = _mean(align)
        return record

    def _validate(self) -> dict[str, Any]:
        every = self.config.validate_every
        if not self.monitoring.held_out or not every or self.step % every:
            return {}
        return {
            "validation": validation_loss(self.training, self.monitoring.held_out, self.workers)
        }

    def _draw(self, journal: Journal | None) -> None:
        """Sample pictures from the average."""
        every = self.config.sample_every
        if self.monitoring.draw is None or not every or self.step % every:
            return
        path = self.folder / "samples" / f"{self.step:06d}.png"
        self.monitoring.draw(self.training, path, self.workers.leads)
        if journal is not None:
            journal.picture(self.step, "samples", path)

    def _save(self, checkpoints: Checkpoints) -> None:
        parts = self.workers.gather({"data": self.source.state(), "rng": generator_states()})
        values = {
            "skipped": self.skipped,
            "batches": self.batches,
            "fixed": dict(self.training.fixed),
            "processes": parts,
        }
        checkpoints.save(self.step, self.training.tensors(), values)

    def _resume(self, checkpoints: Checkpoints) -> None:
        saved = checkpoints.latest()
        if saved is None:
            saved = legacy_state(self.folder / "state", self.training.weights.masters)
        if saved is None:
            return
        saved.require(self.training.fixed)
        saved.read(self.training.targets(saved.names()))
        self.training.weights.refresh()
        values = saved.values
        self.step, self.skipped = values.step, values.skipped
        drawn = values.batches
        self.batches = self.step * self.workers.count if drawn is None else drawn
        with restoring(saved.file, "processes.data"):
            self.source.restore([part.data for part in values.processes], self.batches)
        saved.restore_generators(self.workers)


def batches_per_step(config: DenoiserConfig, workers: Workers) -> int:
    """Batches of each process that a step takes.

    Raises:
        ParameterError: `global_batch` is no multiple of what the processes draw at once.
    """
    if config.global_batch is None:
        return config.accumulate
    at_once = config.batch_size * workers.count
    if config.global_batch % at_once:
        raise ParameterError(
            f"global_batch {config.global_batch} is not a multiple of {workers.count} processes x "
            f"batch_size {config.batch_size}; change batch_size or the number of processes"
        )
    return config.global_batch // at_once


def _mean(values: Sequence[Tensor]) -> float:
    return sum(float(value) for value in values) / len(values)
