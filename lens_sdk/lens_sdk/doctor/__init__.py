"""Checks whether the settings will work; each result is one line."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping

from lens_reasoner import ReasonerError
from lens_sdk.doctor.check import Check, Status
from lens_sdk.doctor.machine import disks, machine
from lens_sdk.doctor.models import drawing_model, keys, language_models, prices, shutdowns
from lens_sdk.doctor.packages import extras, versions
from lens_sdk.doctor.services import served_models, server
from lens_sdk.settings import Settings

__all__ = ["Check", "Status", "examine"]


def examine(
    settings: Settings | None = None,
    *,
    online: bool = False,
    today: datetime.date | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Check]:
    """Check versions, extras, settings, the model, keys, announced shutdowns, GPU, memory, disk.

    Loads nothing and costs nothing.

    Args:
        settings: The settings to check; by default those that apply here.
        online: Also ask the provider whether it accepts the key and has the models; this is free.
        today: The date, for announced shutdowns.
        environ: The environment, where keys are looked up.
    """
    checks = [*versions(), *extras()]
    try:
        known = settings or Settings.load()
        provider = known.provider
    except ReasonerError as error:
        return [*checks, Check("settings", "error", error.message, error.hint)]
    checks.append(Check("settings", "ok", "can be read"))
    if known.base_url:
        return [*checks, server(known), *disks(known)]
    environ = os.environ if environ is None else environ
    model, found = drawing_model(known)
    used = language_models(known, nano=model is not None and model.nano)
    checks += [found, *keys(known, used, environ)]
    checks += shutdowns(known, used, today or datetime.date.today())
    checks += prices(known, used)
    if online:
        checks += served_models(used, provider)
    return [*checks, *machine(model), *disks(known)]
