"""The parts of a loop and their identities."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from lens_reasoner.errors import LoopConfigError
from lens_reasoner.generator import Generator
from lens_reasoner.judge import Judge
from lens_reasoner.reasoner import Reasoner
from lens_reasoner.revision import FidelityChecker, Reviser
from lens_reasoner.rubric import RubricWriter

_METHODS = {
    "generator": "generate",
    "reasoner": "rewrite",
    "judge": "judge",
    "rubric_writer": "write",
    "fidelity_checker": "check",
    "reviser": "revise",
}
"""The method that a loop calls on each part."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A part that can say what its answers depend on."""

    @property
    def fingerprint(self) -> str:
        """Short text that changes with anything that affects the answers, such as the model."""
        ...


@dataclass(frozen=True)
class LoopParts:
    """The parts of a loop; see `AgentLoop`."""

    generator: Generator
    reasoner: Reasoner | None = None
    judge: Judge | None = None
    rubric_writer: RubricWriter | None = None
    fidelity_checker: FidelityChecker | None = None
    reviser: Reviser | None = None

    def __post_init__(self) -> None:
        """Check that each part has the method its role needs."""
        for field in fields(self):
            part = getattr(self, field.name)
            if part is not None or field.name == "generator":
                check_part(field.name, part)

    def identities(self) -> dict[str, str]:
        """The identity of each part, for records: its fingerprint, or the name of its class."""
        others = {
            "reasoner": self.reasoner,
            "rubric_writer": self.rubric_writer,
            "fidelity_checker": self.fidelity_checker,
            "reviser": self.reviser,
        }
        named = {"generator": named_identity(self.generator)}
        if self.judge is not None:
            named["judge"] = named_identity(self.judge)
        return named | {
            role: fingerprint(part) or type(part).__name__
            for role, part in others.items()
            if part is not None
        }


def check_part(role: str, part: object) -> None:
    """Check that an object can fill its role.

    Args:
        role: A field of `LoopParts`.
        part: The object given for it.
    """
    method = _METHODS[role]
    if isinstance(part, type):
        raise LoopConfigError(
            f"The {role} is the class {part.__name__}, not an instance of it.",
            hint=f"Create one: {part.__name__}(...).",
        )
    if not callable(getattr(part, method, None)):
        wrap = ", or wrap a function that takes a prompt and a seed in FunctionGenerator"
        raise LoopConfigError(
            f"{part!r} is not a {role}: it has no method {method!r}.",
            hint=f"Give an object that has it{wrap if role == 'generator' else ''}.",
        )


def fingerprint(part: object) -> str | None:
    """The fingerprint of a part; None if it has none."""
    return part.fingerprint if isinstance(part, Fingerprinted) else None


def named_identity(part: Generator | Judge) -> str:
    """The name of a generator or judge, with its fingerprint if it has one."""
    return " ".join(filter(None, (part.name, fingerprint(part))))
