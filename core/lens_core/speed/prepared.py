"""Other forms of a denoiser's weights for faster paths, kept up to date with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lens_core.blocks import SwiGLU
from lens_core.modulation import layer_state
from lens_core.speed.fp8 import Fp8Linear, fits
from lens_core.speed.gate_up import quantise_gate_up, tie, untie
from lens_core.speed.plan import Fp8Layers
from lens_core.transformer import LensTransformer2DModel

_CAREFUL = ("attn.img_qkv", "attn.to_out.0")
_ALL = (*_CAREFUL, "img_mlp.w2", "attn.txt_qkv", "attn.to_add_out", "txt_mlp.w2")
_CAREFUL_MLPS, _ALL_MLPS = ("img_mlp",), ("img_mlp", "txt_mlp")


@dataclass(frozen=True)
class _Slot:
    """A place in the model, whose module others may wrap or replace."""

    parent: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        """The module that is there now."""
        found = self.parent._modules[self.name]
        assert found is not None
        return found


class PreparedWeights:
    """Joint and 8-bit forms of a denoiser's weights.

    Args:
        transformer: Whose layers are changed in place.
        fused_mlp: Compute the first two products of MLPs as one.
        fp8: Products to compute in 8 bits; None for none.
    """

    def __init__(
        self, transformer: LensTransformer2DModel, fused_mlp: bool, fp8: Fp8Layers | None
    ) -> None:
        blocks = list(transformer.transformer_blocks)
        in_fp8: Sequence[str] = ()
        if fp8 is not None:
            in_fp8 = _CAREFUL_MLPS if fp8 == "careful" else _ALL_MLPS
        names = (_CAREFUL if fp8 == "careful" else _ALL) if fp8 is not None else ()
        self._slots = [_slot(block, name) for block in blocks for name in names]
        self._fp8_mlps = _mlps(blocks, in_fp8)
        others = [name for name in _ALL_MLPS if name not in in_fp8]
        self._joint_mlps = _mlps(blocks, others) if fused_mlp else []
        self._state: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Make everything again if weights, LoRAs or their places changed."""
        if self._state == self._current():
            return
        for slot in self._slots:
            _quantise(slot)
        for mlp in self._fp8_mlps:
            quantise_gate_up(mlp)
        for mlp in self._joint_mlps:
            tie(mlp)
        self._state = self._current()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has plain layers at first."""
        return {**self.__dict__, "_state": None}

    def remove(self) -> None:
        """Leave the layers as they were."""
        for slot in self._slots:
            _restore(slot)
        for mlp in (*self._fp8_mlps, *self._joint_mlps):
            untie(mlp)

    def _current(self) -> tuple[Any, ...]:
        layers = [slot.layer for slot in self._slots]
        layers += [w for mlp in (*self._fp8_mlps, *self._joint_mlps) for w in (mlp.w1, mlp.w3)]
        return tuple(layer_state(module) for layer in layers for module in layer.modules())


def _slot(block: nn.Module, name: str) -> _Slot:
    parent, _, last = name.rpartition(".")
    return _Slot(block.get_submodule(parent), last)


def _mlps(blocks: Sequence[nn.Module], names: Sequence[str]) -> list[SwiGLU]:
    return [getattr(block, name) for block in blocks for name in names]


def _quantise(slot: _Slot) -> None:
    """Replace the layer itself, or the one that an adapter works on."""
    for parent, name, layer in _linears(slot):
        if isinstance(layer, Fp8Linear):
            layer.quantise()
        elif fits(layer.out_features, layer.in_features):
            setattr(parent, name, Fp8Linear(layer))


def _restore(slot: _Slot) -> None:
    for parent, name, layer in _linears(slot):
        if isinstance(layer, Fp8Linear):
            setattr(parent, name, layer.plain())


def _linears(slot: _Slot) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    layer = slot.layer
    base = getattr(layer, "base_layer", None)
    parent, name, found = (
        (slot.parent, slot.name, layer) if base is None else (layer, "base_layer", base)
    )
    if isinstance(found, nn.Linear):
        yield parent, name, found
