"""The networks of the distillation and their optimisers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lens_core.loading import load_transformer
from lens_core.pipeline import LensPipeline
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.discriminator import Discriminator, TeacherFeatures
from lens_core.training.fields import LensField
from lens_core.training.optim import update_average
from lens_core.training.roles import Role
from lens_core.training.state import select, under
from lens_core.transformer import LensTransformer2DModel

ADAM_BETAS = (0.0, 0.9)


@dataclass
class Models:
    """Weights of the stage.

    Attributes:
        config: The run's settings.
        teacher: Frozen.
        student: In training, in a few steps what the teacher does in many.
        fake: In training, the score of the student's samples.
        features: The teacher's, for the discriminator.
        discriminator: In training.
        roles: Of student, fake and discriminator, by name.
        average: Moving average of the student.
    """

    config: DistillConfig
    teacher: LensTransformer2DModel
    student: LensTransformer2DModel
    fake: LensTransformer2DModel
    features: TeacherFeatures
    discriminator: Discriminator
    roles: dict[str, Role]
    average: dict[str, Tensor]

    @classmethod
    def create(cls, config: DistillConfig, start: Path, pipeline: LensPipeline) -> "Models":
        """Student and fake score start as float32 copies of the pipeline's denoiser."""
        device = pipeline.device
        teacher = pipeline.transformer.requires_grad_(False)
        student, fake = (load_transformer(start / "transformer").to(device) for _ in range(2))
        if config.gradient_checkpointing:
            student.enable_gradient_checkpointing()
            fake.enable_gradient_checkpointing()
        features = TeacherFeatures(teacher, config.taps)
        torch.manual_seed(config.seed)
        discriminator = Discriminator(features.width, len(config.taps)).to(device)
        roles = {
            "student": _role("student", student, config.learning_rate, config),
            "fake": _role("fake", fake, config.fake_learning_rate, config),
            "discriminator": _role(
                "discriminator", discriminator, config.discriminator_learning_rate, config
            ),
        }
        average = {n: p.detach().clone() for n, p in roles["student"].parameters.items()}
        return cls(config, teacher, student, fake, features, discriminator, roles, average)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""
        return cast(torch.dtype, getattr(torch, self.config.precision))

    def field(self, model: LensTransformer2DModel, grid: tuple[int, int]) -> LensField:
        """One of the denoisers as a velocity field."""
        return LensField(model, grid, self.dtype)

    @torch.no_grad()
    def follow(self) -> None:
        """After an update of the student: align the fake score with it, and average it."""
        student = self.roles["student"]
        for name, parameter in self.roles["fake"].parameters.items():
            parameter.lerp_(student.parameters[name], self.config.alignment)
        names = list(self.average)
        update_average(
            [self.average[name] for name in names],
            [student.parameters[name].detach() for name in names],
            self.config.ema_decay,
            student.updates - 1,
        )

    def averaged(self) -> LensTransformer2DModel:
        """A float32 denoiser that holds the student's average."""
        config = dict(self.student.config)
        model = cast(LensTransformer2DModel, LensTransformer2DModel.from_config(config))
        model.load_state_dict({name: tensor.clone() for name, tensor in self.average.items()})
        model.to(self.teacher.device).eval()
        return model

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for a checkpoint."""
        state = under("average", self.average)
        for role in self.roles.values():
            state |= role.tensors()
        return state

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for role in self.roles.values():
            role.restore(tensors)
        for name, tensor in select("average", tensors).items():
            self.average[name].copy_(tensor)


def _role(name: str, module: nn.Module, rate: float, config: DistillConfig) -> Role:
    module.requires_grad_(True)
    parameters = dict(module.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=rate, betas=ADAM_BETAS, weight_decay=config.weight_decay
    )
    optimizer.param_groups[0]["peak"] = rate
    return Role(name, parameters, optimizer, config.clip)
