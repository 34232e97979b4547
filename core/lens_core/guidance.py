"""The range of noise levels in which guidance is on."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_core.errors import ParameterError


@dataclass(frozen=True)
class GuidanceInterval:
    """Noise levels at which the prompt is weighted against the negative prompt.

    At other levels only the prompt's branch runs, which takes half the time (Kynkäänniemi et al.,
    "Applying guidance in a limited interval", arXiv 2404.07724).

    Attributes:
        low: Lowest sigma, inclusive; at least 0 (data).
        high: Highest sigma, inclusive; at most 1 (noise).

    Raises:
        ParameterError: The values are not noise levels, or are in the wrong order.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        levels = self.low, self.high
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in levels) or (
            not 0 <= self.low <= self.high <= 1
        ):
            raise ParameterError(
                f"guidance_interval {levels!r} must be two noise levels from 0 (data) to 1 (noise),"
                " the lower one first"
            )

    @classmethod
    def read(cls, given: object) -> "GuidanceInterval":
        """Build an interval from (low, high); None covers all noise levels.

        Raises:
            ParameterError: `given` is anything else.
        """
        if given is None:
            return cls()
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
            raise ParameterError(f"guidance_interval {given!r} must be two numbers: (low, high)")
        return cls(*given)

    def scale_at(self, sigma: float, guidance_scale: float) -> float:
        """Return the scale for a step starting at `sigma`: outside the interval 1, no guidance."""
        return guidance_scale if self.low <= sigma <= self.high else 1.0
