"""Typed settings of the training stages, read from presets or JSON files with overrides."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lens_core.errors import ParameterError
from lens_core.sizes import SIZE_MULTIPLE

Size = tuple[int, int]
"""Height and width in pixels."""

Checkpointing = Literal["none", "selective", "full"]
"""What is computed again in the backward pass: nothing, all but matrix products and attention, or
everything."""

ATTENTION = ("img_qkv", "txt_qkv", "to_out.0", "to_add_out")
"""Linear layers of attention in both streams, by the end of their names."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""What is kept of an average."""

NANO_SIZES: tuple[Size, ...] = ((128, 128), (112, 144), (144, 112), (96, 160), (160, 96))


def token_grid(size: Size) -> tuple[int, int]:
    """Height and width in tokens of a picture size."""
    return size[0] // SIZE_MULTIPLE, size[1] // SIZE_MULTIPLE


class StageConfig(BaseModel):
    """Settings every stage has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the data order and the noise."""
    threads: int = Field(1, gt=0)
    """CPU threads; two OpenMP threads collapse on a busy machine, so measure before raising it."""
    steps: int = Field(gt=0)
    """Optimiser steps of the whole run."""
    batch_size: int = Field(gt=0)
    """Samples per step, of every process."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    decay_steps: int = Field(0, ge=0)
    """Steps at the end over which the rate falls linearly to zero."""
    log_every: int = Field(20, gt=0)
    """Steps between log records."""
    save_every: int = Field(200, gt=0)
    """Steps between saved training states."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] | None = None
    """Where to log besides `log.jsonl`; None takes TensorBoard if it is installed."""


class AutoencoderConfig(StageConfig):
    """Training of a FLUX.2-type VAE on drawn scenes."""

    model: dict[str, Any]
    """Arguments of diffusers' `AutoencoderKLFlux2`."""
    crop: int = Field(64, gt=0, le=min(map(min, NANO_SIZES)))
    """Side in pixels of the random crops of the first phase."""
    full_steps: int = 0
    """Steps at the end on whole pictures."""
    pool: int = Field(768, ge=len(NANO_SIZES))
    """Rendered pictures kept at a time, renewed every 150 steps."""
    kl_weight: float = 1e-4
    """Weight of the KL term, per latent element."""
    sharpen_from: int = 0
    """Step from which L1 on pixels and on their differences is added."""
    sharpen_weight: float = 0.5
    """Weight of those two terms; squared error has weight 1."""


class LanguageConfig(StageConfig):
    """Training of the nano GPT-OSS on captions and on the rewriting task."""

    vocabulary: int = 640
    """Size of the byte-level BPE vocabulary, control tokens not counted."""
    vocabulary_scenes: int = 4000
    """Scenes whose captions the vocabulary is learnt from."""
    model: dict[str, Any]
    """Arguments of `GptOssConfig`, without those that follow from the tokenizer."""


