"""Arguments of the methods for LoRAs, in all the shapes that diffusers takes."""

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from lens_core.errors import ParameterError

COMPONENT = "transformer"
"""Name of the only part that LoRAs change, where diffusers asks for one."""

Weight = float | Mapping[str, float] | None
"""How strongly a LoRA works; by the component's name as diffusers has it, or 1 for None."""


def adapter_names_of(given: str | Sequence[str]) -> list[str]:
    """Names of LoRAs as a list.

    Raises:
        ParameterError: One of them twice.
    """
    names = [given] if isinstance(given, str) else list(given)
    if len({*names}) != len(names):
        raise ParameterError(f"LoRAs {names} must be named once each")
    return names


def strengths_of(given: Weight | Sequence[Weight], names: Sequence[str]) -> list[float]:
    """A weight for each name.

    Raises:
        ParameterError: Another count, or one that is not a finite number.
    """
    several = isinstance(given, (list, tuple, np.ndarray))
    weights: list[Any] = [*given] if several else [given] * len(names)  # type: ignore[misc]
    if len(weights) != len(names):
        raise ParameterError(f"{len(weights)} weights for {len(names)} LoRAs {list(names)}")
    return [check_strength(weight) for weight in weights]


def check_strength(weight: object) -> float:
    """A weight, checked.

    Raises:
        ParameterError: It is no number, or not a finite one, or one of another component.
    """
    if isinstance(weight, Mapping):
        check_components([*weight])
        weight = weight.get(COMPONENT)
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, Real) or not isfinite(weight):
        raise ParameterError(f"weight {weight!r} of a LoRA must be a finite number")
    return float(weight)


def check_components(components: str | Sequence[str]) -> None:
    """Check what diffusers calls components.

    Raises:
        ParameterError: Another than the transformer.
    """
    given = [components] if isinstance(components, str) else components
    if others := sorted({*given} - {COMPONENT}):
        raise ParameterError(f"LoRAs of {others} are not known; only the {COMPONENT!r} has them")
