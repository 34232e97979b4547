"""Settings of an ablation."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lens_core.errors import ParameterError
from lens_core.training.config import Size, load_config

Changes = dict[str, Any]
"""Settings of a stage that a variant changes; those under `model` are merged into the model's."""


class AblationConfig(BaseModel):
    """What every cell has in common, and how cells are scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: dict[str, str]
    """The preset or JSON file of each stage that cells may run: `lowres` and `rl`."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of every variant; the interval of the table is over them."""
    settings: Changes = Field(default_factory=dict)
    """Settings of the stage in every cell, such as `steps`, `data` or `start`."""
    variants: dict[str, Changes] = Field(default_factory=dict)
    """Variants by name, in place of the study's own."""
    prompt_count: int = Field(1024, gt=3)
    """Prompts that are drawn for `rl-subsets` where none are given in a file."""
    excluded: str = "Text"
    """Tag or category of the prompts that one variant of `rl-subsets` goes without."""

    prompts: str = "nano"
    """What the finished models are scored on: `nano`, or a JSON-lines file of prompts."""
    reward: str = "nano"
    """What scores their pictures; see `load_reward`."""
    reward_options: dict[str, Any] = Field(default_factory=dict)
    """Its arguments."""
    pictures: int = Field(300, gt=1)
    """Pictures of every cell's score."""
    sizes: tuple[Size, ...] = Field(((128, 128),), min_length=1)
    """Height and width of these pictures, in turn."""
    sampling_steps: int = Field(20, gt=0)
    """Steps of the sampler."""
    guidance_scale: float = Field(3.0, ge=1)
    """Guidance."""
    batch_size: int = Field(16, gt=0)
    """Pictures drawn at once."""
    device: str = "cpu"
    """Where they are drawn."""

    def base_of(self, stage: str) -> str:
        """The preset or JSON file of a stage.

        Raises:
            ParameterError: `base` names none.
        """
        if stage not in self.base:
            raise ParameterError(f"base names no config of stage {stage}, only {self.base}")
        return self.base[stage]


def load_ablation(source: str, overrides: dict[str, Any]) -> AblationConfig:
    """Read an ablation's settings from a preset or a JSON file.

    Raises:
        ParameterError: No such preset or file, or settings that do not validate.
    """
    return load_config(AblationConfig, source, "ablation", overrides)
