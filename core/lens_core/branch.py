"""What one branch of guidance computes from its text and size alone, the same at every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lens_core.rotary import Rotary


@dataclass(frozen=True)
class Branch:
    """Constants of a branch.

    Attributes:
        text: Projected text tokens `[B, S, dim]`; None without text.
        mask: Joint key mask `[B, 1, 1, keys]`, True for keys that count; None if all do.
        image_rotary: Tables of the image tokens.
        text_rotary: Tables of the text tokens; None without text.
    """

    text: Tensor | None
    mask: Tensor | None
    image_rotary: Rotary
    text_rotary: Rotary | None


class BranchCache:
    """Keeps the constants of the latest branch, so that a generation computes them once.

    They are computed again when another size or other tensors come in. Tensors are told apart by
    identity, so they must not be changed in place.
    """

    def __init__(self) -> None:
        self._grid: tuple[int, int] | None = None
        self._inputs: list[Tensor | None] = []
        self._branch: Branch | None = None

    def get(
        self,
        features: Sequence[Tensor] | None,
        mask: Tensor | None,
        grid: tuple[int, int],
        build: Callable[[], Branch],
    ) -> Branch:
        """The constants of these text features, mask and (height, width) in tokens."""
        inputs = [*(features or ()), mask]
        same = len(inputs) == len(self._inputs) and all(
            one is other for one, other in zip(inputs, self._inputs, strict=True)
        )
        if self._branch is None or not same or grid != self._grid:
            self._branch = build()
            self._grid, self._inputs = grid, inputs
        return self._branch
