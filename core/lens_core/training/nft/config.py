"""Settings of the DiffusionNFT stage."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lens_core.solvers import SolverName
from lens_core.training.config import ATTENTION, NANO_SIZES, PostTrainingConfig, Size

Decay = Literal["copy", "linear_to_0_5", "delayed_linear_to_0_999"]


class RLConfig(PostTrainingConfig):
    """DiffusionNFT on LoRA adapters. The defaults are the recipe's, and the paper's code's.

    Adapters are float32 and whole in every process; `sharding` is that of the frozen weights.
    """

    start: str | None = None
    """Pipeline folder to start from; None takes `mixed/pipeline`, or else `pretrain/pipeline`, of
    the same training."""
    prompts: str = "nano"
    """`nano` for captions of drawn scenes, or a JSON-lines file of prompts with their facts."""
    held_out_prompts: str | None = None
    """A file of prompts for validation; drawn scenes bring their own."""
    brief_share: float = Field(0.2, ge=0, le=1)
    """Share of drawn scenes captioned as a user types."""
    reward: str = "nano"
    """`nano` for the detector, or `package.module:factory`; see `load_reward`."""
    reward_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the reward's factory."""
    reward_concurrency: int = Field(64, gt=0)
    """Calls of the reward under way at once, of every process."""
    reward_timeout: float = Field(120.0, gt=0)
    """Seconds after which a picture goes without a reward."""
    most_missing: float = Field(0.5, ge=0, le=1)
    """Share of a step's rewards that may be missing; with more the run stops."""

    groups: int = Field(48, gt=0)
    """Prompts of a step, over all processes."""
    images_per_prompt: int = Field(24, gt=1)
    """Pictures of each prompt, of all sizes mixed."""
    batch_size: int = Field(gt=0)
    """Pictures of one size that are drawn and trained on at once."""
    sizes: tuple[Size, ...] = Field(NANO_SIZES, min_length=1)
    """Height and width in pixels that the batches of a step take by chance."""
    rollout_steps: int = Field(10, gt=1)
    """Steps of the sampler that makes pictures for the reward."""
    rollout_solver: SolverName = "dpmpp_2m"
    """Its solver."""
    rollout_guidance: float = Field(1.0, ge=1)
    """Its guidance; 1 is DiffusionNFT's choice, and what the velocities are trained for."""

    advantage_clip: float = Field(5.0, gt=0)
    """Advantages, in standard deviations, that map to the ends of [0, 1]."""
    spread: Literal["step", "group"] = "step"
    """Whose standard deviation divides advantages: that of the whole step, or of the group."""
    loss_scale: float = Field(5.0, gt=0)
    """Factor of the policy loss; with the same `advantage_clip` it undoes the mapping's slope."""
    beta: float = Field(1.0, gt=0)
    """Strength of the mixture that makes the positive and the negative velocity."""
    kl_weight: float = Field(1e-4, ge=0)
    """Weight of the squared distance to the reference velocity; 0 leaves it uncomputed."""
    timestep_fraction: float = Field(0.99, gt=0, le=1)
    """Share of the sampler's timesteps that each picture is trained at, in random order."""
    old_decay: Decay = "linear_to_0_5"
    """How much the rollout policy keeps of itself after an update; see `old_policy_decay`."""

    rank: int = Field(64, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(128.0, gt=0)
    """Their scale times the rank."""
    target_modules: tuple[str, ...] = ATTENTION
    """Linear layers that get adapters, by the end of their name; add `w1`, `w2`, `w3` for MLPs."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decoupled weight decay."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    ema_decay: float = Field(0.9, ge=0, lt=1)
    """Decay of the average that is evaluated and shipped; it is not the rollout policy."""

    evaluate_every: int = Field(0, ge=0)
    """Steps between validations; 0 makes none."""
    evaluate_prompts: int = Field(100, gt=0)
    """Held-out prompts of a validation."""
    evaluate_guidance: tuple[float, ...] = Field((1.0, 5.0), min_length=1)
    """Guidance scales of a validation."""
    sample_every: int = Field(0, ge=0)
    """Steps between sheets of rollouts with their rewards; 0 makes none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.groups * self.images_per_prompt % self.batch_size:
            raise ValueError(
                f"groups {self.groups} x images_per_prompt {self.images_per_prompt} must be a "
                f"multiple of batch_size {self.batch_size}"
            )
        if self.evaluate_every and self.prompts != "nano" and self.held_out_prompts is None:
            raise ValueError("evaluate_every needs held_out_prompts, a file of other prompts")
        return self

    @property
    def images(self) -> int:
        """Pictures of a step."""
        return self.groups * self.images_per_prompt

    @property
    def trained_timesteps(self) -> int:
        """Timesteps each picture is trained at."""
        return max(1, int(self.rollout_steps * self.timestep_fraction))
