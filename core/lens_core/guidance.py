"""Where along the noise levels guidance works."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_core.errors import ParameterError


@dataclass(frozen=True)
class GuidanceInterval:
    """Noise levels at which the prompt is weighed against the negative prompt.

    At the others only the prompt's branch runs, in half the time (Kynkäänniemi et al., "Applying
    guidance in a limited interval", arXiv 2404.07724).

    Attributes:
        low: Least sigma, from 0 (data); included.
        high: Largest sigma, to 1 (noise); included.

    Raises:
        ParameterError: Levels that are none, or in the wrong order.
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
        """From (low, high); None is everywhere.

        Raises:
            ParameterError: Anything else.
        """
        if given is None:
            return cls()
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
            raise ParameterError(f"guidance_interval {given!r} must be two numbers: (low, high)")
        return cls(*given)

    def scale_at(self, sigma: float, guidance_scale: float) -> float:
        """The scale of a step that begins at a noise level: the one given, or 1, which is none."""
        return guidance_scale if self.low <= sigma <= self.high else 1.0
