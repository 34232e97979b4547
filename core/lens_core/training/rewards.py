"""Rewards of pictures: a protocol, the nano detector, and calls that overlap with drawing."""

import asyncio
import importlib
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Protocol

from PIL import Image

from lens_core.errors import LensCoreError, ParameterError
from lens_core.nano.checks import atomic_checks, observe
from lens_core.training.prompts import Prompt


class RewardError(LensCoreError, RuntimeError):
    """Too many pictures of a step have no reward."""


@dataclass(frozen=True)
class Score:
    """How good a picture is.

    Attributes:
        value: The reward, in any unit; groups are compared with each other within a step.
        parts: What it is made of, such as the pass rate of each kind of check, for the log.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Reward(Protocol):
    """Judges pictures; several calls are under way at once."""

    async def score(self, image: Image.Image, prompt: Prompt) -> Score | None:
        """The score of a picture, or None where it cannot be told."""
        ...


class NanoReward:
    """Share of a prompt's atomic checks that the nano detector finds fulfilled.

    Args:
        processes: Processes to detect in; 0 detects in a thread of this one.
    """

    def __init__(self, processes: int = 0) -> None:
        self._executor: Executor
        if processes:
            self._executor = ProcessPoolExecutor(processes, get_context("spawn"))
        else:
            self._executor = ThreadPoolExecutor(1)

    async def score(self, image: Image.Image, prompt: Prompt) -> Score | None:
        """See `Reward.score`; the parts are the kinds of checks and `strict`, all of them."""
        loop = asyncio.get_running_loop()
        facts = dict(prompt.facts)
        return await loop.run_in_executor(self._executor, detector_score, image, facts)


def detector_score(image: Image.Image, facts: Mapping[str, Any]) -> Score:
    """Run the atomic checks of GenEval metadata on a picture."""
    observation = observe(image)
    passed: dict[str, list[bool]] = {}
    for check in atomic_checks(facts):
        passed.setdefault(check.kind, []).append(check.run(observation).passed)
    every = [result for results in passed.values() for result in results]
    parts = {kind: sum(results) / len(results) for kind, results in passed.items()}
    return Score(sum(every) / len(every), {**parts, "strict": float(all(every))})


RewardFunction = Callable[[Image.Image, Prompt], "float | Awaitable[float | None] | None"]


class FunctionReward:
    """A function of picture and prompt, plain or async; None means that it cannot tell."""

    def __init__(self, function: RewardFunction) -> None:
        self._function = function

    async def score(self, image: Image.Image, prompt: Prompt) -> Score | None:
        """See `Reward.score`."""
        value: Any = await asyncio.to_thread(self._function, image, prompt)
        if inspect.isawaitable(value):
            value = await value
        return None if value is None else Score(float(value))


def load_reward(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward a config names.

    Args:
        name: `nano`, or `package.module:factory`. The factory is called with the options and
            returns a `Reward`, or a function of picture and prompt that returns a number.
        options: Arguments of the reward.

    Raises:
        ParameterError: No such factory, or arguments that it does not take.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Any = NanoReward
        if name != "nano":
            factory = getattr(importlib.import_module(module), attribute)
        made: Any = factory(**options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ParameterError(
            f"reward {name!r} with {dict(options)} cannot be made: {error}; name nano or "
            "package.module:factory"
        ) from error
    return made if hasattr(made, "score") else FunctionReward(made)


@dataclass(frozen=True)
class Scores:
    """What became of the pictures handed in.

    Attributes:
        by_index: Scores by the picture's number; None where there is none.
        errors: Messages of calls that failed.
    """

    by_index: dict[int, Score | None]
    errors: tuple[str, ...]


class RewardQueue:
    """Scores pictures on an event loop of its own while the caller goes on drawing.

    Args:
        reward: Scores them.
        concurrency: Calls under way at once.
        timeout: Seconds after which a call counts as failed.
    """

    def __init__(self, reward: Reward, concurrency: int, timeout: float) -> None:
        self._reward = reward
        self._timeout = timeout
        self._free = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._calls: dict[int, Future[Score | None]] = {}

    def submit(self, index: int, image: Image.Image, prompt: Prompt) -> None:
        """Hand in a picture under a number of its own."""
        self._calls[index] = asyncio.run_coroutine_threadsafe(
            self._score(image, prompt), self._loop
        )

    def collect(self) -> Scores:
        """Wait for every picture handed in since the last time.

        A call that fails leaves its picture without a score; whether that is too many is for the
        caller to say.
        """
        scores: dict[int, Score | None] = {}
        errors = []
        for index, call in sorted(self._calls.items()):
            try:
                scores[index] = call.result()
            except Exception as error:  # whatever a judge raises costs only its own picture
                scores[index] = None
                errors.append(f"{type(error).__name__}: {error}")
        self._calls.clear()
        return Scores(scores, tuple(errors))

    def close(self) -> None:
        """End the calls under way, then the event loop."""
        asyncio.run_coroutine_threadsafe(_end_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _score(self, image: Image.Image, prompt: Prompt) -> Score | None:
        async with self._free:
            score = await asyncio.wait_for(self._reward.score(image, prompt), self._timeout)
        if score is not None and not math.isfinite(score.value):
            raise ValueError(f"the reward gave {score.value}")
        return score


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
