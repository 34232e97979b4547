"""Which parts of a component move together."""

from dataclasses import dataclass

from torch import nn

from lens_core.text_encoder import LensTextEncoder


@dataclass(frozen=True)
class Layout:
    """A component as memory plans see it.

    Attributes:
        root: The component.
        blocks: Layers that run one after the other and can visit the device one by one.
        heads: Layers that not every use needs; they come when they are called.
    """

    root: nn.Module
    blocks: tuple[nn.Module, ...] = ()
    heads: tuple[nn.Module, ...] = ()


def layout_of(component: nn.Module) -> Layout:
    """The layout of a denoiser, a text encoder or an autoencoder."""
    if isinstance(component, LensTextEncoder):
        heads = (component.lm_head,) if component.has_lm_head else ()
        return Layout(component, tuple(component.model.layers), heads)
    blocks = getattr(component, "transformer_blocks", ())
    return Layout(component, tuple(blocks))
