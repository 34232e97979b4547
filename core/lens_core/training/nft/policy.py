"""The policy: a frozen denoiser with two adapters, the one in training and the one that draws."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lens_core.checkpoints.lora_adapters import save_lora_file
from lens_core.data.hashing import weights_mark
from lens_core.errors import ParameterError
from lens_core.training.blocks import wrap_blocks
from lens_core.training.dtensors import swap_values, whole
from lens_core.training.fields import LensField
from lens_core.training.nft.config import Decay, RLConfig
from lens_core.training.optim import update_average
from lens_core.training.parallel import shard, weight_mesh
from lens_core.training.roles import Role
from lens_core.training.state import add_prefix
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel, LensTransformerBlock

Adapter = Literal["default", "old", "reference"]


def old_policy_decay(kind: Decay, updates: int) -> float:
    """Share of itself that the rollout policy keeps after a number of updates.

    `copy` keeps nothing. `linear_to_0_5` is `min(0.001 * updates, 0.5)`. `delayed_linear_to_0_999`
    is 0 before update 75 and `min(0.0075 * (updates - 75), 0.999)` from there.
    """
    if kind == "copy":
        return 0.0
    if kind == "linear_to_0_5":
        return min(0.001 * updates, 0.5)
    return min(0.0075 * max(0, updates - 75), 0.999)


@dataclass
class Policy:
    """Weights of the stage.

    Attributes:
        config: The run's settings.
        model: The denoiser with adapters `default` (in training) and `old` (draws), which are
            whole in every process; the frozen weights may be sharded.
        role: `default` and its optimiser.
        old: Parameters of `old`, named as those of `default`.
        fixed: What a run that is resumed must have as before; see `Saved.require`.
        average: Moving average of `default`, for validation and export.
    """

    config: RLConfig
    model: LensTransformer2DModel
    role: Role
    old: dict[str, Tensor]
    fixed: Mapping[str, Any]
    average: dict[str, Tensor]

    @classmethod
    def create(
        cls, config: RLConfig, model: LensTransformer2DModel, workers: Workers | None = None
    ) -> "Policy":
        """Add fresh adapters, initialised from the run's seed to change nothing yet.

        Args:
            config: The run's settings.
            model: The denoiser where it is to compute, in the run's precision; taken over.
            workers: The processes that train together; None is this one alone.

        Raises:
            ParameterError: No layer has one of the names in `target_modules`, or `sharding` does
                not divide the processes.
        """
        workers = workers or Workers()
        fixed = {"alpha": config.alpha, "start weights": weights_mark(model)}
        torch.manual_seed(config.seed)
        add_adapters(model, config)
        mine, old = _adapter(model, "default"), _adapter(model, "old")
        blocks = cast(list[LensTransformerBlock], list(model.transformer_blocks))
        wrap_blocks(blocks, config)
        mesh = weight_mesh(config.sharding, workers, model.device)
        if mesh is not None:
            precision = getattr(torch, config.precision)
            shard(model, blocks, mesh, precision, kept_whole=[*mine.values(), *old.values()])
        optimizer = torch.optim.AdamW(
            mine.values(),
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=config.weight_decay,
        )
        optimizer.param_groups[0]["peak"] = config.learning_rate
        weights = AdapterWeights(model, cast(dict[str, Tensor], mine), workers)
        role = Role("policy", weights, optimizer, config.clip)
        average = {name: parameter.detach().clone() for name, parameter in mine.items()}
        policy = cls(config, model, role, cast(dict[str, Tensor], old), fixed, average)
        policy.blend_old(0.0)
        return policy

    @contextmanager
    def using(self, adapter: Adapter) -> Iterator[None]:
        """Let the model compute with one adapter, or as the frozen reference without any."""
        if adapter == "reference":
            self.model.disable_adapters()
        else:
            self.model.set_adapter(adapter)
        try:
            yield
        finally:
            self.model.enable_adapters()
            self.model.set_adapter("default")

    def field(self, grid: tuple[int, int]) -> LensField:
        """The model as a velocity field, with the adapter that is in use when it is called."""
        return LensField(self.model, grid, getattr(torch, self.config.precision))

    @torch.no_grad()
    def advance(self) -> float:
        """After an update of `default`, update the average and the rollout policy.

        Returns:
            The share of itself that the rollout policy kept.
        """
        names = list(self.average)
        update_average(
            [self.average[name] for name in names],
            [self.role.parameters[name].detach() for name in names],
            self.config.ema_decay,
            self.role.updates - 1,
        )
        decay = old_policy_decay(self.config.old_decay, self.role.updates)
        self.blend_old(decay)
        return decay

    @torch.no_grad()
    def blend_old(self, decay: float) -> None:
        """`old <- decay * old + (1 - decay) * default`."""
        for name, parameter in self.role.parameters.items():
            self.old[name].mul_(decay).add_(parameter, alpha=1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which `default` holds its moving average."""
        swap_values(self.role.parameters, self.average)
        try:
            yield
        finally:
            swap_values(self.role.parameters, self.average)

    def others(self) -> dict[str, Tensor]:
        """Tensors of a training state besides those of the role, by name."""
        return add_prefix("old", self.old) | add_prefix("average", self.average)

    def save_adapter(self, folder: Path) -> None:
        """Write the averaged adapter in the format that diffusers loads."""
        with self.averaged():
            path = folder / "pytorch_lora_weights.safetensors"
            save_lora_file(self.model, path, "default")

    @torch.no_grad()
    def merged(self, wanted: bool = True) -> LensTransformer2DModel | None:
        """A denoiser in main memory, without adapters, whose weights contain the averaged one.

        Args:
            wanted: Whether this process wants it; all must call.
        """
        frozen = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in self.model.state_dict().items()
            if ".lora_" not in name
        }
        weights = whole(frozen, wanted)
        if not wanted:
            return None
        with self.averaged():
            for name, module in self.model.named_modules():
                if isinstance(module, LoraLayer):
                    weight = weights[f"{name}.weight"]
                    delta = module.get_delta_weight("default").to(weight.device)
                    weights[f"{name}.weight"] = (weight + delta).to(weight.dtype)
        with torch.device("meta"):
            merged = LensTransformer2DModel.from_config(dict(self.model.config))
        merged.load_state_dict(weights, assign=True)
        return cast(LensTransformer2DModel, merged.eval())


