"""The parts of `study.json` that pages show."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lens_reasoner.prompts import SystemPrompt


class _Part(BaseModel):
    # Versions differ in the other fields they write.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StrategyDescription(_Part):
    """How a study searches.

    Attributes:
        name: The strategy's name.
    """

    name: str = ""


class GateDescription(_Part):
    """How a study accepts prompts.

    Attributes:
        block_requests: Requests generated between two checks of the test.
        min_gain: Gain, from 0 to 1, that an accepted prompt must exceed.
        alpha: Maximum probability of accepting a prompt that does not exceed it.
        method: The test's `repr`.
    """

    block_requests: int
    min_gain: float
    alpha: float
    method: str = ""


class StudyDescription(_Part):
    """What a study is about.

    Attributes:
        seed_prompt: The prompt it starts from.
        models: Names of all parts, by stage.
        strategy: How it searches.
        gate: How it accepts prompts; None if it was not recorded.
        guards: Limits for candidates, by name.
        random_seed: Seed of everything random in the study.
    """

    seed_prompt: SystemPrompt
    models: dict[str, str] = {}
    strategy: StrategyDescription = StrategyDescription()
    gate: GateDescription | None = None
    guards: dict[str, list[str] | int | float | str] = {}
    random_seed: int | None = None
