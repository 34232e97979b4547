"""State of a denoiser's LoRAs: weights, files, whether they are enabled or fused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LoraState:
    """Kept with the denoiser, so that pipelines that share it share its LoRAs.

    Attributes:
        weights: How strongly each is to work, 0 for those that are set aside.
        digests: SHA-256 of their files.
        enabled: Whether any may work at all.
        fused: What was added to the weights, with the strength it has there; None if nothing was.
        unfused: The weights before that, by module.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True
    fused: Mapping[str, float] | None = None
    unfused: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, float]:
        """LoRAs with a weight above or below 0, also while all are disabled."""
        return {name: weight for name, weight in self.weights.items() if weight}

    @property
    def effective(self) -> dict[str, float]:
        """Every LoRA and its effective weight."""
        working = self.weights if self.fused is None else self.fused
        return {name: working.get(name, 0.0) * self.enabled for name in self.weights}
