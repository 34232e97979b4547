"""`PromptStudy`, the entry point for users."""

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
    """Improves a reasoner's system prompt for one or several generators, judged by rubrics.

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
        """Assemble the parts.

        Args:
            reasoner: The reasoner whose system prompt to improve: an `LLMReasoner`, anything with
                `with_system_prompt`, or a function from a system prompt to a reasoner.
            generator: One generator, or several. With several, the study first searches for one
                prompt for all of them, by mean score, and from there for one prompt per generator;
                `StudyResult.matrix` compares these. With a generator that takes no seed, prompts
                are compared on the same requests but different images, which is equally valid but
                needs more images.
            judge: Scores images.
            prompts: The requests; some may have rubrics.
            rubric_writer: Writes missing rubrics, each once; None uses a language model if any is
                missing.
            fidelity: Checks which criteria rewrites state, to attribute failures; None checks by
                words alone.
            proposer: Suggests edits; None means OpenAI's `DEFAULT_PROPOSER_MODEL`.
            strategy: How to search; None means `FactorialSearch`.
            gate: How prompts are accepted; None means the default gate.
            guards: Limits for all candidates; None means the default ones.
            clusterer: Sorts failures into modes; None sorts by kind of criterion.
            interval: Method for the final confidence interval; None means a studentised bootstrap.
            confidence: Confidence of the final interval.
            test_pictures: Images per test request, prompt and generator.
            shares: Shares of the search, selection and test split.
            own_share: With several generators, the share of the search images for the searches per
                generator; 0 only searches for the shared prompt.
            show_pictures: Whether to show failed images to the proposer.
            concurrency: Maximum concurrent calls per part.

        Raises:
            MissingKeyError: A default model is needed and there is no API key.
            StudyConfigError: There is no generator, or a number is invalid.
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
        """Search, accept and claim; resumes if `run_dir` has an unfinished run.

        Args:
            seed: The prompt to start from.
            budget: Limits, including the final claim. It may be raised when resuming; if the run
                had already ended, see `StudyResult.earlier_ends` for what that means for its claim.
            run_dir: Folder where every result is recorded as it arrives; None records nothing.
            random_seed: Determines everything that is random.
            on_progress: Called with the progress after every call and decision.
            stop: Stops the study between calls when pressed, so that it can be resumed.

        Raises:
            BudgetError: The budget does not even cover the final claim.
            StudyMismatchError: `run_dir` belongs to another study.
            StudyInterruptedError: A service is down or `stop` was pressed; call again to resume.
            UnsupportedSettingError: A generator does not support a request's settings.
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
        """Predict what `optimize` will do with a budget, before anything is paid for.

        Args:
            budget: The limits.
            prices: Price of one call of each part, as far as known.
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
        """Synchronous version of `optimize`, which also works in notebooks."""
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
    """A part's fingerprint, or the name of its class or function."""
    return fingerprint(part) or str(getattr(part, "__name__", type(part).__name__))
