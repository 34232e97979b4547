"""Settings of fine-tuning on one's own pictures."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lens_core.data.fitting import Crop
from lens_core.memory.plan import AUTO, MemoryPlan, find_plan
from lens_core.sizes import SIZE_MULTIPLE
from lens_core.training.config import ATTENTION, Size
from lens_core.training.mixed.config import BucketConfig

MLP = ("img_mlp.w1", "img_mlp.w2", "img_mlp.w3", "txt_mlp.w1", "txt_mlp.w2", "txt_mlp.w3")
MODULATION = ("img_mod.1", "txt_mod.1")


class LoraTrainingConfig(BucketConfig):
    """Fine-tuning of a finished model on a folder of pictures and captions."""

    start: str
    """Pipeline folder to start from, or the name of a packaged model."""
    images: str = "images"
    """Folder of pictures with captions, or a table that lists them; see `lens data shard`."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Not used: the denoiser is that of `start`."""
    method: Literal["lora", "full"] = "lora"
    """Low-rank changes beside frozen weights, or every weight itself."""
    rank: int = Field(16, gt=0)
    """Rank of the changes."""
    alpha: float = Field(16.0, gt=0)
    """Their scale times the rank."""
    modules: tuple[Literal["attention", "mlp", "modulation"], ...] = ("attention",)
    """Which linear layers of every block are changed."""
    target_modules: tuple[str, ...] = ()
    """Layers by the end of their names, in place of `modules`."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """AdamW for adapters; `muon` for the matrices inside blocks where all weights are trained."""
    validation_images: str | None = None
    """Folder or table of pictures for the validation loss, which are not trained on."""
    validation_pictures: int = Field(8, gt=0)
    """Of every bucket, at most."""
    buckets: str = "lens"
    """Table of the sizes that pictures are fitted to."""
    memory: str | MemoryPlan = "resident"
    """`auto`, the name of a memory plan, or the fields of one; see `docs/memory.md`."""
    guidance_scale: float = 5.0
    """Not used: sample pictures are drawn as `start` is."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample pictures; without any, the captions of the first four pictures."""
    sample_size: Size | None = None
    """Height and width of sample pictures; None takes the square of the largest bucket."""
    crop: Crop = "centre"
    """Which part of a picture is kept."""
    most_cut: float = Field(0.3, ge=0, le=1)
    """Share of a picture that may be cut off."""

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | MemoryPlan) -> str | MemoryPlan:
        if isinstance(memory, str) and memory != AUTO:
            find_plan(memory)
        return memory

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if self.optimizer == "muon" and self.method == "lora":
            raise ValueError("optimizer muon is for method=full; adapters are trained with adamw")
        if self.sample_size is not None and any(
            side <= 0 or side % SIZE_MULTIPLE for side in self.sample_size
        ):
            raise ValueError(
                f"sample_size {self.sample_size} must be two multiples of {SIZE_MULTIPLE}"
            )
        if self.validate_every and self.validation_images is None:
            raise ValueError("validate_every needs validation_images, a folder of other pictures")
        return self

    def targets(self) -> tuple[str, ...]:
        """Ends of the names of the layers that are changed."""
        if self.target_modules:
            return self.target_modules
        groups = {"attention": ATTENTION, "mlp": MLP, "modulation": MODULATION}
        return tuple(name for group in self.modules for name in groups[group])
