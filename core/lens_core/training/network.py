"""The denoiser as training calls it: one forward pass for rows with text and rows without."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS
from lens_core.training.config import DenoiserConfig
from lens_core.training.objective import AlignmentHead
from lens_core.transformer import LensTransformer2DModel, LensTransformerBlock

_ZERO_WEIGHTS = ("img_mod.1", "txt_mod.1", "norm_out.linear", "proj_out")


class Denoiser(nn.Module):
    """The Lens transformer and, for a run that has one, the alignment head.

    Sharding needs every process to run the same modules in a step, whatever its batch: rows
    without text go through the same pass as the others, masked.

    Args:
        config: The run's settings.

    Raises:
        ParameterError: `model` has an argument that no denoiser takes.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = int(denoiser_arguments(config.model)["inner_dim"])
        self.model = LensTransformer2DModel(**config.model)
        self.head: AlignmentHead | None = None
        self._block = config.align_block
        if config.align_block is not None:
            sizes = (len(CLASSES) + 1, len(COLORS) + 1, len(BACKGROUNDS))
            self.head = AlignmentHead(width, sizes)

    @property
    def blocks(self) -> list[LensTransformerBlock]:
        """The transformer blocks."""
        return cast(list[LensTransformerBlock], list(self.model.transformer_blocks))

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        features: Tensor,
        mask: Tensor,
        grid: tuple[int, int],
        labels: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Velocity of noisy tokens, and the alignment loss.

        Args:
            noisy: `[B, N, C]` in the training precision.
            timesteps: `[B]` in [0, 1].
            features: Text `[layers, T, S, width]` of the first T rows; the rest go without text.
            mask: `[T, S]`, True for text.
            grid: Height and width in tokens.
            labels: `[B, N, 3]` for the alignment head.

        Returns:
            Velocities `[B, N, C]`; the alignment loss, zero without a head or labels.
        """
        captured: list[Tensor] = []
        hook = None
        if self.head is not None and self._block is not None and labels is not None:
            block = self.blocks[self._block]
            hook = block.register_forward_hook(lambda *call: captured.append(call[2][0]))
        rows = len(noisy)
        arguments = _with_text(noisy, timesteps, *_padded(features, mask, rows))
        noisy, timesteps, features, mask = arguments
        velocity: Tensor = self.model(
            noisy, list(features.to(noisy.dtype)), mask, timesteps, [(1, *grid)], False
        )[0]
        align = torch.zeros((), device=noisy.device)
        if hook is not None and self.head is not None and labels is not None:
            hook.remove()
            align = self.head(captured[0][:rows], labels)
        return velocity[:rows], align


def _padded(features: Tensor, mask: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Features and mask of all rows: nothing is to be seen of those beyond the given ones."""
    missing = rows - mask.shape[0]
    if missing == 0:
        return features, mask
    layers, _, length, width = features.shape
    return (
        torch.cat([features, features.new_zeros(layers, missing, length, width)], dim=1),
        torch.cat([mask, mask.new_zeros(missing, length)]),
    )


def _with_text(
    noisy: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The batch with a further row that has text, if no row has.

    The model leaves its text layers out when there is nothing to read. Then they would have no
    gradient on this process but one on others, which wait for it.
    """
    if mask.shape[1] and bool(mask.any()):
        return noisy, timesteps, features, mask
    if not mask.shape[1]:
        features = features.new_zeros(*features.shape[:2], 1, features.shape[3])
        mask = mask.new_zeros(len(mask), 1)
    reading = mask[:1].clone()
    reading[:, 0] = True
    return (
        torch.cat([noisy, noisy[:1]]),
        torch.cat([timesteps, timesteps[:1]]),
        torch.cat([features, features[:, :1]], dim=1),
        torch.cat([mask, reading]),
    )


def denoiser_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `LensTransformer2DModel`, its own where they are left out.

    Args:
        model: As settings or a model's configuration have them.

    Raises:
        ParameterError: One that it does not take.
    """
    parameters = inspect.signature(LensTransformer2DModel.__init__).parameters
    given = {name: value for name, value in model.items() if not name.startswith("_")}
    if unknown := sorted(given.keys() - parameters.keys()):
        raise ParameterError(f"model has {', '.join(unknown)}, which no denoiser takes")
    own = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return own | given


@torch.no_grad()
def start_as_identity(parameters: dict[str, Tensor]) -> None:
    """Start every block as the identity and the output at zero (adaLN-Zero, arXiv 2212.09748).

    Args:
        parameters: The denoiser's, by name, with or without a prefix; changed in place.
    """
    for name, tensor in parameters.items():
        if name.rpartition(".")[0].endswith(_ZERO_WEIGHTS):
            tensor.zero_()
