"""What post-training would take on given GPUs: memory of each, operations, days.

As in `plan`, by dry runs on the meta device; the frozen encoders and the autoencoder are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lens_core.training.config import Checkpointing, PostTrainingConfig, Size, token_grid
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.discriminator import Discriminator
from lens_core.training.dry_run import DryRun, dry_run, meta_model
from lens_core.training.flops import forward_flops, peak_of
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.policy import add_adapters
from lens_core.training.plan import (
    CAPTION_TOKENS,
    GB,
    GPU_MEMORY_GB,
    GpuMemory,
    check_numbers,
    processes_of_a_copy,
    start_model,
)
from lens_core.transformer import LensTransformer2DModel

DISTILL_SIZE: Size = (1024, 1024)
"""Height and width that distillation is planned at; its real sizes are those of its data."""


@dataclass(frozen=True)
class PostPlan:
    """A stage on a number of GPUs.

    Attributes:
        stage: Its name.
        config: Its settings.
        gpus: How many.
        gpu: Which, a name in `GPU_MEMORY_GB`.
        mfu: Share of the peak that is assumed to be reached.
        parameters: Of the denoiser.
        step_flops: Operations of a step, nothing computed again.
        pictures: Of a step, drawn for the reward or simulated by the student.
        memory: Of a GPU.
    """

    stage: str
    config: PostTrainingConfig
    gpus: int
    gpu: str
    mfu: float
    parameters: int
    step_flops: float
    pictures: int
    memory: GpuMemory

    @property
    def step_seconds(self) -> float:
        """Time of a step."""
        return self.step_flops / (self.gpus * peak_of(self.gpu) * self.mfu)

    @property
    def days(self) -> float:
        """Time of the whole stage."""
        return self.config.steps * self.step_seconds / 86400

    def fits(self, checkpointing: Checkpointing) -> bool:
        """Whether a GPU holds it."""
        return self.memory.total(checkpointing) < GPU_MEMORY_GB[self.gpu]


def plan_post_training(
    config: PostTrainingConfig,
    gpus: int,
    gpu: str,
    mfu: float = 0.4,
    text_tokens: int = CAPTION_TOKENS,
) -> PostPlan:
    """Plan `rl` or `distill` on the denoiser in `start`, by default the released 3.8B one.

    Args:
        config: The stage's settings.
        gpus: How many GPUs share the work.
        gpu: `a100`, `h100` or `h200`.
        mfu: Assumed model-FLOPs utilisation in (0, 1].
        text_tokens: Text tokens of a picture.

    Raises:
        ParameterError: An unknown GPU, numbers out of range, or `sharding` that does not divide
            the GPUs.
    """
    check_numbers(gpus, gpu, mfu, 1, text_tokens)
    processes_of_a_copy(config.sharding, gpus)
    model = start_model(config)
    if isinstance(config, RLConfig):
        stage, made = "rl", _plan_rl(config, model, gpus, text_tokens)
    elif isinstance(config, DistillConfig):
        stage, made = "distill", _plan_distill(config, model, gpus, text_tokens)
    else:
        raise TypeError(f"{type(config).__name__} is of no post-training stage")
    parameters, step_flops, pictures, memory = made
    return PostPlan(stage, config, gpus, gpu.lower(), mfu, parameters, step_flops, pictures, memory)


_Made = tuple[int, float, int, GpuMemory]


def _plan_rl(config: RLConfig, model: Mapping[str, Any], gpus: int, text_tokens: int) -> _Made:
    """Rollouts by the rollout policy, then per trained timestep it, the reference and a step.

    The gradient of frozen weights is not computed, so a backward pass counts as a forward pass.
    """

    def adapted(part: LensTransformer2DModel) -> None:
        add_adapters(part, config)

    grids = [token_grid(size) for size in config.sizes]
    largest = max(grids, key=lambda grid: grid[0] * grid[1])
    run = dry_run(model, largest, text_tokens, config.batch_size, _dtype(config), adapted)
    policy = meta_model(model, _dtype(config))
    add_adapters(policy, config)
    adapters = sum(p.numel() for n, p in policy.named_parameters() if ".lora_" in n) // 2
    forwards = config.rollout_steps * (2 if config.rollout_guidance > 1 else 1)
    forwards += config.trained_timesteps * (4 if config.kl_weight > 0 else 3)
    flops = sum(forward_flops(model, h * w, text_tokens) for h, w in grids) / len(grids)
    shared_by = config.sharding or gpus
    held = {
        "frozen weights": _width(config) * run.parameters / shared_by / GB,
        "adapters: two and their average": 12 * adapters / GB,
        "gradients of adapters": 4 * adapters / GB,
        "optimiser": 8 * adapters / GB,
        "gathered weights": _gathered(config, run, shared_by) / GB,
    }
    memory = GpuMemory(held, _gigabytes(run))
    return run.parameters, config.images * forwards * flops, config.images, memory


def _plan_distill(
    config: DistillConfig, model: Mapping[str, Any], gpus: int, text_tokens: int
) -> _Made:
    """Five turns of a step: critics on simulated samples, then the student against all others."""
    grid, shared_by = token_grid(DISTILL_SIZE), config.sharding or gpus
    run = dry_run(model, grid, text_tokens, config.batch_size, _dtype(config))
    trunk_blocks = config.taps[-1] + 1
    trunk = dry_run(
        {**model, "num_layers": trunk_blocks},
        grid,
        text_tokens,
        config.batch_size,
        _dtype(config),
        lambda part: part.requires_grad_(False),
    )
    adversarial = config.adversarial_weight > 0
    reach = (config.student_steps - 1) / 2
    share = trunk.forward_flops / run.forward_flops if adversarial else 0.0
    critics = config.critic_updates * (reach + 1 + 3 + 3 * share)
    student = reach + 3 + 2 + (2 if config.guidance_scale > 1 else 0) + 2 * share
    pictures = config.batch_size * config.batches_per_update
    flops = pictures * (critics + student) * run.forward_flops
    inner = int(meta_model({**model, "num_layers": 2}, _dtype(config)).config.inner_dim)
    batches = -(-config.batches_per_update // gpus)
    held = _distill_held(config, run, inner, shared_by, batches)
    activations = _gigabytes(run)
    if adversarial:
        through = _gigabytes(trunk)
        maps = 4 * config.batch_size * grid[0] * grid[1] * inner * len(config.taps) / GB
        activations = {kind: size + through[kind] + maps for kind, size in activations.items()}
    made = GpuMemory(held, activations)
    return run.parameters, flops, pictures * (config.critic_updates + 1), made


def _distill_held(
    config: DistillConfig, run: DryRun, inner: int, shared_by: int, batches: int
) -> dict[str, float]:
    """Student and fake score have masters and moments; only one at a time has gradients."""
    share = run.parameters / shared_by / GB
    with torch.device("meta"):
        head = Discriminator(inner, len(config.taps))
    judge = sum(p.numel() for p in head.parameters()) / shared_by / GB
    held = {
        "master weights: student, fake score": 8 * share,
        "gradients": 4 * share,
        "optimisers": 16 * share,
        "moving average": 4 * share,
        "frozen teacher": _width(config) * share,
        "discriminator, all of it": 16 * judge,
        "gathered weights": 3 * _gathered(config, run, shared_by) / GB,
    }
    if shared_by == 1:
        held["copies in the run's precision"] = 2 * _width(config) * run.parameters / GB
    elif batches > 1:
        held["gradients of several batches, whole"] = 4 * run.parameters / GB
    return held


def _gathered(config: PostTrainingConfig, run: DryRun, shared_by: int) -> float:
    """Bytes of two blocks' weights and of what is outside blocks, where they are sharded."""
    if shared_by == 1:
        return 0.0
    outside = run.parameters - run.blocks * run.block_parameters
    return _width(config) * (outside + 2 * run.block_parameters)


def _gigabytes(run: DryRun) -> dict[Checkpointing, float]:
    return {kind: size / GB for kind, size in run.activation_bytes.items()}


def _dtype(config: PostTrainingConfig) -> torch.dtype:
    made: torch.dtype = getattr(torch, config.precision)
    return made


def _width(config: PostTrainingConfig) -> int:
    return _dtype(config).itemsize
