"""The networks of the distillation and their optimisers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lens_core.data.hashing import weights_mark
from lens_core.loading import load_transformer
from lens_core.pipeline import LensPipeline
from lens_core.training.blocks import wrap_blocks
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.discriminator import Discriminator, Teacher
from lens_core.training.dtensors import local, swap_values, whole
from lens_core.training.fields import LensField
from lens_core.training.optim import update_average
from lens_core.training.parallel import Weights, place_network, shard, weight_mesh
from lens_core.training.roles import Role
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel

ADAM_BETAS = (0.0, 0.9)
"""The report's decay rates of the two moments (arXiv 2605.21573), of all three optimisers."""


@dataclass
class Models:
    """Weights of the stage, whole in every process or sharded.

    Attributes:
        config: The run's settings.
        teacher: Frozen, in the run's precision.
        roles: `student`, in a few steps what the teacher is in many; `fake`, the score of the
            student's samples; `discriminator`.
        average: Moving average of the student's masters, laid out as they are.
        fixed: What a run that is resumed must have as before; see `Saved.require`.
    """

    config: DistillConfig
    teacher: Teacher
    roles: dict[str, Role]
    average: dict[str, Tensor]
    fixed: Mapping[str, Any]

    @classmethod
    def create(
        cls, config: DistillConfig, start: Path, pipeline: LensPipeline, workers: Workers
    ) -> "Models":
        """Student and fake score start as copies of the pipeline's denoiser.

        Args:
            config: The run's settings.
            start: The pipeline's folder.
            pipeline: Where and in the precision in which it is to compute; its denoiser becomes
                the teacher.
            workers: The processes that train together.

        Raises:
            ParameterError: `taps` the teacher does not have, or `sharding` that does not fit.
        """
        device = pipeline.device
        mesh = weight_mesh(config.sharding, workers, device)
        precision = getattr(torch, config.precision)
        fixed = {"teacher": weights_mark(pipeline.transformer)}
        teacher = Teacher(pipeline.transformer, config.taps)
        wrap_blocks(teacher.blocks, config)
        if mesh is not None:
            shard(teacher, teacher.blocks, mesh, precision)

        def copy() -> Weights[Any]:
            network = load_transformer(start / "transformer").requires_grad_(True)
            blocks = list(network.transformer_blocks)
            wrap_blocks(blocks, config)
            return place_network(network, blocks, mesh, workers, device, precision)

        student, fake = copy(), copy()
        torch.manual_seed(config.seed)
        head = Discriminator(teacher.width, len(config.taps))
        judge = place_network(head, [], mesh, workers, device, torch.float32)
        roles = [
            _role("student", student, config.learning_rate, config),
            _role("fake", fake, config.fake_learning_rate, config),
            _role("discriminator", judge, config.discriminator_learning_rate, config),
        ]
        average = {n: p.detach().clone() for n, p in student.masters.items()}
        return cls(config, teacher, {role.name: role for role in roles}, average, fixed)

    @property
    def student(self) -> LensTransformer2DModel:
        """The student's network, in the run's precision."""
        return cast(LensTransformer2DModel, self.roles["student"].weights.network)

    @property
    def fake(self) -> LensTransformer2DModel:
        """The fake score's network, in the run's precision."""
        return cast(LensTransformer2DModel, self.roles["fake"].weights.network)

    @property
    def discriminator(self) -> Discriminator:
        """The discriminator's network, in float32."""
        return cast(Discriminator, self.roles["discriminator"].weights.network)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""
        return cast(torch.dtype, getattr(torch, self.config.precision))

    def field(self, model: nn.Module, grid: tuple[int, int]) -> LensField:
        """One of the denoisers as a velocity field."""
        return LensField(model, grid, self.dtype)

    @torch.no_grad()
    def follow(self) -> None:
        """After an update of the student, move the fake score towards it and update its average."""
        student, fake = self.roles["student"], self.roles["fake"]
        for name, parameter in fake.parameters.items():
            local(parameter.detach()).lerp_(
                local(student.parameters[name].detach()), self.config.alignment
            )
        fake.weights.refresh()
        names = list(self.average)
        update_average(
            [local(self.average[name]) for name in names],
            [local(student.parameters[name].detach()) for name in names],
            self.config.ema_decay,
            student.updates - 1,
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the student computes with its moving average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def export(self, wanted: bool) -> LensTransformer2DModel | None:
        """A float32 denoiser in main memory that holds the student's average.

        Args:
            wanted: Whether this process wants it; all must call.
        """
        weights = whole(self.average, wanted)
        if not wanted:
            return None
        with torch.device("meta"):
            model = LensTransformer2DModel.from_config(dict(self.student.config))
        model.load_state_dict(weights, assign=True)
        return cast(LensTransformer2DModel, model.eval())

    def others(self) -> dict[str, Tensor]:
        """Tensors of a training state besides those of the roles, by name."""
        return {f"average.{name}": tensor for name, tensor in self.average.items()}

    def _exchange(self) -> None:
        student = self.roles["student"]
        swap_values(student.parameters, self.average)
        student.weights.refresh()


def _role(name: str, weights: Weights[Any], rate: float, config: DistillConfig) -> Role:
    optimizer = torch.optim.AdamW(
        weights.masters.values(), lr=rate, betas=ADAM_BETAS, weight_decay=config.weight_decay
    )
    optimizer.param_groups[0]["peak"] = rate
    return Role(name, weights, optimizer, config.clip)