class DenoiserConfig(StageConfig):
    """Flow-matching training of the denoiser, whatever the data; see `training.engine`."""

    model: dict[str, Any]
    """Arguments of `LensTransformer2DModel`."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """`adamw` for everything, as in the report, or `muon` for the matrices inside the blocks."""
    muon_learning_rate: float = Field(2e-3, gt=0)
    """Peak rate of the matrices that Muon updates."""
    betas: tuple[Share, Share] = (0.9, 0.99)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of both optimisers."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    ema_decay: Share = 0.999
    """Decay of the averaged weights that are shipped and sampled."""
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of a batch trained without text, for guidance."""
    timestep_mean: float | None = None
    """Mean of the logit-normal timesteps; None takes it from `timestep_line`."""
    timestep_line: tuple[tuple[int, float], tuple[int, float]] = ((256, 1.0), (4096, 1.3))
    """Two token counts with their means; that of other counts lies on the line through them."""
    align_block: int | None = None
    """Block whose image tokens also predict what the scene holds there; None switches it off."""
    align_weight: float = 0.5
    """Weight of that prediction's cross-entropy."""

    device: str = "cpu"
    """`cpu`, or `cuda` for the device of every process's local rank."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Format of forward and backward; master weights are float32."""
    compile: bool = True
    """Compile the blocks."""
    dynamic_shapes: bool = False
    """Compile for any token count, as many buckets need; otherwise once for each."""
    activation_checkpointing: Checkpointing = "none"
    """What blocks compute again in the backward pass."""
    sharding: int | None = Field(None, gt=0)
    """Processes that share one copy of the weights; None takes all, 1 gives each its own copy."""
    accumulate: int = Field(1, gt=0)
    """Batches of every process per optimiser step."""
    global_batch: int | None = Field(None, gt=0)
    """Samples of a step over all processes; where given, `accumulate` follows from it."""

    validate_every: int = Field(0, ge=0)
    """Steps between fixed-noise validation losses; 0 switches them off."""
    sample_every: int = Field(2000, ge=0)
    """Steps between sample grids; 0 switches them off."""
    guidance_scale: float = 5.0
    """Guidance of the sample grids, and the finished checkpoint's own default."""
    keep_checkpoints: int = Field(2, gt=0)
    """Training states kept in `checkpoints/`; older ones are removed."""
    peak_tflops: float | None = Field(None, gt=0)
    """Peak of one device, for MFU; None takes the data sheet's of the GPUs that are known."""

    @model_validator(mode="after")
    def _check_line(self) -> Self:
        (few, _), (many, _) = self.timestep_line
        if few == many:
            raise ValueError(f"timestep_line {self.timestep_line} needs two token counts")
        return self


class PostTrainingConfig(StageConfig):
    """Where a stage on a finished denoiser computes, and how its weights are spread."""

    device: str = "cpu"
    """`cpu`, or `cuda` for the device of every process's local rank."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Format of frozen weights and of forward and backward; weights in training are float32."""
    compile: bool = False
    """Compile the blocks."""
    dynamic_shapes: bool = True
    """Compile for any token count, as many sizes need; otherwise once for each."""
    activation_checkpointing: Checkpointing = "none"
    """What blocks compute again in the backward pass."""
    sharding: int | None = Field(None, gt=0)
    """Processes that share one copy of the weights; None takes all, 1 gives each its own copy."""
    keep_checkpoints: int = Field(2, gt=0)
    """Training states kept in `checkpoints/`; older ones are removed."""


class PretrainConfig(DenoiserConfig):
    """The denoiser's training on cached scenes of the nano world."""

    shards: int = Field(gt=0)
    """Shards of the cached data set; the run passes over them in order, again and again."""
    shard_scenes: int = Field(2048, ge=len(NANO_SIZES))
    """Scenes per shard, as many of every size."""
    brief_share: float = Field(0.15, ge=0, le=1)
    """Share of batches captioned as a user would type rather than densely."""
    validation_scenes: int = Field(160, ge=len(NANO_SIZES))
    """Scenes of the validation loss."""


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(
    kind: type[ConfigT], source: str, stage: str, overrides: Mapping[str, Any] | None = None
) -> ConfigT:
    """Read a stage's settings.

    Args:
        kind: The model to validate with.
        source: A preset's name, such as `nano`, or the path of a JSON file.
        stage: The stage's name, for presets, such as `pretrain`; or `ablation`.
        overrides: Settings that replace those of the source.

    Raises:
        ParameterError: No such preset or file, or settings that do not validate.
    """
    text = _settings_text(source, stage)
    try:
        return kind.model_validate({**json.loads(text), **(overrides or {})})
    except (ValueError, TypeError, RecursionError) as error:
        raise ParameterError(f"config {source!r} for {stage}: {error}") from error


def _settings_text(source: str, stage: str) -> bytes:
    presets = resources.files("lens_core.training") / "presets"
    for path in (presets / source / f"{stage}.json", Path(source)):
        if path.is_file():
            return path.read_bytes()
    known = sorted(p.name for p in presets.iterdir() if (p / f"{stage}.json").is_file())
    raise ParameterError(
        f"config {source!r} is neither a preset of {stage} ({', '.join(known) or 'none'}) nor a "
        "JSON file"
    )
