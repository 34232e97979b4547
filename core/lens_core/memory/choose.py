"""The plan that fits what a device has free."""

from collections.abc import Callable
from functools import cache

import torch

from lens_core.errors import ParameterError
from lens_core.memory.dry_run import Work
from lens_core.memory.plan import AUTO, PLANS, RESIDENT, MemoryPlan, find_plan
from lens_core.memory.predict import LARGEST, Model, Prediction, predict

MemoryChoice = str | MemoryPlan
"""`auto`, the name of a plan, or a plan of one's own."""

Predicted = Callable[[MemoryPlan], Prediction]
"""What a plan needs for some work."""


def default_device() -> torch.device:
    """The machine's accelerator, or the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of a device, other programs considered; None if it cannot tell."""
    if device.type == "mps":
        recommended: int = torch.mps.recommended_max_memory()
        return recommended - torch.mps.current_allocated_memory()
    backend = getattr(torch, device.type, None)
    ask = getattr(backend, "mem_get_info", None)
    if ask is None:
        return None
    free: int = ask(device)[0]
    return free


def resolve_plan(
    choice: MemoryChoice, model: Callable[[], Model], device: torch.device, work: Work = LARGEST
) -> MemoryPlan:
    """The plan that a choice means for drawing with a model on a device.

    Args:
        choice: `auto` takes the fastest named plan whose prediction fits what is free now; on the
            CPU, and wherever nobody says what is free, that is `resident`.
        model: Gives what is to run; asked only if the choice depends on it.
        device: Where.
        work: What has to fit; one picture of the largest size by default.

    Raises:
        ParameterError: No plan of that name, or none that fits.
    """
    known = cache(model)
    return chosen_plan(choice, device, lambda plan: predict(known(), plan, work))


def chosen_plan(choice: MemoryChoice, device: torch.device, predicted: Predicted) -> MemoryPlan:
    """The plan that a choice means for any work; see `resolve_plan`.

    Args:
        choice: As there.
        device: Where.
        predicted: Tells what a plan needs; asked only if the choice depends on it.

    Raises:
        ParameterError: No plan of that name, or none that fits.
    """
    if isinstance(choice, MemoryPlan):
        return choice
    if choice != AUTO:
        return find_plan(choice)
    free = None if device.type == "cpu" else free_bytes(device)
    return RESIDENT if free is None else fastest_plan(predicted, free)


def fitting_plan(model: Model, free: int, work: Work = LARGEST) -> MemoryPlan:
    """The fastest named plan for drawing that needs no more than `free` bytes.

    Raises:
        ParameterError: None does; names the least that is needed.
    """
    return fastest_plan(lambda plan: predict(model, plan, work), free)


def fastest_plan(predicted: Predicted, free: int) -> MemoryPlan:
    """The fastest named plan that needs no more than `free` bytes; see `fitting_plan`."""
    least: Prediction | None = None
    for plan in PLANS.values():
        prediction = predicted(plan)
        if prediction.needed <= free:
            return plan
        if least is None or prediction.needed < least.needed:
            least = prediction
    assert least is not None
    work = least.work
    raise ParameterError(
        f"memory='auto': {free / 2**30:.1f} GiB are free on the device, and the smallest plan, "
        f"{least.plan.name!r}, needs {least.needed / 2**30:.1f} GiB for {work.width}x{work.height} "
        "pixels; close other programs, or give a MemoryPlan of your own for smaller pictures"
    )
