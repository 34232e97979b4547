"""Settings of the few-step distillation stage."""

from typing import Literal

from pydantic import Field

from lens_core.training.config import NANO_SIZES, PostTrainingConfig, Size

StudentSampler = Literal["euler", "renoise"]


class DistillConfig(PostTrainingConfig):
    """Decoupled DMD. The defaults are the recipe's; `steps` counts updates of the student."""

    start: str | None = None
    """Pipeline folder of the teacher; None takes `rl/pipeline` in the same training."""
    data: str | None = None
    """Folder of shards by bucket; None takes the nano world's cached scenes in `shards`."""
    cache: str | None = None
    """Folder that keeps latents and text features of `data`; None encodes as they come."""
    caption_shares: dict[str, float] = Field(default_factory=dict)
    """Weight of every kind of caption in `data`; without any, each picture's first one."""
    shards: int = Field(1, gt=0)
    """Cached scenes: shards that are passed over, again and again."""
    brief_share: float = Field(0.2, ge=0, le=1)
    """Share of batches captioned as a user types."""
    batch_size: int = Field(gt=0)
    """Pictures of one size that are computed at once."""
    batches_per_update: int = Field(1, gt=0)
    """Batches behind every update, over all processes; a multiple of their number."""

    student_steps: int = Field(4, gt=0)
    """Steps of the student."""
    student_sigmas: tuple[float, ...] = ()
    """Noise levels before the time shift, one for each of them, that the student trains on and its
    checkpoint states as its own; without any, the even ones of inference."""
    student_sampler: StudentSampler = "euler"
    """How its steps are linked in training: as the pipeline does, or with fresh noise."""
    guidance_scale: float = Field(5.0, ge=1)
    """Guidance g of the augmentation, in the form `uncond + g * (cond - uncond)`."""
    critic_updates: int = Field(4, gt=0)
    """Updates of fake score and discriminator before each update of the student."""
    matching_weight: float = Field(0.1, ge=0)
    """Weight of distribution matching and augmentation together."""
    adversarial_weight: float = Field(0.001, ge=0)
    """Weight of the student's adversarial loss; 0 trains no discriminator."""
    normaliser_floor: float = Field(0.05, gt=0)
    """Least value of what divides a sample's gradient."""
    score_shift: float | None = Field(None, gt=0)
    """Time shift s of the noise levels at which matching, fake score and discriminator look, in
    `s u / (1 + (s - 1) u)` with u uniform; None takes that of inference."""
    least_timestep: float = Field(0.02, ge=0, lt=0.5)
    """Noise levels are kept this far from 0 and 1."""
    taps: tuple[int, ...] = Field((16, 24, 32), min_length=1)
    """Blocks of the teacher whose image tokens the discriminator reads."""
    r1_weight: float = Field(1.0, ge=0)
    """Weight gamma of the approximated R1 penalty."""
    r1_noise: float = Field(0.1, gt=0)
    """Standard deviation of its perturbation."""

    fake_learning_rate: float = Field(5e-7, gt=0)
    """Rate of the fake score."""
    discriminator_learning_rate: float = Field(1e-4, gt=0)
    """Rate of the discriminator."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of all three."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm of each."""
    alignment: float = Field(0.03, ge=0, le=1)
    """Share of the student that is mixed into the fake score after each student update (IDA)."""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the student's average, which is validated and shipped."""

    evaluate_every: int = Field(0, ge=0)
    """Student updates between validations on drawn scenes; 0 makes none."""
    evaluate_prompts: int = Field(100, gt=0)
    """Held-out prompts of a validation."""
    evaluate_sizes: tuple[Size, ...] = Field(NANO_SIZES, min_length=1)
    """Height and width in pixels of its pictures."""
