"""What a training would take on given GPUs: operations, memory of each, days."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lens_core.errors import ParameterError
from lens_core.packaged import model_folder
from lens_core.training.config import (
    NANO_SIZES,
    Checkpointing,
    DenoiserConfig,
    PretrainConfig,
    Size,
    StageConfig,
    load_config,
    token_grid,
)
from lens_core.training.dry_run import DryRun, dry_run, encoding_flops
from lens_core.training.flops import TRAINING_FACTOR, peak_of
from lens_core.training.mixed.start import model_arguments
from lens_core.training.stages import setting_value, stage_config

PLANNED_STAGES = ("lowres", "mixed", "pretrain", "rl", "distill")
"""Stages that train the denoiser: by flow matching, and the two of `post_plan`."""

GPU_MEMORY_GB: Mapping[str, float] = {"a100": 80.0, "h100": 80.0, "h200": 141.0}
"""Memory of a GPU; of the larger A100."""

CAPTION_TOKENS = 150
"""Text tokens of a caption of 109 words, the report's mean."""

STEP_BATCHES = 128
"""Batches of an optimiser step in the report: one from each of 128 GPUs."""

GB = 1e9
_ENCODER_ACTIVE = 3_600_000_000
"""Weights of GPT-OSS-20B that a token passes through (arXiv 2508.10925)."""
TEMPLATE_TOKENS = 97
"""Tokens of the chat template before the caption."""


