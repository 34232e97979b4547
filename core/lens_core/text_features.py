"""Text features of a batch of prompts, and their rows grouped by length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_core.errors import ParameterError


@dataclass(frozen=True)
class TextGroup:
    """Rows of a batch whose texts are equally long, so that none needs padding or a mask.

    Attributes:
        rows: Their indices in the batch.
        layers: One `[len(rows), length, width]` tensor per encoder layer; None without text.
    """

    rows: Tensor
    layers: list[Tensor] | None


@dataclass(frozen=True)
class TextFeatures:
    """What the denoiser reads of the prompts.

    Attributes:
        embeds: `[layers, B, S, width]`: one slice per selected encoder layer.
        mask: `[B, S]` bool, True for text; padding stands on the right. A row that is False
            throughout runs without text.
    """

    embeds: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.embeds.shape)
        if self.embeds.ndim != 4 or tuple(self.mask.shape) != shape[1:3]:
            raise ParameterError(
                f"prompt_embeds {shape} must be [layers, batch, tokens, width] and the mask "
                f"{tuple(self.mask.shape)} [batch, tokens]"
            )
        lengths = self.mask.sum(1, keepdim=True)
        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        if not torch.equal(self.mask, positions < lengths):
            raise ParameterError("the text mask must be True from the left, padding on the right")

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.embeds.shape[1]

    def repeat(self, times: int) -> "TextFeatures":
        """Each row `times` times in succession."""
        return TextFeatures(
            self.embeds.repeat_interleave(times, dim=1), self.mask.repeat_interleave(times, dim=0)
        )

    def select(self, rows: Sequence[int]) -> "TextFeatures":
        """These rows, in this order, without positions that are padding in all of them."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[index]
        length = int(mask.sum(1).max()) if len(rows) else 0
        return TextFeatures(self.embeds[:, index, :length], mask[:, :length])

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextFeatures":
        """Move and cast."""
        return TextFeatures(self.embeds.to(device, dtype), self.mask.to(device))

    def groups(self) -> list[TextGroup]:
        """The rows grouped by text length, every group cut to its exact length."""
        lengths = self.mask.sum(1)
        groups = []
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero().flatten()
            layers = list(self.embeds[:, rows, :length].unbind(0)) if length else None
            groups.append(TextGroup(rows, layers))
        return groups

    def padded(self, tokens: int) -> "TextFeatures":
        """The same features with `tokens` positions, zeros on the right."""
        extra = tokens - self.embeds.shape[2]
        embeds = torch.nn.functional.pad(self.embeds, (0, 0, 0, extra))
        return TextFeatures(embeds, torch.nn.functional.pad(self.mask, (0, extra)))

    def spread(self, rows: list[int], batch: int) -> "TextFeatures":
        """A batch of `batch` rows that has these features at `rows` and no text elsewhere."""
        layers, _, tokens, width = self.embeds.shape
        embeds = self.embeds.new_zeros(layers, batch, tokens, width)
        mask = self.mask.new_zeros(batch, tokens)
        embeds[:, rows], mask[rows] = self.embeds, self.mask
        return TextFeatures(embeds, mask)

    def zeros_like(self) -> "TextFeatures":
        """No text at all, in the same shape: zero features and a mask that is False."""
        return TextFeatures(torch.zeros_like(self.embeds), torch.zeros_like(self.mask))
