"""The two kinds of updates: fake score and discriminator on one side, the student on the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lens_core.errors import ParameterError
from lens_core.training.distill import losses
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.discriminator import feature_maps
from lens_core.training.distill.models import Models
from lens_core.training.distill.pairs import Pairs, PairSource
from lens_core.training.distill.schedule import StudentSchedule, student_levels
from lens_core.training.distill.simulation import Simulation
from lens_core.training.fields import add_noise, normal_like
from lens_core.training.measures import Measures
from lens_core.training.renderer import Renderer
from lens_core.training.seeds import seeded
from lens_core.training.workers import Workers

CHOICE, BATCH = 31, 32
"""What chances of an update are for."""


@dataclass(frozen=True)
class Draw:
    """A batch of an update, with its noise.

    Attributes:
        pairs: Pictures and captions.
        grid: Height and width in tokens.
        schedule: The student's noise levels at that size.
        step: The student's step, the same for all batches of the update.
        last: Whether it is this process's last batch of the update.
        noise: What the student starts from.
        generator: For every further chance.
    """

    pairs: Pairs
    grid: tuple[int, int]
    schedule: StudentSchedule
    step: int
    last: bool
    noise: Tensor
    generator: Generator


@dataclass(frozen=True)
class Updater:
    """Computes gradients; the roles apply them.

    All processes compute equally often and in the same order, as sharded weights need.

    Attributes:
        config: The run's settings.
        models: Networks.
        renderer: Frozen parts.
        source: Pictures and captions.
        workers: The processes that train together.
    """

    config: DistillConfig
    models: Models
    renderer: Renderer
    source: PairSource
    workers: Workers

    def __post_init__(self) -> None:
        student_levels(self.config)  # Levels that are none are refused before anything is drawn.
        if self.config.batches_per_update % self.workers.count:
            raise ParameterError(
                f"batches_per_update {self.config.batches_per_update} must be a multiple of the "
                f"{self.workers.count} processes"
            )

    def critics(self, step: int, turn: int, measures: Measures) -> None:
        """Add the gradients of fake score and discriminator on the student's samples."""
        for draw in self._draws(step, turn):
            with torch.no_grad():
                sample = self._sample(draw)
            field = self.models.field(self.models.fake, draw.grid)
            times = self._times(draw)
            loss = losses.fake_score_loss(field, sample, draw.pairs.text, times, draw.generator)
            self.models.roles["fake"].learn(loss * self._share, draw.last)
            measures.add(fake_loss=loss)
            if self.config.adversarial_weight > 0:
                self._discriminate(draw, sample, measures)

    def student(self, step: int, measures: Measures) -> None:
        """Add the gradients of the student."""
        config = self.config
        for draw in self._draws(step, config.critic_updates):
            sample = self._sample(draw)
            matching = self._matching(draw, sample.detach(), measures)
            augmentation = self._augmentation(draw, sample.detach(), measures)
            loss = config.matching_weight * losses.surrogate_loss(sample, matching + augmentation)
            if config.adversarial_weight > 0:
                noisy, times = self._noised(draw, sample)
                fooled = losses.generator_loss(self._logits(draw, noisy, times))
                loss = loss + config.adversarial_weight * fooled
                measures.add(generator_loss=fooled)
            self.models.roles["student"].learn(loss * self._share, draw.last)
            # The discriminator took part but is not what this update is for.
            self.models.discriminator.zero_grad(set_to_none=True)
            measures.add(
                x0_std=sample.std(),
                x0_mean=sample.mean(),
                data_std=draw.pairs.latents.std(),
                student_step=torch.tensor(float(draw.step)),
            )

    @property
    def _share(self) -> float:
        """Weight of one of this worker's batches; gradients are then averaged over workers."""
        return self.workers.count / self.config.batches_per_update

    def _draws(self, step: int, turn: int) -> Iterator[Draw]:
        """This worker's batches of an update; turns count critic updates, the student's last."""
        config = self.config
        chooser = seeded(config.seed, CHOICE, step, turn)
        chosen = int(torch.randint(config.student_steps, (), generator=chooser))
        update = step * (config.critic_updates + 1) + turn
        parts = range(self.workers.rank, config.batches_per_update, self.workers.count)
        for part in parts:
            pairs = self.source.batch(update * config.batches_per_update + part)
            pairs = pairs.to(self.renderer.device)
            generator = seeded(config.seed, BATCH, step, turn, part)
            yield Draw(
                pairs,
                self.renderer.grid(pairs.size),
                StudentSchedule.create(
                    pairs.latents.shape[1], student_levels(config), config.score_shift
                ),
                chosen,
                part == parts[-1],
                normal_like(pairs.latents, generator),
                generator,
            )

    def _sample(self, draw: Draw) -> Tensor:
        """The student's prediction at its step, on an input of its own making."""
        simulation = Simulation(draw.schedule, self.config.student_sampler)
        field = self.models.field(self.models.student, draw.grid)
        text = draw.pairs.text
        latents = simulation.reach(field, draw.noise, text, draw.step, draw.generator)
        return simulation.predict(field, latents, text, draw.step)

    def _times(self, draw: Draw) -> Tensor:
        times = draw.schedule.full_times(
            len(draw.noise), self.config.least_timestep, draw.generator
        )
        return times.to(draw.noise.device)

    def _noised(self, draw: Draw, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Latents with noise of a time from the full range, and the time."""
        times = self._times(draw)
        return add_noise(clean, times, normal_like(clean, draw.generator)), times

    @torch.no_grad()
    def _matching(self, draw: Draw, sample: Tensor, measures: Measures) -> Tensor:
        """Distribution matching at a time from the full range, without guidance."""
        noisy, times = self._noised(draw, sample)
        text = draw.pairs.text
        real = self.models.field(self.models.teacher, draw.grid)(noisy, times, text)
        fake = self.models.field(self.models.fake, draw.grid)(noisy, times, text)
        gradient = losses.matching_gradient(
            sample, noisy, times, real, fake, self.config.normaliser_floor
        )
        measures.add(
            matching_norm=gradient.square().mean().sqrt(),
            score_cosine=torch.cosine_similarity(real.flatten(1), fake.flatten(1)),
            score_ratio=fake.square().mean().sqrt() / real.square().mean().sqrt(),
        )
        return gradient

    @torch.no_grad()
    def _augmentation(self, draw: Draw, sample: Tensor, measures: Measures) -> Tensor:
        """Guidance at a time that is cleaner than the student's input."""
        config = self.config
        if config.guidance_scale == 1:
            return torch.zeros_like(sample)
        times = draw.schedule.cleaner_times(
            len(sample), draw.step, config.least_timestep, draw.generator
        ).to(sample.device)
        noisy = add_noise(sample, times, normal_like(sample, draw.generator))
        teacher = self.models.field(self.models.teacher, draw.grid)
        gradient = losses.augmentation_gradient(
            sample,
            noisy,
            times,
            teacher(noisy, times, draw.pairs.text),
            teacher(noisy, times, None),
            config.guidance_scale,
            config.normaliser_floor,
        )
        measures.add(augmentation_norm=gradient.square().mean().sqrt())
        return gradient

    def _discriminate(self, draw: Draw, sample: Tensor, measures: Measures) -> None:
        """Add the discriminator's gradients; real and fake pictures share times and noise."""
        config = self.config
        times = self._times(draw)
        noise = normal_like(sample, draw.generator)
        real = add_noise(draw.pairs.latents, times, noise)
        perturbed = real + config.r1_noise * normal_like(real, draw.generator)
        fake = add_noise(sample, times, noise)
        logits = [self._logits(draw, noisy, times) for noisy in (real, fake, perturbed)]
        loss = losses.discriminator_loss(logits[0], logits[1])
        penalty = losses.approximate_r1(logits[0], logits[2], config.r1_weight)
        judge = self.models.roles["discriminator"]
        judge.learn((loss + penalty) * self._share, draw.last)
        measures.add(
            discriminator_loss=loss,
            r1=penalty,
            real_logit=logits[0].mean(),
            fake_logit=logits[1].mean(),
        )

    def _logits(self, draw: Draw, noisy: Tensor, times: Tensor) -> Tensor:
        """Logits of noisy latents, in float32, with gradient to whatever of them has one."""
        models, text = self.models, draw.pairs.text
        maps = feature_maps(models.teacher, noisy, times, text, draw.grid, models.dtype)
        logits: Tensor = models.discriminator(maps)
        return logits
