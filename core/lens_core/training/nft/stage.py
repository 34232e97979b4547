"""The reinforcement-learning stage: draw, score, update, follow; resumable between steps.

Every step is a function of the seed, its number and the weights; the reward is the only part that
may answer differently when a step is repeated after a kill.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lens_core.errors import ParameterError
from lens_core.pipeline import LensPipeline
from lens_core.training.config import Size
from lens_core.training.devices import place
from lens_core.training.fields import LensField
from lens_core.training.grids import save_sheet
from lens_core.training.nft.advantages import Targets, reward_targets
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.learning import accumulate
from lens_core.training.nft.policy import Policy
from lens_core.training.nft.rollout import Rollout, roll_out
from lens_core.training.optim import rate_factor, set_rates
from lens_core.training.prompts import Prompt, PromptSource, load_prompts
from lens_core.training.renderer import Renderer
from lens_core.training.rewards import RewardError, RewardQueue, Score, load_reward
from lens_core.training.role_states import RoleStates
from lens_core.training.steps import run_steps
from lens_core.training.validation import Validation
from lens_core.training.workers import Workers


def train_rl(config: RLConfig, start: Path, out: Path) -> None:
    """Train, or resume, and leave the tuned checkpoint in `out/pipeline` and `out/lora`.

    Args:
        config: Settings; the same ones must be given again to resume.
        start: Pipeline folder of the model to improve.
        out: This stage's own folder, for `checkpoints/`, `log.jsonl` and `samples/`.

    Raises:
        RewardError: Too many pictures of a step went without a reward.
        NonFiniteError: Gradients stayed NaN or infinite for many steps.
        CheckpointError: A state could not be read or written.
        ParameterError: Settings that do not fit the processes or the device.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    stage = Stage.create(config, start, workers)
    policy = stage.policy
    states = RoleStates(
        out, [policy.role], policy.others(), workers, config.keep_checkpoints, policy.fixed
    )
    try:
        run_steps(config, states, lambda step: stage.run(step, out / "samples"))
    finally:
        stage.queue.close()
    if workers.leads:
        policy.save_adapter(out / "lora")
    stage.export(out / "pipeline")


