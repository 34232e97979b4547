"""The parts of a prompt study, chosen by name."""

from __future__ import annotations

from dataclasses import dataclass

from lens_prompt_opt import (
    BootstrappedExamples,
    ByKind,
    FactorialSearch,
    FailureClusterer,
    GepaEngine,
    LLMClusterer,
    LLMProposer,
    ParetoSearch,
    PromptedReasoner,
    Proposer,
    RandomSearch,
    RewriteFromFailures,
    Strategy,
)
from lens_prompt_opt.llm_proposer import DEFAULT_PROPOSER_MODEL
from lens_reasoner import (
    FidelityChecker,
    Generator,
    Judge,
    RubricWriter,
    SystemPrompt,
)
from lens_reasoner.judge import DEFAULT_JUDGE_MODEL
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.prompts import GENERAL_PROMPT
from lens_reasoner.reasoner import DEFAULT_REASONER_MODEL
from lens_sdk.errors import UnknownPartError
from lens_sdk.generators import choose_generator
from lens_sdk.local import LocalLensGenerator
from lens_sdk.runtime import LensRuntime
from lens_sdk.session import (
    choose_fidelity_checker,
    choose_judge,
    choose_reasoner,
    choose_rubric_writer,
    named_chat,
)

STRATEGIES: dict[str, Strategy] = {
    "factorial": FactorialSearch(),
    "rewrite": RewriteFromFailures(),
    "pareto": ParetoSearch(),
    "examples": BootstrappedExamples(),
    "random": RandomSearch(),
    "beam": RandomSearch(beam=3, children=2, name="beam"),
    "gepa": GepaEngine(),
}
"""Strategies by command-line name, with their defaults."""

PROPOSER_SETTING = "--proposer openai:{model}, or LLMProposer(OpenAIChat('{model}'))"
"""The setting that chooses another model for proposing edits."""


@dataclass(frozen=True)
class StudyParts:
    """The parts of a study.

    Attributes:
        reasoner: The reasoner whose system prompt is improved.
        generators: The image generators.
        judge: Scores images.
        rubric_writer: Writes criteria for requests that have none.
        fidelity: Finds which part caused a failure; None compares words.
        proposer: Proposes edits.
        clusterer: Names failure modes.
        seed_prompt: The prompt to start from if the user gives none.
        reasoner_model: The paid language model that rewrites, if there is one.
        judge_model: The paid language model that judges, if there is one.
    """

    reasoner: PromptedReasoner
    generators: tuple[Generator, ...]
    judge: Judge
    rubric_writer: RubricWriter | None
    fidelity: FidelityChecker | None
    proposer: Proposer
    clusterer: FailureClusterer
    seed_prompt: SystemPrompt
    reasoner_model: str | None
    judge_model: str | None


def choose_strategy(name: str) -> Strategy:
    """Return the strategy with a name.

    Raises:
        UnknownPartError: There is no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownPartError(
            f"strategy {name!r} is not known.", hint=f"Choices: {', '.join(STRATEGIES)}."
        )
    return STRATEGIES[name]


def choose_parts(
    generators: tuple[str, ...],
    *,
    reasoner: str = "auto",
    judge: str = "auto",
    rubric: str = "auto",
    proposer: str = "auto",
    provider: ChatOptions | None = None,
) -> StudyParts:
    """Return the parts for the given names; nothing is loaded yet.

    If every generator is lens-nano and nothing else is asked for, all parts are offline: a reasoner
    that follows its prompt by rules, the nano world's judge, and proposals from a library.

    Args:
        generators: Names for `choose_generator`.
        reasoner: `auto`, `rules` (the nano world's offline rule follower), `openai`,
            `openai:MODEL`, `local`, `gguf` or `gguf:FILE`.
        judge: `auto`, `nano`, `openai` or `openai:MODEL`.
        rubric: The rubric writer: `auto`, for the one that belongs to the judge, or as `judge`.
        proposer: `auto`, `library` (sections for the nano world), `openai` or `openai:MODEL`.
        provider: Server, key and prices of the language models chosen by name.

    Raises:
        UnknownModelError: There is no such generator.
        UnknownPartError: A part is unknown, or does not take a system prompt.
        MissingKeyError: A language model is needed, but there is no API key.
    """
    drawing = tuple(choose_generator(name) for name in generators)
    runtimes = [g.runtime if isinstance(g, LocalLensGenerator) else None for g in drawing]
    nano = all(runtime is not None and runtime.model.nano for runtime in runtimes)
    runtime = runtimes[0]
    judge = "nano" if nano and judge == "auto" else judge
    chosen_judge, writer = choose_judge(judge, runtime if nano else None, provider)
    if chosen_judge is None:
        raise UnknownPartError(
            "A study needs a judge, and the judge is 'none'.",
            hint="Choose nano or openai:MODEL with --judge or the setting judge.",
        )
    rules = reasoner == "rules" or (nano and reasoner in {"auto", "nano"})
    offline = judge == "nano"
    return StudyParts(
        reasoner=_reasoner("rules" if rules else reasoner, runtime, provider),
        generators=drawing,
        judge=chosen_judge,
        rubric_writer=choose_rubric_writer(rubric, provider) or writer,
        fidelity=choose_fidelity_checker("auto", judge, runtime, provider) if offline else None,
        proposer=_proposer("library" if rules and proposer == "auto" else proposer, provider),
        clusterer=ByKind()
        if offline
        else LLMClusterer(named_chat(DEFAULT_JUDGE_MODEL, PROPOSER_SETTING, provider)),
        seed_prompt=_poor_prompt() if rules else GENERAL_PROMPT,
        reasoner_model=None if rules else _paid_model(reasoner, DEFAULT_REASONER_MODEL),
        judge_model=None if offline else _paid_model(judge, DEFAULT_JUDGE_MODEL),
    )


def _reasoner(
    choice: str, runtime: LensRuntime | None, provider: ChatOptions | None
) -> PromptedReasoner:
    if choice == "rules":
        from lens_sdk.nano_rule_reasoner import NanoRuleReasoner

        return NanoRuleReasoner(_poor_prompt())
    found = choose_reasoner(choice, runtime, provider)
    if not isinstance(found, PromptedReasoner):
        raise UnknownPartError(
            f"The reasoner {choice!r} has no system prompt that could be improved.",
            hint="Choose rules, openai:MODEL, local or gguf.",
        )
    return found


def _paid_model(choice: str, default: str) -> str | None:
    """Return the OpenAI API model of a choice; None if it is not one."""
    kind, _, model = choice.partition(":")
    return model or default if kind in {"auto", "openai"} else None


def _proposer(choice: str, provider: ChatOptions | None) -> Proposer:
    kind, _, model = choice.partition(":")
    if kind == "library" and not model:
        from lens_prompt_opt.library_proposer import LibraryProposer
        from lens_sdk.nano_proposals import NANO_LIBRARY

        return LibraryProposer(NANO_LIBRARY)
    if kind == "openai" or choice == "auto":
        return LLMProposer(named_chat(model or DEFAULT_PROPOSER_MODEL, PROPOSER_SETTING, provider))
    raise UnknownPartError(
        f"proposer {choice!r} is not known.",
        hint="Choices: auto, library, openai or openai:MODEL.",
    )


def _poor_prompt() -> SystemPrompt:
    from lens_sdk.nano_proposals import POOR_PROMPT

    return POOR_PROMPT
