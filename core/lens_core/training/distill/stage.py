"""The distillation stage: critics four times, the student once; resumable between steps.

Every step is a function of the seed, its number and the weights.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lens_core.data.frozen import FrozenParts
from lens_core.data.loader import BucketLoader, LoaderSettings
from lens_core.data.reading import ShardFolder
from lens_core.loading import LensDefaults
from lens_core.pipeline import LensPipeline
from lens_core.training.config import Size
from lens_core.training.devices import place
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.models import Models
from lens_core.training.distill.pairs import LoaderPairs, PairSource, ShardPairs
from lens_core.training.distill.schedule import student_levels
from lens_core.training.distill.updates import Updater
from lens_core.training.fields import LensField
from lens_core.training.measures import Measures
from lens_core.training.optim import rate_factor, set_rates
from lens_core.training.prompts import NanoPrompts
from lens_core.training.renderer import Renderer
from lens_core.training.rewards import NanoReward, RewardQueue
from lens_core.training.role_states import RoleStates
from lens_core.training.steps import run_steps
from lens_core.training.validation import Validation
from lens_core.training.workers import Workers


def distill(config: DistillConfig, start: Path, shards: Path, out: Path) -> None:
    """Train, or resume, and leave the few-step checkpoint in `out/pipeline`.

    Args:
        config: Settings; the same ones must be given again to resume.
        start: Pipeline folder of the teacher.
        shards: Folder of the cached scenes of the nano world, for a config without `data`.
        out: This stage's own folder, for `checkpoints/` and `log.jsonl`.

    Raises:
        NonFiniteError: Gradients stayed NaN or infinite for many updates.
        ComponentError: Shards are missing.
        CheckpointError: A state could not be read or written.
        ParameterError: Settings that do not fit the processes or the device.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    stage = Stage.create(config, start, shards, workers)
    models = stage.models
    states = RoleStates(
        out,
        list(models.roles.values()),
        models.others(),
        workers,
        config.keep_checkpoints,
        models.fixed,
    )
    try:
        run_steps(config, states, stage.run)
    finally:
        if stage.validation is not None:
            stage.validation.queue.close()
    stage.export(out / "pipeline")


@dataclass(frozen=True)
class Stage:
    """Everything a step needs.

    Attributes:
        config: The run's settings.
        models: Networks.
        updater: Computes their gradients.
        validation: Held-out scenes; None without validation.
    """

    config: DistillConfig
    models: Models
    updater: Updater
    validation: Validation | None

    @classmethod
    def create(cls, config: DistillConfig, start: Path, shards: Path, workers: Workers) -> "Stage":
        """Load the teacher and make the others from it."""
        device = place(config.device)
        pipeline = LensPipeline.from_pretrained(
            start, dtype=getattr(torch, config.precision), device=device
        )
        renderer = Renderer(pipeline, device)
        source = _source(config, start, pipeline, shards)
        models = Models.create(config, start, pipeline, workers)
        validation = None
        if config.evaluate_every:
            validation = Validation(
                renderer,
                RewardQueue(NanoReward(), concurrency=64, timeout=120.0),
                NanoPrompts(config.seed, config.brief_share).held_out(config.evaluate_prompts),
                config.evaluate_sizes,
                config.seed,
                config.batch_size,
                workers,
            )
        return cls(config, models, Updater(config, models, renderer, source, workers), validation)

    def run(self, step: int) -> dict[str, Any]:
        """One step; returns its diagnostics."""
        config, started = self.config, time.monotonic()
        record: dict[str, Any] = {}
        if step == 0:
            record |= self._compare_teacher()
        roles, measures = self.models.roles, Measures()
        workers = self.updater.workers
        set_rates([role.optimizer for role in roles.values()], rate_factor(step, config))
        norms = {}
        for turn in range(config.critic_updates):
            self.updater.critics(step, turn, measures)
            norms["fake_norm"], _ = roles["fake"].update()
            if config.adversarial_weight > 0:
                norms["discriminator_norm"], _ = roles["discriminator"].update()
        self.updater.student(step, measures)
        norms["student_norm"], finite = roles["student"].update()
        if finite:
            self.models.follow()
        record |= measures.means(workers) | norms
        record["skipped"] = [role.skipped for role in roles.values()]
        record["seconds_of_step"] = round(time.monotonic() - started, 1)
        return record | self._validate(step + 1)

    def export(self, folder: Path) -> None:
        """Write the pipeline of the averaged student; it runs in a few steps without guidance.

        All processes must call; the first one writes.
        """
        model = self.models.export(self.updater.workers.leads)
        if model is None:
            return
        pipeline = self.updater.renderer.pipeline
        defaults: LensDefaults = replace(
            pipeline.defaults,
            num_inference_steps=self.config.student_steps,
            guidance_scale=1.0,
            sigmas=self.config.student_sigmas or None,
        )
        finished = pipeline.with_transformer(model, defaults)
        finished.to(dtype=torch.bfloat16).save_pretrained(folder)

    def _compare_teacher(self) -> dict[str, Any]:
        """The teacher as it is meant to be used, and naively in as many steps as the student."""
        if self.validation is None:
            return {}
        pipeline, teacher = self.updater.renderer.pipeline, self.models.teacher
        usual, few = pipeline.default_sigmas(), student_levels(self.config)
        return {
            "teacher": self._scores(teacher, usual, pipeline.defaults.guidance_scale),
            "teacher_unguided": self._scores(teacher, usual, 1.0),
            "teacher_naive": self._scores(teacher, few, 1.0),
        }

    def _validate(self, done: int) -> dict[str, Any]:
        every = self.config.evaluate_every
        if not every or (done % every and done != self.config.steps):
            return {}
        with self.models.averaged():
            scores = self._scores(self.models.student, student_levels(self.config), 1.0)
        return {"validation": scores}

    def _scores(
        self, model: nn.Module, levels: np.ndarray, guidance_scale: float
    ) -> dict[str, float | list[float]]:
        if self.validation is None:
            return {}

        def field_of(size: Size) -> LensField:
            return self.models.field(model, self.updater.renderer.grid(size))

        return self.validation.run(field_of, levels, guidance_scale)


def _source(config: DistillConfig, start: Path, pipeline: LensPipeline, shards: Path) -> PairSource:
    """Shards by bucket where the config names them, the nano world's cached scenes otherwise."""
    if config.data is None:
        return ShardPairs(shards, config.shards, config.batch_size, config.brief_share, config.seed)
    data = ShardFolder.open(Path(config.data))
    cache = None if config.cache is None else Path(config.cache)
    parts = FrozenParts(start, dict(pipeline.components))
    encoder = parts.encoder(parts.layers(), cache, cache)
    settings = LoaderSettings(
        seed=config.seed,
        batch_sizes={bucket.base: config.batch_size for bucket in data.manifest.bucket_list()},
        caption_shares=config.caption_shares,
        threads=0,
    )
    return LoaderPairs(BucketLoader(data, settings, cached=encoder.has_latents), encoder)
