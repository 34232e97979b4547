"""How many bytes a component's weights take on the device under each placement."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lens_core.memory.layout import layout_of
from lens_core.memory.plan import Placement, WeightForm
from lens_core.memory.quantise import quantised_layers
from lens_core.memory.tensors import module_bytes
from lens_core.modulation import STREAMS


@dataclass(frozen=True)
class Footprint:
    """Bytes of a component's weights.

    Attributes:
        fixed: Outside blocks and heads.
        blocks: Of each block.
        heads: Of layers that not every use needs.
    """

    fixed: int
    blocks: tuple[int, ...]
    heads: int = 0

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return self.fixed + sum(self.blocks) + self.heads

    def working(self, placement: Placement) -> int:
        """On the device while the component works, without its heads unless they stay there.

        Streamed, it is two blocks: the next one is copied while one computes.
        """
        if placement == "resident":
            return self.total
        if placement == "offload":
            return self.fixed + sum(self.blocks)
        pairs = zip(self.blocks, (*self.blocks[1:], 0), strict=True)
        return self.fixed + max((sum(pair) for pair in pairs), default=0)

    def waiting(self, placement: Placement) -> int:
        """On the device while another component works."""
        return self.total if placement == "resident" else 0


def footprint_of(component: nn.Module) -> Footprint:
    """Count a component's weights as they are, be they real or on the meta device."""
    layout = layout_of(component)
    blocks = tuple(module_bytes([block]) for block in layout.blocks)
    heads = module_bytes(layout.heads)
    fixed = module_bytes([component]) - sum(blocks) - heads
    return Footprint(fixed, blocks, heads)


def planned_footprint(
    transformer: nn.Module, form: WeightForm, without_modulations: bool
) -> Footprint:
    """A denoiser's footprint once a plan has rounded its weights and set its modulations aside.

    Args:
        transformer: As loaded.
        form: What its large matrices are rounded to.
        without_modulations: Whether the `*_mod` layers stay with the host.
    """
    layout = layout_of(transformer)
    loaded = footprint_of(transformer)
    saved = [0] * len(layout.blocks)
    for index, block in enumerate(layout.blocks):
        if without_modulations:
            saved[index] += module_bytes(_modulations(block))
        if form != "full":
            saved[index] += sum(_saved_by_rounding(layer) for layer in quantised_layers(block))
    blocks = tuple(have - less for have, less in zip(loaded.blocks, saved, strict=True))
    return Footprint(loaded.fixed, blocks, loaded.heads)


def _modulations(block: nn.Module) -> Iterator[nn.Module]:
    for stream in STREAMS:
        if (modulation := getattr(block, stream, None)) is not None:
            yield modulation


def _saved_by_rounding(layer: nn.Linear) -> int:
    """A byte for each weight, and a scale in float32 for each row at most."""
    weight = layer.weight
    return weight.numel() * (weight.element_size() - 1) - weight.shape[0] * 4
