"""What each plan needs, as a table."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lens_core.errors import ParameterError
from lens_core.memory.plan import PLANS, MemoryPlan
from lens_core.memory.predict import Model, Prediction, predict
from lens_core.memory.rehearsal import Work

HEADER = ("plan", "reading", "sampling", "decoding", "needed on the device", "host", "pictures")
START, END = "<!-- memory table: start -->", "<!-- memory table: end -->"


def predictions(
    model: Model, sizes: Sequence[Work], plans: Iterable[MemoryPlan] | None = None
) -> list[Prediction]:
    """What plans need, size by size.

    Args:
        model: Real or on the meta device.
        sizes: What is done at once.
        plans: Those that have names by default.
    """
    chosen = list(PLANS.values() if plans is None else plans)
    return [predict(model, plan, work) for work in sizes for plan in chosen]


def row(prediction: Prediction) -> tuple[str, ...]:
    """A line of the table, under `HEADER`; GiB."""
    stages = prediction.stages
    return (
        prediction.plan.name,
        *(_gib(stages[stage]) if stage in stages else "" for stage in _STAGES),
        _gib(prediction.needed),
        _gib(prediction.host),
        "the same" if prediction.plan.is_lossless else _loss(prediction.plan),
    )


def markdown(found: Sequence[Prediction]) -> str:
    """A table for each size."""
    tables = []
    for work in dict.fromkeys(prediction.work for prediction in found):
        lines = [HEADER, ("---",) * len(HEADER)]
        lines += [row(prediction) for prediction in found if prediction.work == work]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        tables.append(f"{work.width}x{work.height}, batch {work.batch}, GiB:\n\n{table}")
    return "\n\n".join(tables)


def write_table(path: Path, found: Sequence[Prediction]) -> None:
    """Replace the table of a document.

    Raises:
        ParameterError: The document has no place for one.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1:
        raise ParameterError(f"{path} must have one line {START!r} and one {END!r}")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    path.write_text(f"{before}{START}\n{markdown(found)}\n{END}{after}", encoding="utf-8")


_STAGES = ("encode", "denoise", "decode")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _loss(plan: MemoryPlan) -> str:
    losses = []
    if plan.transformer_weights != "full":
        losses.append(f"{plan.transformer_weights} weights")
    if plan.vae_tile is not None:
        losses.append(f"tiles of {plan.vae_tile}")
    return ", ".join(losses)
