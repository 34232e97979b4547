"""Low-rank changes as the training engine's weights: adapters in float32 beside a frozen model."""

import warnings

import torch
from peft import LoraConfig

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
from lens_core.training.parallel import ReplicatedWeights
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel

ADAPTER = "default"


class LoraWeights(ReplicatedWeights[Denoiser]):
    """Float32 adapters, the same in every process, beside a frozen denoiser that computes."""

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
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        return cls(network, masters, workers)

    def reduce(self) -> None:
        """Average over the workers; all send the same tensors, whatever their batch."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        super().reduce()


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
