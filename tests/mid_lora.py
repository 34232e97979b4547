"""Adapters on the middle-sized denoiser, and a few steps of training them on noise."""

from typing import Any

import torch
from torch import Generator, Tensor

from lens_core.memory.plan import MemoryPlan
from lens_core.memory.transfer import Transfer
from lens_core.training.batches import Batch
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.flow_matching import velocity_error
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.weights import lora_training
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel
from mid_size import mid_transformer

SIDE, TOKENS = 192, 24


def lora_config(**changes: Any) -> LoraTrainingConfig:
    values: dict[str, Any] = {
        "start": "s",
        "steps": 9,
        "learning_rate": 0.01,
        "batch_sizes": {SIDE: 2},
        "warmup_steps": 0,
        "precision": "float32",
        "compile": False,
        "rank": 4,
        "modules": ("attention", "mlp"),
    }
    return LoraTrainingConfig(**{**values, **changes})


def vivid_transformer() -> LensTransformer2DModel:
    """A denoiser of which every block matters."""
    model = mid_transformer()
    for name, parameter in model.named_parameters():
        if name.endswith(("_mod.1.weight", "proj_out.weight", "norm_out.linear.weight")):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def mid_lora(
    plan: MemoryPlan,
    transfer: Transfer | None = None,
    model: LensTransformer2DModel | None = None,
    **changes: Any,
) -> DenoiserTraining:
    """Training of adapters that change something already."""
    model = model or vivid_transformer()
    given = {k: v for k, v in model.config.items() if not k.startswith("_")}
    made = lora_training(lora_config(model=given, **changes), model, Workers(), plan, transfer)
    for index, master in enumerate(made.weights.masters.values()):
        master.data += 0.02 * torch.randn(master.shape, generator=Generator().manual_seed(index))
    made.weights.refresh()
    return made


def batch(number: int) -> Batch:
    noise = Generator().manual_seed(number)
    return Batch(
        (SIDE, SIDE),
        torch.randn(2, (SIDE // 16) ** 2, 16, generator=noise),
        torch.randn(4, 2, TOKENS, 128, generator=noise),
        torch.ones(2, TOKENS, dtype=torch.bool),
    )


def learn(made: DenoiserTraining, steps: int = 2) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and the adapters after some steps."""
    losses = []
    for step in range(steps):
        made.weights.begin_batch(last=True)
        times = torch.tensor([0.3 + 0.1 * step, 0.8])
        outcome = velocity_error(made, batch(step), times, Generator().manual_seed(step))
        loss = outcome.losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        made.weights.end_batch()
        made.update(step)
        losses.append(float(loss.detach()))
    return losses, {name: m.detach().clone() for name, m in made.weights.masters.items()}
