"""Builds the loop from parts chosen by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from lens_reasoner import (
    AgentLoop,
    Cache,
    FidelityChecker,
    Generator,
    GgufReasoner,
    Judge,
    LLMFidelity,
    LLMReasoner,
    LLMReviser,
    LLMRubricWriter,
    LoopLimits,
    MissingKeyError,
    OnUnsupported,
    OpenAIChat,
    Reasoner,
    Reviser,
    RubricJudge,
    RubricWriter,
    SystemPrompt,
)
from lens_reasoner.judging.mode import DEFAULT_JUDGE_MODEL
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.reasoner import DEFAULT_REASONER_MODEL, JUDGE_SETTING, REASONER_SETTING
from lens_reasoner.rubric import DEFAULT_RUBRIC_MODEL
from lens_sdk.errors import UnknownPartError
from lens_sdk.generators import as_generator
from lens_sdk.local import LocalLensGenerator
from lens_sdk.models import DEFAULT_MODEL, require_packages
from lens_sdk.runtime import LensRuntime

RUBRIC_SETTING = "the setting rubric = 'openai:{model}', or LLMRubricWriter(OpenAIChat('{model}'))"
"""The setting that chooses another model for writing criteria."""

PartChoice = str
"""`auto`, `nano`, `openai`, `openai:MODEL` or `none`; reasoners also `local` and `gguf[:FILE]`."""

_Kind = Literal["reasoner", "judge", "rubric"]
_CHOICES: dict[_Kind, str] = {
    "reasoner": "auto, nano, local, gguf, gguf:FILE, openai, openai:MODEL or none",
    "judge": "auto, nano, openai, openai:MODEL or none",
    "rubric": "auto, nano, openai, openai:MODEL or none",
}
_NAMED: dict[_Kind, frozenset[str]] = {
    "reasoner": frozenset({"openai", "gguf"}),
    "judge": frozenset({"openai"}),
    "rubric": frozenset({"openai"}),
}
_PLAIN: dict[_Kind, frozenset[str]] = {
    "reasoner": frozenset({"nano", "local", "none"}),
    "judge": frozenset({"nano", "none"}),
    "rubric": frozenset({"nano", "none"}),
}


def build_loop(
    model: str | Path | Generator = DEFAULT_MODEL,
    *,
    reasoner: PartChoice | Reasoner | None = "auto",
    judge: PartChoice | Judge | None = "auto",
    rubric_writer: PartChoice | RubricWriter | None = None,
    fidelity_checker: PartChoice | FidelityChecker | None = "auto",
    reviser: PartChoice | Reviser | None = "auto",
    limits: LoopLimits | None = None,
    cache: Cache | str | Path | None = None,
    on_unsupported: OnUnsupported | None = None,
    provider: ChatOptions | None = None,
    system_prompt: SystemPrompt | str | Path | None = None,
) -> AgentLoop:
    """Build a loop from parts chosen by name, or from your own parts.

    With the nano model everything runs offline: its own text encoder rewrites requests, and a
    detector judges the images. For other models, a language model does both, through OpenAI's API
    or a compatible server (`OPENAI_API_KEY`, `OPENAI_BASE_URL`).

    Args:
        model: `lens-nano`, the path of a Lens folder, another choice of `choose_generator`, such as
            `diffusers:ID_OR_FOLDER`, `openai` or `server:URL#MODEL`, or any `Generator`.
        reasoner: `auto`, `nano`, `openai`, `openai:MODEL`, `local` (the text encoder of the local
            Lens model, a GPT-OSS; needs no extra memory), `gguf` or `gguf:FILE` (a small local
            model), or a `Reasoner`. `none` or None uses each request as the prompt.
        judge: `auto`, `nano`, `openai`, `openai:MODEL`, a `Judge`, or `none` or None. Your own
            judge needs a `rubric_writer`, or a rubric for each run.
        rubric_writer: Writes the criteria: `nano`, `openai`, `openai:MODEL`, or a `RubricWriter`;
            by default (`auto` or None), the one that belongs to `judge`.
        fidelity_checker: Checks which criteria each prompt states. `auto` uses the one that belongs
            to `judge`, if any; or a `FidelityChecker`, or `none` or None.
        reviser: Rewrites prompts between rounds. `auto` uses the one that belongs to `reasoner`, if
            any; or a `Reviser`. With `none` or None, further rounds only use new seeds.
        limits: When a run ends; by default after one round.
        cache: Cache shared with other runs, or its folder; see `lens_reasoner.Cache`.
        on_unsupported: Whether to refuse settings that the generator does not support, or to drop
            them with a warning and a note in the image's record; None follows the generator.
        provider: Server, key and prices of the language models chosen by name; see `OpenAIChat`.
            None reads them from the environment.
        system_prompt: The reasoner's system prompt, or a file with it; None means the built-in one.

    Raises:
        UnknownModelError: There is no such model.
        UnknownPartError: A reasoner or judge is unknown, or does not work with this model.
        LoopConfigError: A part does not have the methods it needs, such as a plain function.
        MissingExtraError: The packages that run a model locally are not installed.
        MissingKeyError: A language model is needed, but there is no API key.
    """
    generator = as_generator(model, on_unsupported=on_unsupported or "raise")
    runtime = generator.runtime if isinstance(generator, LocalLensGenerator) else None
    chosen_reasoner = choose_reasoner(reasoner, runtime, provider)
    if system_prompt is not None:
        from lens_sdk.system_prompts import prompted

        chosen_reasoner = prompted(chosen_reasoner, system_prompt)
    chosen_judge, writer = choose_judge(judge, runtime, provider)
    return AgentLoop(
        generator=generator,
        reasoner=chosen_reasoner,
        judge=chosen_judge,
        rubric_writer=choose_rubric_writer(rubric_writer, provider) or writer,
        fidelity_checker=choose_fidelity_checker(fidelity_checker, judge, runtime, provider),
        reviser=choose_reviser(reviser, reasoner, runtime, provider),
        limits=limits,
        cache=cache,
        on_unsupported=on_unsupported,
    )


def choose_reasoner(
    choice: PartChoice | Reasoner | None,
    runtime: LensRuntime | None,
    provider: ChatOptions | None = None,
) -> Reasoner | None:
    """Return the reasoner for a choice; None for `none`.

    Args:
        choice: See `build_loop`.
        runtime: The local model, if the generator is one.
        provider: See `build_loop`.

    Raises:
        UnknownPartError: The choice is unknown, or does not work with this model.
        MissingKeyError: A language model is needed, but there is no API key.
    """
    if not isinstance(choice, str):
        return choice
    kind, name = _read(choice, "reasoner", runtime, provider)
    if kind == "none":
        return None
    if kind == "openai":
        return LLMReasoner(named_chat(name or DEFAULT_REASONER_MODEL, REASONER_SETTING, provider))
    if kind == "gguf":
        return GgufReasoner(name or None)
    if runtime is None:
        raise UnknownPartError(
            f"The reasoner {kind!r} uses the text encoder of a local Lens model, but the generator "
            "is not one.",
            hint="Choose openai, gguf or none, or give a Reasoner.",
        )
    if kind == "local":
        from lens_sdk.local_chat import LocalChat

        return LLMReasoner(LocalChat(runtime))
    from lens_sdk.nano_reasoner import NanoReasoner

    return NanoReasoner(runtime)


def choose_judge(
    choice: PartChoice | Judge | None,
    runtime: LensRuntime | None,
    provider: ChatOptions | None = None,
) -> tuple[Judge | None, RubricWriter | None]:
    """Return the judge for a choice and its rubric writer; see `choose_reasoner`."""
    if not isinstance(choice, str):
        return choice, None
    kind, name = _read(choice, "judge", runtime, provider)
    if kind == "none":
        return None, None
    if kind == "openai":
        chat = named_chat(name or DEFAULT_JUDGE_MODEL, JUDGE_SETTING, provider)
        writer = named_chat(name or DEFAULT_RUBRIC_MODEL, JUDGE_SETTING, provider)
        return RubricJudge(chat), LLMRubricWriter(writer)
    require_packages(("numpy", "scipy"))
    from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter

    return NanoJudge(), NanoRubricWriter()


def choose_rubric_writer(
    choice: PartChoice | RubricWriter | None, provider: ChatOptions | None = None
) -> RubricWriter | None:
    """Return the rubric writer; None, also for `auto`, means the judge's; see `choose_judge`."""
    if choice == "auto" or not isinstance(choice, str):
        return None if isinstance(choice, str) else choice
    kind, name = _read(choice, "rubric", None, provider)
    if kind == "openai":
        return LLMRubricWriter(named_chat(name or DEFAULT_RUBRIC_MODEL, RUBRIC_SETTING, provider))
    if kind == "none":
        return None
    from lens_sdk.nano_judge import NanoRubricWriter

    return NanoRubricWriter()


