"""Low-rank changes as the training engine's weights: adapters in float32 beside a frozen model."""

import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.memory.plan import RESIDENT, MemoryPlan
from lens_core.memory.quantise import quantise
from lens_core.memory.transfer import Transfer
from lens_core.training.blocks import prepare_blocks
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.devices import place
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.frozen import hold_frozen, recomputing
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
        cls,
        config: LoraTrainingConfig,
        model: LensTransformer2DModel,
        workers: Workers,
        plan: MemoryPlan = RESIDENT,
        transfer: Transfer | None = None,
    ) -> "LoraWeights":
        """Add fresh adapters, drawn from the run's seed, that change nothing yet.

        Args:
            config: The run's settings, `model` filled in.
            model: The denoiser in the run's precision, in the host's memory.
            workers: The processes that train together.
            plan: Where the frozen weights are and in what form.
            transfer: How they reach the device; by default the best way.

        Raises:
            ParameterError: No layer has one of the wanted names, or the plan does not fit.
            ComponentError: torchao is needed and not installed.
        """
        model.requires_grad_(False)
        quantise(model, plan.transformer_weights)
        attach_adapters(model, config)
        hold_frozen(model, plan, place(config.device), transfer)
        with torch.device("meta"):
            network = Denoiser(config)
        network.model = model
        prepare_blocks(network.blocks, recomputing(plan, config))
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


def attach_adapters(model: LensTransformer2DModel, config: LoraTrainingConfig) -> None:
    """Add fresh adapters to a denoiser, drawn from the run's seed.

    Raises:
        ParameterError: No layer has one of the wanted names.
    """
    torch.manual_seed(config.seed)
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.targets()),
        init_lora_weights="gaussian",
    )
    with warnings.catch_warnings():
        # PEFT warns that it cannot merge adapters into rounded weights, which nobody asks for.
        warnings.filterwarnings("ignore", "TorchaoLoraLinear")
        try:
            model.add_adapter(adapter, adapter_name=ADAPTER)
        except ValueError as error:
            raise ParameterError(f"target_modules {config.targets()}: {error}") from error


def lora_training(
    config: LoraTrainingConfig,
    model: LensTransformer2DModel,
    workers: Workers,
    plan: MemoryPlan = RESIDENT,
    transfer: Transfer | None = None,
) -> DenoiserTraining:
    """Adapters with their average and their optimiser; see `LoraWeights.create`."""
    weights = LoraWeights.create(config, model, workers, plan, transfer)
    average = {name: tensor.detach().clone() for name, tensor in weights.masters.items()}
    optimizer = torch.optim.AdamW(
        weights.masters.values(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    optimizer.param_groups[0]["peak"] = config.learning_rate
    return DenoiserTraining(config, place(config.device), weights, average, [optimizer])


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}