@dataclass
class Stage:
    """Everything a step needs.

    Attributes:
        config: The run's settings.
        workers: The processes that train together.
        policy: Weights.
        renderer: Frozen parts.
        source: Prompts.
        queue: Rewards.
        validation: Held-out prompts; None without validation.
    """

    config: RLConfig
    workers: Workers
    policy: Policy
    renderer: Renderer
    source: PromptSource
    queue: RewardQueue
    validation: Validation | None

    @classmethod
    def create(cls, config: RLConfig, start: Path, workers: Workers) -> "Stage":
        """Load the model and the parts around it.

        Raises:
            ParameterError: A process would have nothing to draw.
            ComponentError: A size is not one of the model's.
        """
        if config.images // config.batch_size < workers.count:
            raise ParameterError(
                f"{config.images} pictures make {config.images // config.batch_size} batches of "
                f"{config.batch_size}, fewer than the {workers.count} processes; lower batch_size"
            )
        device = place(config.device)
        pipeline = LensPipeline.from_pretrained(
            start, dtype=getattr(torch, config.precision), device=device
        )
        renderer = Renderer(pipeline, device)
        for size in config.sizes:  # Refused now, and not when chance takes it.
            renderer.grid(size)
        source = load_prompts(
            config.prompts, config.held_out_prompts, config.seed, config.brief_share
        )
        reward = load_reward(config.reward, config.reward_options)
        queue = RewardQueue(reward, config.reward_concurrency, config.reward_timeout)
        validation = None
        if config.evaluate_every:
            validation = Validation(
                renderer,
                queue,
                source.held_out(config.evaluate_prompts),
                config.sizes,
                config.seed,
                config.batch_size,
                workers,
            )
        policy = Policy.create(config, pipeline.transformer, workers)
        return cls(config, workers, policy, renderer, source, queue, validation)

    def run(self, step: int, samples: Path) -> dict[str, Any]:
        """One step; returns its diagnostics."""
        config, started = self.config, time.monotonic()
        record = self._validate(step) if step == 0 else {}
        prompts = self.source.draw(step, config.groups)
        rollouts = roll_out(
            config, self.policy, self.renderer, prompts, step, self.workers, self.queue
        )
        drawn = time.monotonic()
        scores, errors = self._scores()
        scored = time.monotonic()
        targets = self._targets(scores, errors)
        measures = accumulate(
            config, self.policy, self.renderer, rollouts, targets, step, self.workers
        )
        set_rates([self.policy.role.optimizer], rate_factor(step, config))
        norm, finite = self.policy.role.update()
        decay = self.policy.advance() if finite else None
        record |= _diagnostics(targets, scores) | measures
        record |= {"grad_norm": norm, "old_decay": decay, "skipped": self.policy.role.skipped}
        record["seconds_by_part"] = [
            round(drawn - started, 1),
            round(scored - drawn, 1),
            round(time.monotonic() - scored, 1),
        ]
        done = step + 1
        if self.workers.leads and config.sample_every and done % config.sample_every == 0:
            self._save_samples(rollouts[0], prompts, scores, samples / f"{done:06d}.png")
        return record | self._validate(done)

    def export(self, folder: Path) -> None:
        """Write the pipeline with the averaged adapter merged in.

        All processes must call; the first one writes.
        """
        model = self.policy.merged(self.workers.leads)
        if model is None:
            return
        pipeline = self.renderer.pipeline.with_transformer(model)
        pipeline.to(dtype=torch.bfloat16).save_pretrained(folder)

    def _scores(self) -> tuple[dict[int, Score | None], list[str]]:
        """Every worker's scores."""
        scores: dict[int, Score | None] = {}
        errors: list[str] = []
        for part in self.workers.gather(self.queue.collect()):
            scores |= part.by_index
            errors += part.errors
        return scores, errors

    def _targets(self, scores: dict[int, Score | None], errors: list[str]) -> Targets:
        config = self.config
        found = [scores[image] for image in range(config.images)]
        rewards = torch.tensor([float("nan") if s is None else s.value for s in found])
        targets = reward_targets(
            rewards, config.images_per_prompt, config.advantage_clip, config.spread
        )
        missing = 1 - float(targets.known.float().mean())
        if missing > config.most_missing or missing == 1:
            raise RewardError(
                f"{missing:.0%} of the pictures of a step have no reward, more than most_missing "
                f"{config.most_missing:.0%} allows; the latest error: {(errors or ['none'])[-1]}"
            )
        return targets

    def _validate(self, done: int) -> dict[str, Any]:
        """Scores of held-out prompts before the first step and every so often, by guidance."""
        if self.validation is None or done % self.config.evaluate_every:
            return {}
        levels = self.renderer.pipeline.default_sigmas()
        with self.policy.averaged():
            results = {
                f"guidance_{scale:g}": self.validation.run(self._field, levels, scale)
                for scale in self.config.evaluate_guidance
            }
        return {"start" if done == 0 else "validation": results}

    def _field(self, size: Size) -> LensField:
        return self.policy.field(self.renderer.grid(size))

    def _save_samples(
        self,
        rollout: Rollout,
        prompts: list[Prompt],
        scores: dict[int, Score | None],
        path: Path,
    ) -> None:
        """A sheet of rollouts, and beside it a JSON file with their prompts and rewards."""
        save_sheet(self.renderer.pictures(rollout.latents, rollout.batch.size), path, 8)
        rows = []
        for image in rollout.batch.images:
            score = scores[image]
            prompt = prompts[image // self.config.images_per_prompt].text
            rows.append({"prompt": prompt, "reward": None if score is None else score.value})
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1))


def _diagnostics(targets: Targets, scores: dict[int, Score | None]) -> dict[str, Any]:
    known = [score for score in scores.values() if score is not None]
    names = sorted({name for score in known for name in score.parts})
    parts = {}
    for name in names:
        values = [score.parts[name] for score in known if name in score.parts]
        parts[name] = round(sum(values) / len(values), 4)
    return {
        "reward": targets.mean,
        "reward_std": targets.spread,
        "missing": len(scores) - len(known),
        "zero_std_ratio": targets.flat_groups,
        "target_distance": float((targets.values[targets.known] - 0.5).abs().mean()),
        "parts": parts,
    }