def choose_reviser(
    choice: PartChoice | Reviser | None,
    reasoner: PartChoice | Reasoner | None,
    runtime: LensRuntime | None,
    provider: ChatOptions | None = None,
) -> Reviser | None:
    """Return the reviser for a reasoner's prompts; None for no reviser.

    Args:
        choice: See `build_loop`.
        reasoner: The choice of reasoner, which `auto` follows.
        runtime: The local model, if the generator is one.
        provider: See `build_loop`.

    Raises:
        UnknownPartError: The choice is unknown, or does not work with this model.
    """
    if not isinstance(choice, str):
        return choice
    if not _follows(choice, "reviser") or not isinstance(reasoner, str):
        return None
    kind, name = _read(reasoner, "reasoner", runtime, provider)
    if kind == "openai":
        return LLMReviser(named_chat(name or DEFAULT_REASONER_MODEL, REASONER_SETTING, provider))
    if kind == "local" and runtime is not None:
        from lens_sdk.local_chat import LocalChat

        return LLMReviser(LocalChat(runtime))
    if kind == "nano" and runtime is not None:
        from lens_sdk.nano_reviser import NanoReviser

        return NanoReviser(runtime)
    return None


def choose_fidelity_checker(
    choice: PartChoice | FidelityChecker | None,
    judge: PartChoice | Judge | None,
    runtime: LensRuntime | None,
    provider: ChatOptions | None = None,
) -> FidelityChecker | None:
    """Return the fidelity checker that belongs to a judge; see `choose_reviser`."""
    if not isinstance(choice, str):
        return choice
    if not _follows(choice, "fidelity_checker") or not isinstance(judge, str):
        return None
    kind, name = _read(judge, "judge", runtime, provider)
    if kind == "openai":
        return LLMFidelity(named_chat(name or DEFAULT_JUDGE_MODEL, JUDGE_SETTING, provider))
    if kind == "nano":
        from lens_sdk.nano_fidelity import NanoFidelityChecker

        return NanoFidelityChecker()
    return None


