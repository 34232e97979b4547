"""A prompt study from names and files, in a folder that holds all it takes to go on."""

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
"""What was asked for: the order of a run that `lens optimize --resume` goes on with."""

REQUESTS_FILE = "requests.json"
SEED_FILE = "seed.json"


class StudyOrder(Value):
    """What a study is to do, by names; see `lens optimize --help` for the choices.

    Attributes:
        generators: One or several.
        reasoner: Who rewrites.
        judge: Who judges.
        rubric: Who writes the criteria.
        proposer: Who suggests edits.
        strategy: How to search.
        budget: Limits over everything.
        random_seed: Everything drawn at random follows from it.
        alpha: Chance that a prompt is accepted that is no better.
        min_gain: Gain in mean score, in [0, 1), that must be exceeded.
        gate_pictures: Pictures per request and prompt where challengers are tested.
        test_pictures: Pictures per test request, prompt and generator.
        show_pictures: Whether the proposer sees failed pictures.
        image_usd: Price of a picture by a generator that does not say what it costs.
        concurrency: Most calls of one part at a time.
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
    """One study, in its folder.

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
        """Put a study together; nothing is loaded, paid for or written yet.

        Args:
            order: What to do.
            folder: Where everything goes.
            prompts: The requests.
            seed: The prompt to start from, or its file; None means the built-in one.
            provider: Server, key and prices of the language models; None asks the environment.

        Raises:
            RunDirectoryError: If `folder` holds a run already.
            PromptSetError: If there are too few requests.
            UnknownPartError: If a name means nothing, and others of `choose_parts`.
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
        """The run of a folder, to go on with or to look at again.

        Args:
            folder: The folder.
            budget: Limits to change, by name; None leaves one as it is.
            provider: As for `begin`.

        Raises:
            RunDirectoryError: If there is no run there.
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
        """The study; some generators are loaded to learn which they are.

        Raises:
            GeneratorError: If one cannot be loaded.
        """
        return _study(self.order, self._prompts, self._parts)

    def load(self) -> None:
        """Load what draws on this machine, which blocks; looks at the budget first.

        Raises:
            BudgetError: If it does not even pay for the final claim.
            GeneratorError: If a generator cannot be loaded.
        """
        images, needed = self.order.budget.images, self.estimate().plan.test
        if images is not None and images <= needed:
            raise BudgetError(
                f"The budget is {images} pictures, and the final claim alone takes {needed}.",
                hint=f"Allow about {4 * needed}, or use fewer --test-pictures.",
            )
        for generator in self._parts.generators:
            load_generator(generator)

    def estimate(self) -> StudyEstimate:
        """What the budget will buy, before anything is paid for.

        Raises:
            UnknownCostError: If dollars are limited and a language model has no price.
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
        """Run the study to its end, over what the folder holds already.

        Raises:
            BudgetError: As `load` does.
            GeneratorError: As `load` does.
            StudyInterruptedError: If a service is out or `stop` was pressed; it can be resumed.
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
