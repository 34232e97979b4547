"""Settings of training over buckets."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from lens_core.data.buckets import BATCH_SIZES
from lens_core.data.loader import LoaderSettings
from lens_core.data.order import OrderKind
from lens_core.data.policy import DataPolicy
from lens_core.training.config import DenoiserConfig


class BucketConfig(DenoiserConfig):
    """Flow matching on the batches of a `BucketLoader`."""

    batch_size: int = Field(1, gt=0)
    """Not used: `batch_sizes` says how large batches are."""
    batch_sizes: dict[int, PositiveInt] = Field(
        default_factory=lambda: dict(BATCH_SIZES), min_length=1
    )
    """Pictures of a batch by the base of its bucket, so that batches take about equally long."""
    bucket_shares: Literal["samples", "uniform"] | dict[str, float] = "samples"
    """How often buckets are drawn: every picture equally often, all buckets alike, or by name."""
    caption_shares: dict[str, float] = Field(default_factory=dict)
    """Weight of every kind of caption; without any, each picture's first one."""
    order: OrderKind = "epochs"
    """`epochs` shows every picture of a bucket once before any again; `resampled` draws anew."""
    window: int = Field(8, gt=0)
    """Shards whose pictures are mixed with each other."""
    policy: DataPolicy = DataPolicy()
    """What is done about data that cannot be used."""
    loader_threads: int = Field(2, ge=0)
    """Threads that read ahead."""
    prefetch: int = Field(4, gt=0)
    """Batches that are read ahead."""
    text_multiple: int = Field(32, gt=0)
    """Text is padded to a multiple of this many tokens, so that few shapes occur."""

    cache_latents: bool = True
    """Keep latents on disk; fine-tuning always does."""
    cache_text: bool = True
    """Keep text features on disk, about 3 MB for each caption at 3.8B; fine-tuning always does."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample pictures; without any, scenes of the nano world."""
    encoder_precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Format of the frozen encoders."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.global_batch is not None:
            raise ValueError("global_batch has no meaning where batches differ in size")
        if self.align_block is not None:
            raise ValueError(
                "align_block needs the truth of drawn scenes, which shards do not hold"
            )
        return self

    def loader(self) -> LoaderSettings:
        """The loader's part."""
        return LoaderSettings(
            seed=self.seed,
            batch_sizes=self.batch_sizes,
            bucket_shares=self.bucket_shares,
            caption_shares=self.caption_shares,
            order=self.order,
            window=self.window,
            policy=self.policy,
            threads=self.loader_threads,
            prefetch=self.prefetch,
        )


class MixedConfig(BucketConfig):
    """Training of a whole denoiser over buckets: the stages `lowres` and `mixed`."""

    start: str | None = None
    """Pipeline folder to start from; None takes `pretrain/pipeline` or `lowres/pipeline` of the
    same training. With `model`, only its frozen parts count; None then takes `components`."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `LensTransformer2DModel` to train from fresh weights; empty to start from those
    of `start`."""
    data: str | None = None
    """Folder of shards; None takes `data` in the same training."""
    validation_data: str | None = None
    """Folder of shards of the validation loss, such as sizes that are not trained on."""
    validation_pictures: int = Field(32, gt=0)
    """Pictures of every bucket that the validation loss rests on."""
    cache: str | None = None
    """Folder of the caches; None takes `cache` in the same training."""

    def shards(self, out: Path) -> Path:
        """Where the shards lie in a training in `out`."""
        return out / "data" if self.data is None else Path(self.data)

    def caches(self, out: Path) -> Path:
        """Where the caches lie in a training in `out`."""
        return out / "cache" if self.cache is None else Path(self.cache)
