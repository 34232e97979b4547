"""Runs a prompt study from names and files, in a folder from which it can be resumed."""

from __future__ import annotations

import asyncio
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lens_prompt_opt import (
    Budget,
    BudgetError,
    PairedSequentialGate,
    ProgressCallback,
    PromptSet,
    PromptStudy,
    RunDirectoryError,
    StopSwitch,
    StudyEstimate,
    StudyResult,
    UnitPrices,
    load_system_prompt,
)
from lens_reasoner import SystemPrompt
from lens_reasoner.atomic import write_atomically
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.types import Value
from lens_sdk.generators import load_generator
from lens_sdk.optimize_parts import StudyParts, choose_parts, choose_strategy
from lens_sdk.optimize_prices import PricedGenerator, unit_prices

ORDER_FILE = "order.json"
"""The order of a run, which `lens optimize --resume` reads."""

REQUESTS_FILE = "requests.json"
SEED_FILE = "seed.json"


class StudyOrder(Value):
    """What a study should do, by names; see `lens optimize --help` for the choices.

    Attributes:
        generators: One or more generators.
        reasoner: The reasoner.
        judge: The judge.
        rubric: The rubric writer.
        proposer: The part that proposes edits.
        strategy: The search strategy.
        budget: Limits on the whole study.
        random_seed: Determines all random choices.
        alpha: Probability of accepting a prompt that is no better.
        min_gain: The gain in mean score, in [0, 1), that must be exceeded.
        gate_pictures: Images per request and prompt when testing challengers.
        test_pictures: Images per test request, prompt and generator.
        show_pictures: Whether the proposer sees failed images.
        image_usd: Price in US dollars of an image whose generator does not state its cost.
        concurrency: Maximum number of concurrent calls per part.
    """

    generators: tuple[str, ...] = Field(min_length=1)
    reasoner: str = "auto"
    judge: str = "auto"
    rubric: str = "auto"
    proposer: str = "auto"
    strategy: str = "factorial"
    budget: Budget
    random_seed: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    min_gain: float = Field(default=0.0, ge=0, lt=1)
    gate_pictures: int = Field(default=1, ge=1)
    test_pictures: int = Field(default=2, ge=1)
    show_pictures: bool = False
    image_usd: float | None = Field(default=None, ge=0)
    concurrency: int = Field(default=8, ge=1)


