"""Checks the models in the settings: the generator, and language models behind OpenAI's API."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping

from lens_reasoner import ReasonerError
from lens_reasoner.generators.openai_images import DEFAULT_IMAGE_MODEL
from lens_reasoner.judging.mode import DEFAULT_JUDGE_MODEL
from lens_reasoner.openai_connection import OFFICIAL_URL, is_official
from lens_reasoner.prices import OPENAI_PRICES, without_snapshot
from lens_reasoner.reasoner import DEFAULT_REASONER_MODEL
from lens_reasoner.rubric import DEFAULT_RUBRIC_MODEL
from lens_reasoner.shutdowns import NOTICE, OPENAI_SHUTDOWNS
from lens_sdk.doctor.check import Check, Status
from lens_sdk.generators import choose_generator, lens_model
from lens_sdk.models import LensModel
from lens_sdk.settings import Settings

_DRAWS = "model"


def drawing_model(settings: Settings) -> tuple[LensModel | None, Check]:
    """Check the generator; also returns the local Lens model, if it is one."""
    if settings.model.partition(":")[0] == "openai":
        return None, Check(_DRAWS, "ok", f"{settings.model}, by OpenAI")
    try:
        generator = choose_generator(settings.model)
    except ReasonerError as error:
        return None, Check(_DRAWS, "error", error.message, error.hint)
    model = lens_model(generator)
    if model is None:
        return None, Check(_DRAWS, "ok", settings.model)
    size = sum(known["bytes"] for known in model.weights.values())
    return model, Check(_DRAWS, "ok", f"{model.name}, {size / 1e9:.2f} GB in {model.folder}")


def language_models(settings: Settings, *, nano: bool) -> dict[str, str]:
    """Return the OpenAI API models that the settings use, by setting.

    Args:
        settings: The settings.
        nano: Whether the generator's model has its own reasoner and judge.
    """
    judge = "nano" if settings.judge == "auto" and nano else settings.judge
    roles = {
        "reasoner": (settings.reasoner, DEFAULT_REASONER_MODEL),
        "judge": (judge, DEFAULT_JUDGE_MODEL),
        "rubric": (judge if settings.rubric == "auto" else settings.rubric, DEFAULT_RUBRIC_MODEL),
    }
    used = {}
    for role, (choice, default) in roles.items():
        kind, _, name = choice.partition(":")
        if kind == "openai" or (kind == "auto" and not nano):
            used[role] = name or default
    kind, _, name = settings.model.partition(":")
    if kind == "openai":
        used[_DRAWS] = name or DEFAULT_IMAGE_MODEL
    return used


def keys(
    settings: Settings, used: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[Check]:
    """Check that the language models have an API key; it is never shown."""
    variable = settings.openai_api_key_env
    url = settings.openai_base_url or OFFICIAL_URL
    if environ.get(variable, "").strip():
        yield Check("key", "ok", f"{variable} is set")
    elif not used:
        yield Check("key", "note", f"{variable} is not set, and nothing needs it")
    elif is_official(url):
        yield Check(
            "key",
            "error",
            f"{variable} is not set, and {_list(used)} need it",
            f"Set {variable}, set openai_base_url to a server of your own, or choose other parts.",
        )
    else:
        yield Check("key", "note", f"{variable} is not set; {url} may need none")


def shutdowns(settings: Settings, used: Mapping[str, str], today: datetime.date) -> Iterator[Check]:
    """Check for models with an announced shutdown."""
    if not is_official(settings.openai_base_url or OFFICIAL_URL):
        return
    for role, model in used.items():
        known = OPENAI_SHUTDOWNS.get(without_snapshot(model))
        if known is None:
            yield Check(f"{role} model", "ok", f"{model}, no end is announced")
            continue
        days = (known.date - today).days
        when = f"ends on {known.date}, in {days} days" if days > 0 else f"ended on {known.date}"
        status: Status = "error" if days <= 0 else "warning" if days <= NOTICE.days else "ok"
        named = f'{role} = "openai:{known.successor or "NAME"}"'
        yield Check(
            f"{role} model", status, f"{model} {when}", f"Set {named}." if status != "ok" else ""
        )


def prices(settings: Settings, used: Mapping[str, str]) -> Iterator[Check]:
    """Check for language models without a known price, which make cost limits impossible."""
    table = settings.provider.get("prices")
    if table is None:
        table = OPENAI_PRICES
    listed = getattr(table, "prices", {})
    unknown = sorted(
        {m for role, m in used.items() if role != _DRAWS and without_snapshot(m) not in listed}
    )
    if unknown:
        yield Check(
            "prices",
            "warning",
            f"unknown for {', '.join(unknown)}, so --max-cost ends runs at once",
            "List them in a file and set prices.",
        )


def _list(used: Mapping[str, str]) -> str:
    return ", ".join(f"{role} ({model})" for role, model in used.items())
