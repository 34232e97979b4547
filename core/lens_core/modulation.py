"""A table of the outputs of all blocks' `*_mod` layers at the timesteps of a schedule.

A third of the parameters of Lens (1.36 of 4.10 billion) turn the time into shifts, scales and
gates, and read nothing else. For a fixed schedule that is a table of 1.8 MB a step in bfloat16;
with it, those weights need not be on the device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lens_core.errors import ParameterError
from lens_core.memory.tensors import parts_of

STREAMS = ("img_mod", "txt_mod")


class Preparation(Protocol):
    """Another form of a denoiser's weights, derived from them to compute faster."""

    def refresh(self) -> None:
        """Derive it again if weights, LoRAs or the device changed."""
        ...


class ModulationTable(nn.Module):
    """Modulations of all blocks by timestep.

    Args:
        timesteps: Float32 `[T]` on the CPU.
        rows: `[T, layers, 2, 6 * dim]`: the image and the text stream's of every block.
    """

    rows: Tensor

    def __init__(self, timesteps: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.timesteps = tuple(timesteps.tolist())
        # Not a buffer: a cast of the model would round it, and no timestep would be found again.
        self._timesteps = timesteps
        unknown = torch.full_like(rows[:1], torch.nan)
        self.register_buffer("rows", torch.cat((rows, unknown)), persistent=False)

    def forward(self, timestep: Tensor) -> Tensor:
        """What the blocks read: `[B, layers, 2, 6 * dim]` for timesteps `[B]`.

        Timesteps are compared exactly. On a GPU, asking whether all were found would make the host
        wait; there, one that is not in the table gives NaN, which the pipeline reports.

        Raises:
            ParameterError: A timestep on the CPU that is not in the table.
        """
        if {self._timesteps.device, self.rows.device} != {timestep.device}:
            self._timesteps = self._timesteps.to(timestep.device)
            self.rows = self.rows.to(timestep.device)
        same = timestep.float()[:, None] == self._timesteps
        found = same.any(1)
        if timestep.device.type == "cpu" and not found.all():
            raise ParameterError(
                f"timestep {timestep.tolist()} is not in the modulation table, which was made for "
                f"{list(self.timesteps)}: make it for these timesteps, or restore the modulations"
            )
        index = torch.where(found, same.int().argmax(1), len(self.timesteps))
        return self.rows.index_select(0, index)


class TabulatedModulation(nn.Sequential):
    """Stands in the place of an `img_mod` or `txt_mod`, whose layers it keeps on the CPU.

    Names in the state dict stay, so that saving, LoRAs and loading work as ever.
    """

    def __init__(self, source: nn.Sequential, stream: int) -> None:
        super().__init__(*source)
        self.stream = stream
        self.train(source.training)

    def forward(self, rows: Tensor) -> Tensor:
        """The stream's part `[B, 6 * dim]` of a block's rows `[B, 2, 6 * dim]`."""
        return rows[:, self.stream]

    def _apply(self, fn: Any, recurse: bool = True) -> "TabulatedModulation":
        """Convert as the rest of the model, but stay on the CPU."""

        def stay(tensor: Tensor) -> Tensor:
            if tensor.is_meta:
                return fn(tensor)  # type: ignore[no-any-return]
            return tensor.to("cpu", fn(tensor.new_empty(0)).dtype)

        super()._apply(stay, recurse)  # type: ignore[no-untyped-call]
        return self


class ModulationTableMixin:
    """What a denoiser can do with a modulation table."""

    transformer_blocks: nn.ModuleList
    time_text_embed: nn.Module
    device: torch.device
    dtype: torch.dtype
    modulation_table: ModulationTable | None

    keeps_modulation_table = False
    """Whether `follow_schedule` makes tables."""

    preparations: Sequence["Preparation"] = ()
    """What faster paths keep of the weights; looked after before every generation."""

    _modulation_key: tuple[Any, ...] = ()

    @torch.inference_mode(False)
    @torch.no_grad()
    def precompute_modulations(
        self, timesteps: Tensor | Sequence[float], device: torch.device | None = None
    ) -> None:
        """Compute the modulations of a schedule and move the `*_mod` weights to the CPU.

        Every row is computed alone, as the plain path does for one picture, so that it is equal to
        it to the bit. Weights that are on the CPU already visit the device one layer at a time.
        From then on the model runs at these timesteps only, and its `*_mod` weights get no
        gradients, until `restore_modulations`.

        Args:
            timesteps: As the model will be given them, each in [0, 1].
            device: Where to compute; by default where the model is.

        Raises:
            ParameterError: No timesteps, or one outside [0, 1].
        """
        times = torch.unique(torch.as_tensor(timesteps, dtype=torch.float32).cpu())
        if not len(times) or not bool(((times >= 0) & (times <= 1)).all()):
            raise ParameterError(f"timesteps {times.tolist()} must be one or more from 0 to 1")
        where = device or self.device
        embedding = _tensors_on(self.time_text_embed, where)
        embedded = [
            functional_call(self.time_text_embed, embedding, (time[None].to(where), self.dtype))
            for time in times
        ]
        blocks = [
            [_outputs(getattr(block, stream), embedded) for stream in STREAMS]
            for block in self.transformer_blocks
        ]
        rows = torch.stack([torch.stack(streams, dim=1) for streams in blocks], dim=1)
        for block in self.transformer_blocks:
            for index, stream in enumerate(STREAMS):
                modulation = getattr(block, stream)
                if not isinstance(modulation, TabulatedModulation):
                    parked = TabulatedModulation(modulation, index).to("cpu")
                    setattr(block, stream, parked)
        self.modulation_table = ModulationTable(times, rows)
        self._modulation_key = self._key()

    @torch.inference_mode(False)
    def restore_modulations(self) -> None:
        """Put the `*_mod` weights back on the device and drop the table. Harmless without one."""
        device = self.device
        for block in self.transformer_blocks:
            for stream in STREAMS:
                modulation = getattr(block, stream)
                if isinstance(modulation, TabulatedModulation):
                    plain = nn.Sequential(*modulation).train(modulation.training)
                    setattr(block, stream, plain.to(device))
        self.modulation_table = None

    @contextmanager
    def with_modulation_table(self, timesteps: Tensor | Sequence[float]) -> Iterator[None]:
        """Run with a table, then restore; errors as in `precompute_modulations`."""
        self.precompute_modulations(timesteps)
        try:
            yield
        finally:
            self.restore_modulations()

    def follow_schedule(self, timesteps: Tensor) -> None:
        """Told by a sampler which timesteps come next; makes a table if tables are kept.

        The table there is serves on if it has them all and neither weights, LoRAs nor precision
        changed since.

        Args:
            timesteps: `[T]` in [0, 1].
        """
        self.refresh_prepared()
        if not self.keeps_modulation_table:
            return
        table = self.modulation_table
        wanted = set(timesteps.float().tolist())
        if table is None or not wanted <= {*table.timesteps} or self._modulation_key != self._key():
            self.precompute_modulations(timesteps, timesteps.device)

    def refresh_prepared(self) -> None:
        """Bring what faster paths keep of the weights up to date with them."""
        for preparation in self.preparations:
            preparation.refresh()

    def _key(self) -> tuple[Any, ...]:
        """Changes when what the table was computed from does."""
        blocks = self.transformer_blocks
        read = [getattr(block, stream) for block in blocks for stream in STREAMS]
        modules = [module for part in (self.time_text_embed, *read) for module in part.modules()]
        return (self.dtype, *(layer_state(module) for module in modules))


def _outputs(modulation: nn.Module, embedded: Sequence[Tensor]) -> Tensor:
    """`[T, 6 * dim]` of embeddings `[1, dim]`, wherever the layer's weights are."""
    if isinstance(modulation, TabulatedModulation):
        modulation = nn.Sequential(*modulation)
    weights = _tensors_on(modulation, embedded[0].device)
    return torch.cat([functional_call(modulation, weights, (time,)) for time in embedded])


def _tensors_on(module: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """A layer's weights and buffers on a device, each moved once."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def layer_state(module: nn.Module) -> tuple[Any, ...]:
    """Tells when a layer computes something else than before.

    Its own tensors, not those of layers inside it, and, if it carries LoRAs, which work and how
    strongly.
    """
    whole = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    tensors = [part for tensor in whole for part in parts_of(tensor)]
    scaling = getattr(module, "scaling", None) or {}
    return (
        *((tensor.data_ptr(), _version(tensor)) for tensor in tensors),
        tuple((name, float(scale)) for name, scale in scaling.items()),
        tuple(getattr(module, "active_adapters", ())) if scaling else (),
        tuple(getattr(module, "merged_adapters", ())) if scaling else (),
        bool(getattr(module, "disable_adapters", False)) if scaling else False,
    )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