@dataclass(frozen=True)
class BatchKind:
    """One kind of batch.

    Attributes:
        size: Height and width in pixels.
        pictures: Of a batch.
        tokens: Image tokens of a picture.
        run: Its dry run.
        frozen_flops: Operations of the frozen encoders on a picture and its caption.
    """

    size: Size
    pictures: int
    tokens: int
    run: DryRun
    frozen_flops: int

    @property
    def image_flops(self) -> int:
        """Forward and backward operations of a picture."""
        return TRAINING_FACTOR * self.run.forward_flops

    @property
    def batch_flops(self) -> int:
        """Forward and backward operations of a batch."""
        return self.pictures * self.image_flops


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU in GB; the frozen encoders are not in it.

    Attributes:
        held: Everything but activations, by what it is.
        activations: Those of the largest batch, by kind of checkpointing.
    """

    held: Mapping[str, float]
    activations: Mapping[Checkpointing, float]

    def total(self, checkpointing: Checkpointing) -> float:
        """GB of everything, with a kind of checkpointing."""
        return sum(self.held.values()) + self.activations[checkpointing]


@dataclass(frozen=True)
class TrainingPlan:
    """A stage on a number of GPUs.

    Attributes:
        stage: Its name.
        config: Its settings.
        gpus: How many.
        gpu: Which, a name in `GPU_MEMORY_GB`.
        mfu: Share of the peak that is assumed to be reached.
        step_batches: Batches of an optimiser step over all GPUs.
        text_tokens: Text tokens of a picture.
        kinds: Kinds of batches, assumed to come equally often.
        memory: Of a GPU.
    """

    stage: str
    config: DenoiserConfig
    gpus: int
    gpu: str
    mfu: float
    step_batches: int
    text_tokens: int
    kinds: tuple[BatchKind, ...]
    memory: GpuMemory

    @property
    def accumulate(self) -> int:
        """Batches of each GPU per optimiser step."""
        return -(-self.step_batches // self.gpus)

    @property
    def batch_flops(self) -> float:
        """Mean operations of a batch."""
        return sum(kind.batch_flops for kind in self.kinds) / len(self.kinds)

    @property
    def total_flops(self) -> float:
        """Operations of the whole stage."""
        return self.config.steps * self.step_batches * self.batch_flops

    @property
    def pictures(self) -> float:
        """Pictures of the whole stage."""
        mean = sum(kind.pictures for kind in self.kinds) / len(self.kinds)
        return self.config.steps * self.step_batches * mean

    @property
    def step_seconds(self) -> float:
        """Time of an optimiser step."""
        return self.accumulate * self.batch_flops / (peak_of(self.gpu) * self.mfu)

    @property
    def days(self) -> float:
        """Time of the whole stage."""
        return self.config.steps * self.step_seconds / 86400

    @property
    def gpu_hours(self) -> float:
        """Days times GPUs."""
        return self.days * 24 * self.gpus

    def mfu_of(self, gpu_hours: float) -> float:
        """The MFU at which the stage takes so many hours of this GPU."""
        return self.total_flops / (gpu_hours * 3600 * peak_of(self.gpu))

    def fits(self, checkpointing: Checkpointing) -> bool:
        """Whether a GPU holds it, the frozen encoders left out."""
        return self.memory.total(checkpointing) < GPU_MEMORY_GB[self.gpu]


def plan_training(
    config: DenoiserConfig,
    stage: str,
    gpus: int,
    gpu: str,
    mfu: float = 0.4,
    step_batches: int = STEP_BATCHES,
    text_tokens: int = CAPTION_TOKENS,
) -> TrainingPlan:
    """Plan a stage by a dry run on the meta device.

    Args:
        config: The stage's settings; without a `model` of its own that of `start` is planned.
        stage: Its name.
        gpus: How many GPUs share the work.
        gpu: `a100`, `h100` or `h200`.
        mfu: Assumed model-FLOPs utilisation in (0, 1].
        step_batches: Batches of an optimiser step over all GPUs, which the recipe fixes; fewer
            GPUs accumulate more.
        text_tokens: Text tokens of a picture.

    Raises:
        ParameterError: An unknown GPU, numbers out of range, or `sharding` that does not divide
            the GPUs.
    """
    check_numbers(gpus, gpu, mfu, step_batches, text_tokens)
    shared_by = processes_of_a_copy(config.sharding, gpus)
    model, kinds = config.model or start_model(config), []
    for size, pictures in _batches(config):
        grid = token_grid(size)
        run = dry_run(model, grid, text_tokens, pictures)
        frozen = encoding_flops(size) + 2 * _ENCODER_ACTIVE * (text_tokens + TEMPLATE_TOKENS)
        kinds.append(BatchKind(size, pictures, grid[0] * grid[1], run, frozen))
    memory = _memory(config, [kind.run for kind in kinds], shared_by)
    return TrainingPlan(
        stage, config, gpus, gpu.lower(), mfu, step_batches, text_tokens, tuple(kinds), memory
    )


def check_numbers(gpus: int, gpu: str, mfu: float, step_batches: int, text_tokens: int) -> None:
    """Refuse what no plan can be made for.

    Raises:
        ParameterError: An unknown GPU, or numbers out of range.
    """
    peak_of(gpu)
    if gpus < 1 or step_batches < 1 or text_tokens < 1:
        raise ParameterError(
            f"gpus {gpus}, step batches {step_batches} and text tokens {text_tokens} must all be "
            "above 0"
        )
    if not 0 < mfu <= 1:
        raise ParameterError(f"mfu {mfu} must lie above 0 and not above 1, such as 0.4")


def processes_of_a_copy(sharding: int | None, gpus: int) -> int:
    """How many GPUs share one copy of the weights, as `parallel.weight_mesh` deals them.

    Raises:
        ParameterError: `sharding` does not divide the GPUs.
    """
    if gpus % (sharding or gpus):
        raise ParameterError(f"sharding {sharding} does not divide {gpus} GPUs")
    return sharding or gpus


def start_model(config: StageConfig) -> Mapping[str, Any]:
    """Arguments of the denoiser in `start`; none, for the released 3.8B one, where that is open."""
    given = getattr(config, "start", None)
    return {} if given is None else model_arguments(model_folder(given))


def planned_config(
    source: str, stage: str | None, overrides: Mapping[str, str] | None = None
) -> tuple[str, StageConfig]:
    """Settings to plan with, and the stage they are of.

    Args:
        source: A preset or a JSON file.
        stage: One of `PLANNED_STAGES`; None takes the one that the preset has.
        overrides: Settings as text, as `run_stage` takes them.

    Raises:
        ParameterError: No such config, or it is of another kind of stage.
    """
    if stage is None:
        folder = resources.files("lens_core.training") / "presets" / source
        present = [name for name in PLANNED_STAGES if (folder / f"{name}.json").is_file()]
        if not present:
            kind = "a file" if Path(source).is_file() else "no preset of these stages"
            raise ParameterError(
                f"config {source!r} is {kind}; name its stage with --stage, one of "
                f"{', '.join(PLANNED_STAGES)}"
            )
        stage = present[0]
    if stage not in PLANNED_STAGES:
        raise ParameterError(
            f"stage {stage!r} cannot be planned; choose one of {', '.join(PLANNED_STAGES)}"
        )
    values = {name: setting_value(text) for name, text in (overrides or {}).items()}
    return stage, load_config(stage_config(stage), source, stage, values)


def _batches(config: DenoiserConfig) -> list[tuple[Size, int]]:
    """Sizes and pictures of a run's batches; of every base its square stands for all ratios."""
    if isinstance(config, PretrainConfig):
        return [(size, config.batch_size) for size in NANO_SIZES]
    by_base: Mapping[int, int] = getattr(config, "batch_sizes", {})
    return [((base, base), pictures) for base, pictures in sorted(by_base.items())]


def _memory(config: DenoiserConfig, runs: list[DryRun], shared_by: int) -> GpuMemory:
    run = runs[0]
    inside = run.blocks * run.block_parameters
    share = run.parameters / shared_by / GB
    moments = 8 * share
    if config.optimizer == "muon":
        # One moment for the matrices, which are nearly all of a block.
        moments = (4 * inside + 8 * (run.parameters - inside)) / shared_by / GB
    width = 2 if config.precision == "bfloat16" else 4
    # Two blocks' weights, what is outside blocks, and one block's gradients; all if not sharded.
    if shared_by == 1:
        gathered = run.parameters * (width + width) / GB
    else:
        outside = run.parameters - inside
        gathered = (width * (outside + 2 * run.block_parameters) + 4 * run.block_parameters) / GB
    activations: dict[Checkpointing, float] = {
        kind: max(each.activation_bytes[kind] for each in runs) / GB
        for kind in run.activation_bytes
    }
    held = {
        "master weights": 4 * share,
        "gradients": 4 * share,
        "optimiser": moments,
        "moving average": 4 * share,
        "gathered weights": gathered,
    }
    return GpuMemory(held, activations)
