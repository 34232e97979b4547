"""A whole study with OpenAI's models on a loopback server that is busy, and out for a while."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import (
    Budget,
    FactorialSearch,
    LLMProposer,
    PairedSequentialGate,
    PromptSet,
    PromptStudy,
    StudyInterruptedError,
)
from lens_prompt_opt.simulation.world import World, seed_prompt
from lens_reasoner import LLMReasoner, LLMRubricWriter, OpenAIChat, OpenAIImages, RetryPolicy, Usage
from lens_reasoner.generators.image_prices import OPENAI_IMAGE_PRICES
from lens_reasoner.judge import RubricJudge
from lens_reasoner.limits import Limits
from lens_reasoner.prices import OPENAI_PRICES
from prompt_opt.openai_world import IMAGE_TOKENS, TEXT_TOKENS, OpenAIWorld
from reasoner.conftest import USAGE, LoopbackServer

KEY = "sk-loopback-0123456789abcdef"
QUICK = RetryPolicy(attempts=8, first_wait=0.005, timeout=10, deadline=30)
AT_ONCE = 3
BUDGET = Budget(usd=20, images=150)


@pytest.fixture
def openai_world() -> Iterator[OpenAIWorld]:
    server = LoopbackServer()
    yield OpenAIWorld(server, World("loopback"))
    server.close()


def _study(world: OpenAIWorld) -> PromptStudy:
    options: dict[str, Any] = {"base_url": world.server.url, "api_key": KEY, "retry": QUICK}

    def chat(model: str) -> OpenAIChat:
        limits = Limits(concurrency=AT_ONCE)
        return OpenAIChat(model, prices=OPENAI_PRICES, limits=limits, **options)

    strong, small = chat("gpt-5.5"), chat("gpt-4.1-mini")
    return PromptStudy(
        reasoner=LLMReasoner(strong, seed_prompt()),
        generator=OpenAIImages("gpt-image-2", image_prices=OPENAI_IMAGE_PRICES, **options),
        judge=RubricJudge(small),
        rubric_writer=LLMRubricWriter(small),
        proposer=LLMProposer(strong),
        prompts=PromptSet.of(f"request {i}" for i in range(24)),
        strategy=FactorialSearch(pairs=8),
        gate=PairedSequentialGate(alpha=0.3, block_requests=4, guard_requests=2),
        test_pictures=1,
        concurrency=8,
    )


def _kept(folder: Path) -> Counter[str]:
    lines = (folder / "calls.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["key"].partition(":")[0] for line in lines)


def _usd(world: OpenAIWorld) -> float:
    """What OpenAI would charge for everything that was served."""
    read, written, cached = USAGE
    tokens = Usage(input_tokens=read, output_tokens=written, cached_tokens=cached)
    big, small = (OPENAI_PRICES.cost(name, tokens) for name in ("gpt-5.5", "gpt-4.1-mini"))
    image = OPENAI_IMAGE_PRICES.prices["gpt-image-2"]
    picture = (TEXT_TOKENS * image.text_input + IMAGE_TOKENS * image.output) / 1e6
    assert big is not None
    assert small is not None
    served = world.served
    return (
        big * (served["rewrite"] + served["propose"])
        + small * (served["judge"] + served["rubric"])
        + picture * served["generate"]
    )


def test_a_busy_server_and_a_judge_that_is_out_lose_nothing(
    openai_world: OpenAIWorld, tmp_path: Path
) -> None:
    world, folder = openai_world, tmp_path / "run"
    world.outage_after = 60
    with pytest.raises(StudyInterruptedError, match="stopped at JudgeError") as caught:
        asyncio.run(_study(world).optimize(seed=seed_prompt(), budget=BUDGET, run_dir=folder))
    assert "same run_dir" in caught.value.hint
    # Everything that was answered is on disk, the answers during the outage included.
    assert {what: _kept(folder)[what] for what in world.served} == world.served
    # The rest of the block was not begun: no more than what was under way met the outage.
    assert world.refused[503] <= QUICK.attempts * 8

    world.judge_is_out, world.outage_after = False, None
    result = asyncio.run(_study(world).optimize(seed=seed_prompt(), budget=BUDGET, run_dir=folder))
    assert {what: _kept(folder)[what] for what in world.served} == world.served
    total = result.cost[-1]
    assert total.usd == pytest.approx(_usd(world))
    assert (total.unpriced, total.images) == (0, world.served["generate"])
    assert total.images <= 150
    by_words = sum(row.calls for row in result.cost if row.stage in {"fidelity", "cluster"})
    assert total.calls - by_words == world.served.total()
    assert world.refused[429] > 20
    at_once = [world.most[model] for model in ("gpt-5.5", "gpt-4.1-mini")]
    assert max(at_once) == AT_ONCE
    assert min(at_once) > 1, "a machine that is busy itself may not bring all of them together"
    assert result.best.models["judge"].startswith("gpt-4.1-mini")
    assert result.best.models["propose"] == "gpt-5.5"
    assert result.end == "improved"
    assert result.history.hypotheses
