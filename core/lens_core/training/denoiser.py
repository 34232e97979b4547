"""The denoiser's weights during training: float32 masters, a fast copy, an average, optimisers."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS
from lens_core.training.config import PretrainConfig
from lens_core.training.objective import AlignmentHead
from lens_core.training.optim import rate_factor, set_rates, update_average
from lens_core.training.state import optimizer_tensors, restore_optimizer, select, under
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel


@torch.no_grad()
def initialise(model: LensTransformer2DModel) -> None:
    """Start every block as the identity and the output at zero (adaLN-Zero, arXiv 2212.09748)."""
    for name, module in model.named_modules():
        if name.endswith(("img_mod.1", "txt_mod.1", "norm_out.linear")) or name == "proj_out":
            module.weight.zero_()
            module.bias.zero_()


@dataclass
class DenoiserTraining:
    """Everything about the weights that a step reads or changes.

    Attributes:
        config: The run's settings.
        model: Computes; in the training precision, compiled.
        head: The alignment head, if the run has one.
        masters: Float32 weights by name; `model.*` and `head.*`.
        average: Their exponential moving average.
        optimizers: Muon for the blocks' matrices, AdamW for the rest.
    """

    config: PretrainConfig
    model: LensTransformer2DModel
    head: AlignmentHead | None
    masters: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]

    @classmethod
    def create(cls, config: PretrainConfig) -> "DenoiserTraining":
        """Fresh weights from the run's seed."""
        torch.manual_seed(config.seed)
        model = LensTransformer2DModel(**config.model)
        initialise(model)
        head = None
        if config.align_block is not None:
            sizes = (len(CLASSES) + 1, len(COLORS) + 1, len(BACKGROUNDS))
            head = AlignmentHead(int(config.model["inner_dim"]), sizes)
        modules = {"model": model, "head": head or nn.Module()}
        masters = {
            f"{group}.{name}": parameter.detach().clone().requires_grad_()
            for group, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        average = {name: tensor.detach().clone() for name, tensor in masters.items()}
        if config.precision == "bfloat16":
            for module in modules.values():
                module.bfloat16()
        return cls(config, model, head, masters, average, _optimizers(config, masters))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The computing copy's parameters, named as the masters are."""
        named = {f"model.{name}": p for name, p in self.model.named_parameters()}
        if self.head is not None:
            named |= {f"head.{name}": p for name, p in self.head.named_parameters()}
        return named

    def update(self, step: int, workers: Workers) -> tuple[float, bool]:
        """Apply the gradients of the computing copy, averaged over the workers.

        Returns:
            The gradient norm, and whether it was finite; a step that is not changes nothing.
        """
        parameters = self.parameters()
        for name, master in self.masters.items():
            gradient = parameters[name].grad
            master.grad = None if gradient is None else gradient.float()
            parameters[name].grad = None
        workers.average(m.grad for m in self.masters.values() if m.grad is not None)
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters.values(), self.config.clip))
        if not torch.isfinite(torch.tensor(norm)):
            return norm, False
        set_rates(self.optimizers, rate_factor(step, self.config))
        for optimizer in self.optimizers:
            optimizer.step()
        names = list(self.masters)
        update_average(
            [self.average[name] for name in names],
            [self.masters[name].detach() for name in names],
            self.config.ema_decay,
            step,
        )
        self.refresh()
        return norm, True

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the computing copy."""
        for name, parameter in self.parameters().items():
            parameter.copy_(self.masters[name])

    def averaged(self) -> LensTransformer2DModel:
        """A float32 model that holds the averaged weights."""
        model = LensTransformer2DModel(**self.config.model)
        model.eval()
        model.load_state_dict(select("model", self.average))
        return cast(LensTransformer2DModel, model)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for a checkpoint."""
        state = under("master", self.masters) | under("average", self.average)
        for index, optimizer in enumerate(self.optimizers):
            state |= under(f"optimizer{index}", optimizer_tensors(optimizer))
        return state

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo `tensors`."""
        for prefix, target in (("master", self.masters), ("average", self.average)):
            for name, tensor in select(prefix, tensors).items():
                target[name].copy_(tensor)
        for index, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, select(f"optimizer{index}", tensors))
        self.refresh()


def _optimizers(config: PretrainConfig, masters: dict[str, Tensor]) -> list[torch.optim.Optimizer]:
    matrices = {n: p for n, p in masters.items() if "transformer_blocks" in n and p.ndim == 2}
    rest = [p for n, p in masters.items() if n not in matrices]
    muon = torch.optim.Muon(
        list(matrices.values()),
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(
        rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    muon.param_groups[0]["peak"] = config.muon_learning_rate
    adam.param_groups[0]["peak"] = config.learning_rate
    return [muon, adam]
