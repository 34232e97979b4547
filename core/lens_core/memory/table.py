"""What each plan needs, as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_core.errors import ParameterError
from lens_core.memory.dry_run import Work
from lens_core.memory.plan import PLANS, MemoryPlan
from lens_core.memory.predict import Model, Prediction, predict


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


def _pictures(plan: MemoryPlan) -> str:
    losses = []
    if plan.transformer_weights != "full":
        losses.append(f"{plan.transformer_weights} weights")
    if plan.vae_tile is not None:
        losses.append(f"tiles of {plan.vae_tile}")
    return ", ".join(losses) or "the same"


@dataclass(frozen=True)
class MemoryTable:
    """A kind of table.

    Attributes:
        name: Marks its place in a document.
        stages: Titles of columns by stage.
        effect: Title of the column that says what a plan changes.
        told: What a plan changes.
    """

    name: str
    stages: Mapping[str, str]
    effect: str
    told: Callable[[MemoryPlan], str]

    @property
    def header(self) -> tuple[str, ...]:
        """Titles of all columns."""
        return ("plan", *self.stages.values(), "needed on the device", "host", self.effect)

    @property
    def marks(self) -> tuple[str, str]:
        """Lines of a document between which the table is."""
        return f"<!-- {self.name}: start -->", f"<!-- {self.name}: end -->"

    def row(self, prediction: Prediction) -> tuple[str, ...]:
        """A line under `header`; GiB."""
        stages = prediction.stages
        return (
            prediction.plan.name,
            *(_gib(stages[stage]) if stage in stages else "" for stage in self.stages),
            _gib(prediction.needed),
            _gib(prediction.host),
            self.told(prediction.plan),
        )

    def markdown(self, found: Sequence[Prediction]) -> str:
        """A table for each size."""
        tables = []
        for work in dict.fromkeys(prediction.work for prediction in found):
            lines = [self.header, ("---",) * len(self.header)]
            lines += [self.row(prediction) for prediction in found if prediction.work == work]
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            tables.append(f"{work.width}x{work.height}, batch {work.batch}, GiB:\n\n{table}")
        return "\n\n".join(tables)

    def write(self, path: Path, found: Sequence[Prediction]) -> None:
        """Replace the table of a document.

        Raises:
            ParameterError: The document has no place for one.
        """
        start, end = self.marks
        text = path.read_text(encoding="utf-8")
        if text.count(start) != 1 or text.count(end) != 1:
            raise ParameterError(f"{path} must have one line {start!r} and one {end!r}")
        before, rest = text.split(start)
        after = rest.split(end)[1]
        path.write_text(f"{before}{start}\n{self.markdown(found)}\n{end}{after}", encoding="utf-8")


DRAWING = MemoryTable(
    "memory table",
    {"encode": "reading", "denoise": "sampling", "decode": "decoding"},
    "pictures",
    _pictures,
)
"""Of drawing a picture."""


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"
