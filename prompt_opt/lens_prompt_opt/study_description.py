"""What `study.json` says, as far as pages tell it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lens_reasoner.prompts import SystemPrompt


class _Told(BaseModel):
    # Versions differ in what else they write down.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StrategyTold(_Told):
    """How a study searches.

    Attributes:
        name: The strategy's name.
    """

    name: str = ""


class GateTold(_Told):
    """How a study accepts prompts.

    Attributes:
        block_requests: Requests drawn between two looks at the test.
        min_gain: Gain, from 0 to 1, that a prompt must exceed.
        alpha: Probability with which one that does not exceed it may be accepted.
        method: The test, as Python writes it.
    """

    block_requests: int
    min_gain: float
    alpha: float
    method: str = ""


class StudyDescription(_Told):
    """What a study is about.

    Attributes:
        seed_prompt: The prompt it starts from.
        models: Names of all parts, by stage.
        strategy: How it searches.
        gate: How it accepts prompts; None if that was not written down.
        guards: Limits for candidates, by name.
        random_seed: Everything drawn at random follows from it.
    """

    seed_prompt: SystemPrompt
    models: dict[str, str] = {}
    strategy: StrategyTold = StrategyTold()
    gate: GateTold | None = None
    guards: dict[str, list[str] | int | float | str] = {}
    random_seed: int | None = None
