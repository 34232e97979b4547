"""`PromptStudy`: what a user writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lens_prompt_opt.budget import Budget
from lens_prompt_opt.errors import StudyConfigError
from lens_prompt_opt.estimate import StudyEstimate, UnitPrices
from lens_prompt_opt.failures import ByKind, FailureClusterer
from lens_prompt_opt.gate import PairedSequentialGate
from lens_prompt_opt.guards import GuardRules
from lens_prompt_opt.llm_proposer import DEFAULT_PROPOSER_MODEL, LLMProposer
from lens_prompt_opt.pipeline import Parts, PipelineEvaluator
from lens_prompt_opt.progress import ProgressCallback
from lens_prompt_opt.proposer import Proposer
from lens_prompt_opt.reasoners import ReasonerSource
from lens_prompt_opt.requests import DEFAULT_SHARES, PromptSet
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.statistics.intervals import ClusterBootstrap, IntervalMethod
from lens_prompt_opt.stopping import StopSwitch
from lens_prompt_opt.strategies.factorial import FactorialSearch
from lens_prompt_opt.strategies.protocol import Strategy
from lens_prompt_opt.study_core import StudyCore
from lens_reasoner.fidelity import LexicalFidelity
from lens_reasoner.generator import Generator
from lens_reasoner.judge import Judge
from lens_reasoner.parts import fingerprint, named_identity
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.reasoner import default_chat
from lens_reasoner.revision import FidelityChecker
from lens_reasoner.rubric import LLMRubricWriter, RubricWriter
from lens_reasoner.settings import honoured_settings
from lens_reasoner.sync import run_sync


class PromptStudy:
    """Improves a reasoner's system prompt for a generator, judged by rubrics.

    Example:
        ```python
        study = PromptStudy(reasoner=reasoner, generator=generator, judge=judge,
                            prompts=PromptSet.load("requests.jsonl"))
        result = await study.optimize(seed=SystemPrompt.load("seed.md"),
                                      budget=Budget(usd=20, images=2000), run_dir="runs/a")
        print(result.claim)
        result.best.save("prompt.json")
        ```
    """

    def __init__(
        self,
        *,
        reasoner: ReasonerSource,
        generator: Generator | Sequence[Generator],
        judge: Judge,
        prompts: PromptSet,
        rubric_writer: RubricWriter | None = None,
        fidelity: FidelityChecker | None = None,
        proposer: Proposer | None = None,
        strategy: Strategy | None = None,
        gate: PairedSequentialGate | None = None,
        guards: GuardRules | None = None,
        clusterer: FailureClusterer | None = None,
        interval: IntervalMethod | None = None,
        confidence: float = 0.95,
        test_pictures: int = 2,
        shares: Sequence[float] = DEFAULT_SHARES,
        own_share: float = 0.5,
        show_pictures: bool = False,
        concurrency: int = 8,
    ) -> None:
        """Put the parts together.

        Args:
            reasoner: Whose system prompt it is: an `LLMReasoner`, anything with
                `with_system_prompt`, or a function from a system prompt to a reasoner.
            generator: One generator, or several. Then the study looks for one prompt that serves
                all of them, by the mean score over the generators, and from there for one prompt
                for each; `StudyResult.matrix` holds them against each other. One that takes no
                seed draws another image each time: prompts are then compared on the same
                requests alone, which is as valid and needs more images.
            judge: Scores images.
            prompts: The requests, some with rubrics of their own.
            rubric_writer: Writes the rubrics that are missing, once; None means a language model
                if any is missing.
            fidelity: Looks criteria up in rewrites, to tell whose fault a failure is; None means
                by words, without a model.
            proposer: Suggests edits; None means OpenAI's `DEFAULT_PROPOSER_MODEL`.
            strategy: How to search; None means `FactorialSearch`.
            gate: How a prompt is accepted; None means the default gate.
            guards: Limits for every candidate; None means the default ones.
            clusterer: Sorts failures into modes; None sorts by kind of criterion.
            interval: How the final interval is computed; None means by a studentised bootstrap.
            confidence: Confidence of the final interval.
            test_pictures: Images per test request, prompt and generator.
            shares: Shares of the search, selection and test split.
            own_share: With several generators, the share of the images for search that goes to
                the prompts for one generator each; 0 looks for the shared prompt only.
            show_pictures: Whether the proposer is shown failed images.
            concurrency: Most calls of one part at a time.

        Raises:
            MissingKeyError: If a default model is needed and there is no key.
            StudyConfigError: If there is no generator, or a number makes no study.
        """
        generators = (generator,) if isinstance(generator, Generator) else tuple(generator)
        if not generators:
            raise StudyConfigError("There is no generator.", hint="Give at least one.")
        missing = any(request.rubric is None for request in prompts.requests)
        self._generators = generators
        parts = _parts(
            reasoner,
            generators,
            judge,
            writer=rubric_writer or (LLMRubricWriter() if missing else None),
            checker=fidelity or LexicalFidelity(),
            concurrency=concurrency,
        )
        self._core = StudyCore(
            evaluator=lambda context: PipelineEvaluator(parts, context),
            prompts=prompts,
            proposer=proposer or LLMProposer(default_chat(DEFAULT_PROPOSER_MODEL)),
            strategy=strategy or FactorialSearch(),
            gate=gate or PairedSequentialGate(),
            guards=guards or GuardRules(),
            clusterer=clusterer or ByKind(),
            interval=interval or ClusterBootstrap(),
            confidence=confidence,
            test_pictures=test_pictures,
            shares=shares,
            own_share=own_share,
            show_pictures=show_pictures,
        )

    async def optimize(
        self,
        *,
        seed: SystemPrompt,
        budget: Budget,
        run_dir: str | Path | None = None,
        random_seed: int = 0,
        on_progress: ProgressCallback | None = None,
        stop: StopSwitch | None = None,
    ) -> StudyResult:
        """Search, accept and claim; or resume, if `run_dir` holds an unfinished run.

        Args:
            seed: The prompt to start from.
            budget: Limits, the final claim included. It may be raised when resuming; of a run that
                had ended, `StudyResult.earlier_ends` says what that means for its claim.
            run_dir: Where every result is kept as it comes; None keeps nothing.
            random_seed: Everything drawn at random follows from it.
            on_progress: Told after every call and decision how far the study is.
            stop: Ends the study between calls when it is pressed, to be resumed later.

        Raises:
            BudgetError: If the budget does not even pay for the final claim.
            StudyMismatchError: If `run_dir` belongs to another study.
            StudyInterruptedError: If a service is out or `stop` was pressed; call again to go on.
            UnsupportedSettingError: If a generator cannot honour a request's settings.
        """
        for one in self._generators:
            for wanted in self._core.prompts.requests:
                honoured_settings(wanted.request, one)
        return await self._core.run(
            seed=seed,
            budget=budget,
            run_dir=run_dir,
            random_seed=random_seed,
            stop=stop,
            told=on_progress,
        )

    def estimate(
        self, budget: Budget, *, prices: UnitPrices | None = None, random_seed: int = 0
    ) -> StudyEstimate:
        """What `optimize` will do with a budget, before anything is paid for.

        Args:
            budget: The limits.
            prices: What one call of each part costs, as far as it is known.
            random_seed: As for `optimize`.
        """
        return self._core.estimate(budget, prices or UnitPrices(), random_seed)

    def optimize_sync(
        self,
        *,
        seed: SystemPrompt,
        budget: Budget,
        run_dir: str | Path | None = None,
        random_seed: int = 0,
        on_progress: ProgressCallback | None = None,
        stop: StopSwitch | None = None,
    ) -> StudyResult:
        """`optimize` for code that is not async."""
        return run_sync(
            self.optimize(
                seed=seed,
                budget=budget,
                run_dir=run_dir,
                random_seed=random_seed,
                on_progress=on_progress,
                stop=stop,
            )
        )


def _parts(
    reasoner: ReasonerSource,
    generators: tuple[Generator, ...],
    judge: Judge,
    *,
    writer: RubricWriter | None,
    checker: FidelityChecker,
    concurrency: int,
) -> Parts:
    return Parts(
        reasoner=reasoner,
        generators=generators,
        judge=judge,
        rubric_writer=writer,
        fidelity=checker,
        names={
            "rewrite": _identity(reasoner),
            "generate": " + ".join(named_identity(g) for g in generators),
            "judge": named_identity(judge),
            "rubric": _identity(writer) if writer else "given",
            "fidelity": _identity(checker),
        },
        concurrency=concurrency,
    )


def _identity(part: object) -> str:
    """What a part says it is, or the name of its class or function."""
    return fingerprint(part) or str(getattr(part, "__name__", type(part).__name__))