def _follows(choice: PartChoice, part: str) -> bool:
    """Whether the choice is `auto`; anything other than `auto` or `none` is an error."""
    if choice not in {"auto", "none"}:
        raise UnknownPartError(
            f"{part} {choice!r} is not known.", hint="Choices: auto, none, or your own part."
        )
    return choice == "auto"


def named_chat(model: str, setting: str, provider: ChatOptions | None) -> OpenAIChat:
    """Return a language model chosen by name.

    Args:
        model: The name of the language model.
        setting: The setting that chooses another model, for error messages.
        provider: See `build_loop`.
    """
    options: ChatOptions = {**(provider or ChatOptions()), "setting": setting}
    return OpenAIChat(model, **options)


def _read(
    choice: PartChoice, part: _Kind, runtime: LensRuntime | None, provider: ChatOptions | None
) -> tuple[str, str]:
    """Return the kind of a part and, for `openai` and `gguf`, its model."""
    kind, _, name = choice.partition(":")
    if kind == "auto" and not name:
        kind = "nano" if runtime is not None and runtime.model.nano else "openai"
        if kind == "openai" and not _reachable(provider):
            what = runtime.model.name if runtime is not None else "this generator"
            raise MissingKeyError(
                f"There is no offline {part} for {what} and no key for a language model.",
                hint="Set OPENAI_API_KEY (or OPENAI_BASE_URL for your own server), or work without "
                "them: --no-reason and --no-judge, or reasoner=None and judge=None in Python.",
            )
    if kind not in _NAMED[part] and (name or kind not in _PLAIN[part]):
        raise UnknownPartError(
            f"{part} {choice!r} is not known.", hint=f"Choices: {_CHOICES[part]}."
        )
    return kind, name


def _reachable(provider: ChatOptions | None) -> bool:
    given = provider or {}
    return bool(
        given.get("api_key")
        or given.get("base_url")
        or os.environ.get("OPENAI_API_KEY")
        or os.environ.get("OPENAI_BASE_URL")
    )
