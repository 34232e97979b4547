"""Low-rank changes as the training engine's weights: adapters in float32 beside a frozen model."""

from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.training.blocks import prepare_blocks
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.network import Denoiser
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel

ADAPTER = "default"


@dataclass
class LoraWeights:
    """A frozen denoiser in every process, with adapters; see `training.parallel.Weights`.

    Attributes:
        network: Computes in the run's precision.
        masters: Float32 adapters by name.
        workers: Average the gradients.
    """

    network: Denoiser
    masters: dict[str, Tensor]
    workers: Workers

    @classmethod
    def create(
        cls, config: LoraTrainingConfig, model: LensTransformer2DModel, workers: Workers
    ) -> "LoraWeights":
        """Add fresh adapters, drawn from the run's seed, that change nothing yet.

        Args:
            config: The run's settings, `model` filled in.
            model: The denoiser where it is to compute, in the run's precision.
            workers: The processes that train together.

        Raises:
            ParameterError: No layer has one of the wanted names.
        """
        torch.manual_seed(config.seed)
        model.requires_grad_(False)
        adapter = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.targets()),
            init_lora_weights="gaussian",
        )
        try:
            model.add_adapter(adapter, adapter_name=ADAPTER)
        except ValueError as error:
            raise ParameterError(f"target_modules {config.targets()}: {error}") from error
        with torch.device("meta"):
            network = Denoiser(config)
        network.model = model
        prepare_blocks(network.blocks, config)
        network.train()
        masters = {
            name: parameter.detach().float().clone().requires_grad_()
            for name, parameter in _trained(network).items()
        }
        return cls(network, masters, workers)

    def begin_batch(self, last: bool) -> None:
        """Nothing to prepare."""

    def end_batch(self) -> None:
        """Add the gradients to the masters' in float32."""
        for name, parameter in _trained(self.network).items():
            if parameter.grad is None:
                continue
            master, gradient = self.masters[name], parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            parameter.grad = None

    def reduce(self) -> None:
        """Average over the workers; all send the same tensors, whatever their batch."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        self.workers.average(m.grad for m in self.masters.values() if m.grad is not None)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the network."""
        for name, parameter in _trained(self.network).items():
            parameter.copy_(self.masters[name])


def lora_training(
    config: LoraTrainingConfig, model: LensTransformer2DModel, workers: Workers
) -> DenoiserTraining:
    """Adapters with their average and their optimiser."""
    weights = LoraWeights.create(config, model, workers)
    average = {name: tensor.detach().clone() for name, tensor in weights.masters.items()}
    optimizer = torch.optim.AdamW(
        weights.masters.values(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    optimizer.param_groups[0]["peak"] = config.learning_rate
    return DenoiserTraining(config, model.device, weights, average, [optimizer])


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}
