"""What a memory plan says, and the plans that have names. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lens_core.errors import ParameterError

Placement = Literal["resident", "offload", "stream"]
"""Where a part's weights are: always on the device; there while the part works and otherwise in the
host's memory; or in the host's memory, visiting the device block by block."""

WeightForm = Literal["full", "fp8", "int8"]
"""As loaded, or the denoiser's large matrices rounded to 8 bits. Activations are never rounded."""

AUTO = "auto"
LARGEST_SIDE = 1440
"""Pixels. `auto` sees to it that the largest square picture fits."""


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ParameterError(f"{field} {value!r} must be one of {list(allowed)}")


@dataclass(frozen=True)
class MemoryPlan:
    """How a pipeline shares a device's memory.

    Attributes:
        name: For messages and tables.
        text_encoder: Where GPT-OSS is. It works once for a prompt, so streaming it costs no more
            transfers than moving it whole; writing with it (the local reasoner) goes through it
            once for every token, and there streaming is slow.
        transformer: Where the denoiser is. It works many times for a picture.
        vae: `resident` or `offload`.
        transformer_weights: Form of the denoiser's attention and MLP matrices. Modulations, norms
            and embedders always stay as loaded: rounding them leaves a grid in the picture.
        modulation_table: Compute what the `*_mod` layers say at the steps of a schedule once, and
            leave a third of the denoiser's weights in the host's memory. Exact.
        free_text_encoder: Let go of the text encoder after reading, in the host's memory too, and
            load it again when another prompt is to be read.
        vae_tile: Side in pixels of the tiles that pictures larger than it are decoded in; None
            decodes in one piece. Tiles change a picture a little.

    Raises:
        ParameterError: A value that is not on offer.
    """

    name: str = "custom"
    text_encoder: Placement = "resident"
    transformer: Placement = "resident"
    vae: Placement = "resident"
    transformer_weights: WeightForm = "full"
    modulation_table: bool = False
    free_text_encoder: bool = False
    vae_tile: int | None = None

    def __post_init__(self) -> None:
        for field in ("text_encoder", "transformer", "vae"):
            _check(field, getattr(self, field), get_args(Placement))
        _check("transformer_weights", self.transformer_weights, get_args(WeightForm))
        if self.vae == "stream":
            raise ParameterError(
                "vae='stream': the autoencoder has no blocks to stream; offload it"
            )
        if self.vae_tile is not None and (self.vae_tile < 256 or self.vae_tile % 64):
            raise ParameterError(f"vae_tile {self.vae_tile} must be a multiple of 64 from 256 up")

    @property
    def is_lossless(self) -> bool:
        """Whether pictures are those of the plain pipeline, but for the order of float sums."""
        return self.transformer_weights == "full" and self.vae_tile is None


RESIDENT = MemoryPlan(name="resident")
"""Everything on the device: the fastest, and what a pipeline does without a plan."""

PLANS: Mapping[str, MemoryPlan] = {
    plan.name: plan
    for plan in (
        RESIDENT,
        MemoryPlan(name="24gb", text_encoder="offload"),
        MemoryPlan(name="16gb", text_encoder="offload", transformer="offload", vae="offload"),
        MemoryPlan(name="12gb", text_encoder="stream", modulation_table=True),
        MemoryPlan(
            name="8gb",
            text_encoder="stream",
            transformer="offload",
            vae="offload",
            modulation_table=True,
            free_text_encoder=True,
        ),
        MemoryPlan(
            name="6gb",
            text_encoder="stream",
            transformer="offload",
            vae="offload",
            transformer_weights="fp8",
            modulation_table=True,
            free_text_encoder=True,
        ),
        MemoryPlan(
            name="4gb",
            text_encoder="stream",
            transformer="stream",
            vae="offload",
            modulation_table=True,
            free_text_encoder=True,
            vae_tile=512,
        ),
    )
}
"""By name, the fastest first. A number is the memory of the card that a plan is for."""

CARD_GIB: Mapping[str, int] = {
    name: int(name.removesuffix("gb")) for name in PLANS if name.endswith("gb")
}
"""Memory of the smallest card that a plan is for."""


def find_plan(name: str) -> MemoryPlan:
    """The plan of a name.

    Raises:
        ParameterError: There is none of that name.
    """
    if name not in PLANS:
        raise ParameterError(
            f"memory {name!r} is not a plan; choose one of {[AUTO, *PLANS]}, or give a MemoryPlan"
        )
    return PLANS[name]