@dataclass
class AdapterWeights:
    """Float32 adapters inside a frozen denoiser; see `training.parallel.Weights`.

    Attributes:
        network: The denoiser; it computes with the adapters themselves.
        masters: The adapters' parameters by name.
        workers: Average the gradients.
    """

    network: LensTransformer2DModel
    masters: dict[str, Tensor]
    workers: Workers

    def begin_batch(self, last: bool) -> None:
        """Nothing to prepare."""

    def end_batch(self) -> None:
        """Nothing to do: the backward pass fills the masters' gradients itself."""

    def reduce(self) -> None:
        """Average over the workers."""
        self.workers.average(m.grad for m in self.masters.values() if m.grad is not None)

    def refresh(self) -> None:
        """Nothing to do: the network computes with the masters themselves."""


def add_adapters(model: LensTransformer2DModel, config: RLConfig) -> None:
    """Freeze a denoiser and add the adapters `old` and `default`, in float32; the latter is active.

    Raises:
        ParameterError: No layer has one of the names in `target_modules`.
    """
    model.requires_grad_(False)
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        init_lora_weights="gaussian",
    )
    try:
        with warnings.catch_warnings():
            # Two adapters on one model are what is wanted here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            for name in ("old", "default"):
                model.add_adapter(adapter, adapter_name=name)
    except ValueError as error:
        raise ParameterError(f"target_modules {config.target_modules}: {error}") from error
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_A.float()
            module.lora_B.float()


def _adapter(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters, its name left out of theirs."""
    mark = f".{name}."
    return {
        full.replace(mark, "."): parameter
        for full, parameter in model.named_parameters()
        if ".lora_" in full and mark in full
    }
