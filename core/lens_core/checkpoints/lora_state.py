"""What a denoiser's LoRAs are asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LoraState:
    """Kept with the denoiser, as the LoRAs are: pipelines that share one know the same of them.

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
        """Those that are to work as soon as they are enabled."""
        return {name: weight for name, weight in self.weights.items() if weight}

    @property
    def effective(self) -> dict[str, float]:
        """Every LoRA and how strongly it works now."""
        working = self.weights if self.fused is None else self.fused
        return {name: working.get(name, 0.0) * self.enabled for name in self.weights}