class OptimizeRun:
    """One study and its folder.

    Example:
        ```python
        order = StudyOrder(generators=("lens-nano",), budget=Budget(images=600))
        run = OptimizeRun.begin(order, "runs/a", prompts=PromptSet.load("requests.jsonl"))
        result = await run.run()
        ```
    """

    def __init__(
        self,
        order: StudyOrder,
        folder: Path,
        prompts: PromptSet,
        seed: SystemPrompt,
        parts: StudyParts,
        provider: ChatOptions | None,
    ) -> None:
        self.order = order
        self.folder = folder
        self.seed = seed
        self._prompts = prompts
        self._parts = parts
        self._provider = provider

    @classmethod
    def begin(
        cls,
        order: StudyOrder,
        folder: str | Path,
        *,
        prompts: PromptSet,
        seed: SystemPrompt | str | Path | None = None,
        provider: ChatOptions | None = None,
    ) -> OptimizeRun:
        """Set up a study; nothing is loaded, paid for or written yet.

        Args:
            order: What the study should do.
            folder: Folder for all files of the study.
            prompts: The requests.
            seed: The prompt to start from, or its file; None means the built-in one.
            provider: Server, key and prices of the language models; None reads the environment.

        Raises:
            RunDirectoryError: `folder` already holds a run.
            PromptSetError: There are too few requests.
            UnknownPartError: A name is unknown; see `choose_parts` for further errors.
        """
        folder = Path(folder)
        if (folder / ORDER_FILE).exists():
            raise RunDirectoryError(
                f"{str(folder)!r} holds a run already.",
                hint=f"Resume with: lens optimize --resume {folder}, or choose another folder.",
            )
        choose_strategy(order.strategy)
        prompts.split(order.random_seed)
        chosen = load_system_prompt(seed) if isinstance(seed, str | Path) else seed
        parts = _parts(order, provider)
        return cls(order, folder, prompts, chosen or parts.seed_prompt, parts, provider)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        budget: dict[str, float | None] | None = None,
        provider: ChatOptions | None = None,
    ) -> OptimizeRun:
        """Open the run in a folder, to resume or inspect it.

        Args:
            folder: The folder of the run.
            budget: Limits to change, by name; None leaves a limit unchanged.
            provider: See `begin`.

        Raises:
            RunDirectoryError: There is no run in the folder.
        """
        folder = Path(folder)
        try:
            order = StudyOrder.model_validate(_read(folder / ORDER_FILE))
            prompts = PromptSet.model_validate(_read(folder / REQUESTS_FILE))
            seed = SystemPrompt.model_validate(_read(folder / SEED_FILE))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{str(folder)!r} holds no run to go on with: {_first_line(error)}.",
                hint="Give the --out folder of lens optimize.",
            ) from error
        changes = {name: value for name, value in (budget or {}).items() if value is not None}
        if changes:
            limits = Budget.model_validate({**order.budget.model_dump(), **changes})
            order = order.model_copy(update={"budget": limits})
        return cls(order, folder, prompts, seed, _parts(order, provider), provider)

    @cached_property
    def study(self) -> PromptStudy:
        """The study; loads some generators to identify them.

        Raises:
            GeneratorError: A generator cannot be loaded.
        """
        return _study(self.order, self._prompts, self._parts)

    def load(self) -> None:
        """Load local generators, which blocks; checks the budget first.

        Raises:
            BudgetError: The budget does not even cover the final test.
            GeneratorError: A generator cannot be loaded.
        """
        images, needed = self.order.budget.images, self.estimate().plan.test
        if images is not None and images <= needed:
            raise BudgetError(
                f"The budget is {images} images, and the final claim alone takes {needed}.",
                hint=f"Allow about {4 * needed}, or use fewer --test-pictures.",
            )
        for generator in self._parts.generators:
            load_generator(generator)

    def estimate(self) -> StudyEstimate:
        """Estimate what the budget allows, before anything is paid for.

        Raises:
            UnknownCostError: The budget limits dollars, but a language model has no price.
        """
        return self.study.estimate(
            self.order.budget, prices=self._prices(), random_seed=self.order.random_seed
        )

    def _prices(self) -> UnitPrices:
        return unit_prices(
            self.order.budget,
            reasoner_model=self._parts.reasoner_model,
            judge_model=self._parts.judge_model,
            image_usd=self.order.image_usd,
            provider=self._provider,
        )

    async def run(
        self, *, on_progress: ProgressCallback | None = None, stop: StopSwitch | None = None
    ) -> StudyResult:
        """Run the study to its end, continuing from what the folder already holds.

        Raises:
            BudgetError: See `load`.
            GeneratorError: See `load`.
            StudyInterruptedError: A service is unavailable or `stop` was set; it can be resumed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self.load)
        self._record()
        return await self.study.optimize(
            seed=self.seed,
            budget=self.order.budget,
            run_dir=self.folder,
            random_seed=self.order.random_seed,
            on_progress=on_progress,
            stop=stop,
        )

    def _record(self) -> None:
        for name, value in (
            (REQUESTS_FILE, self._prompts),
            (SEED_FILE, self.seed),
            (ORDER_FILE, self.order),
        ):
            write_atomically(self.folder / name, f"{value.model_dump_json(indent=2)}\n".encode())


def _parts(order: StudyOrder, provider: ChatOptions | None) -> StudyParts:
    return choose_parts(
        order.generators,
        reasoner=order.reasoner,
        judge=order.judge,
        rubric=order.rubric,
        proposer=order.proposer,
        provider=provider,
    )


def _study(order: StudyOrder, prompts: PromptSet, parts: StudyParts) -> PromptStudy:
    usd = order.image_usd
    return PromptStudy(
        reasoner=parts.reasoner,
        generator=tuple(
            generator if usd is None else PricedGenerator(generator, usd)
            for generator in parts.generators
        ),
        judge=parts.judge,
        prompts=prompts,
        rubric_writer=parts.rubric_writer,
        fidelity=parts.fidelity,
        proposer=parts.proposer,
        clusterer=parts.clusterer,
        strategy=choose_strategy(order.strategy),
        gate=PairedSequentialGate(
            alpha=order.alpha, min_gain=order.min_gain, pictures=order.gate_pictures
        ),
        test_pictures=order.test_pictures,
        show_pictures=order.show_pictures,
        concurrency=order.concurrency,
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return str(error).splitlines()[0]
