"""The parts of a loop, and what each says it is."""

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
"""What a loop calls of each part."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A part that says what decides its answers."""

    @property
    def fingerprint(self) -> str:
        """Short text that changes with whatever changes the answers: model, instructions, ..."""
        ...


@dataclass(frozen=True)
class LoopParts:
    """What a loop is put together from; see `AgentLoop`."""

    generator: Generator
    reasoner: Reasoner | None = None
    judge: Judge | None = None
    rubric_writer: RubricWriter | None = None
    fidelity_checker: FidelityChecker | None = None
    reviser: Reviser | None = None

    def __post_init__(self) -> None:
        """Refuse what only looks like a part; see `check_part`."""
        for field in fields(self):
            part = getattr(self, field.name)
            if part is not None or field.name == "generator":
                check_part(field.name, part)

    def identities(self) -> dict[str, str]:
        """What each part that is there says it is, for records.

        A part that says nothing of itself is told by the name of its class.
        """
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
    """See that an object can do what its role asks for.

    Args:
        role: A field of `LoopParts`.
        part: What was given for it.

    Raises:
        LoopConfigError: It cannot; says what it lacks.
    """
    method = _METHODS[role]
    if isinstance(part, type):
        raise LoopConfigError(
            f"The {role} is the class {part.__name__}, not an object of it.",
            hint=f"Make one: {part.__name__}(...).",
        )
    if not callable(getattr(part, method, None)):
        wrap = ", or wrap a function of prompt and seed in FunctionGenerator"
        raise LoopConfigError(
            f"{part!r} is no {role}: it has no method {method!r}.",
            hint=f"Give an object with it{wrap if role == 'generator' else ''}.",
        )


def fingerprint(part: object) -> str | None:
    """The fingerprint of a part; None if it has none."""
    return part.fingerprint if isinstance(part, Fingerprinted) else None


def named_identity(part: Generator | Judge) -> str:
    """Name and, where there is one, fingerprint of a generator or a judge."""
    return " ".join(filter(None, (part.name, fingerprint(part))))
