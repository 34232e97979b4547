"""Prompts across generators: the score of each prompt on each, and the loss from moving one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from lens_prompt_opt.card import PromptCard
from lens_prompt_opt.cells import Outcome, mean_score, paired_differences
from lens_prompt_opt.history import HistoryRecord
from lens_prompt_opt.statistics.intervals import IntervalMethod
from lens_reasoner.types import Value

SEED_ROW = "seed"
SHARED_ROW = "shared"
"""Names of the rows whose prompts are not for a single generator."""


class GeneratorPrompt(Value):
    """The result of the search for one generator.

    Attributes:
        generator: Its name.
        card: Its best prompt, which is the shared one if no better one was accepted; the claim
            compares it with the seed prompt on this generator alone.
        history: What happened in its search.
    """

    generator: str
    card: PromptCard
    history: HistoryRecord


class MatrixEntry(Value):
    """One prompt on one generator, on the test split.

    Attributes:
        prompt: The row: "seed", "shared", or the generator that the prompt is for.
        generator: The column.
        score: Mean score; None if nothing could be judged.
        gain: Mean score difference to the seed prompt on this generator; None in the seed row.
        interval: Confidence interval of `gain`.
    """

    prompt: str
    generator: str
    score: float | None
    gain: float | None = None
    interval: tuple[float, float] | None = None


class TransferLoss(Value):
    """The loss from using a prompt on another generator than its own.

    Attributes:
        prompt: The row that is used: "shared", or the generator that the prompt is for.
        generator: The generator it is used on.
        loss: Mean score of that generator's own prompt minus that of the prompt used.
        interval: Confidence interval of `loss`.
        requests: Number of requests compared.
    """

    prompt: str
    generator: str
    loss: float
    interval: tuple[float, float]
    requests: int


class GeneratorMatrix(Value):
    """All prompts on all generators.

    Attributes:
        prompts: Rows: "seed", "shared", then the generators, whose rows are their own prompts.
        generators: Columns.
        entries: One per row and column.
        losses: One for each prompt on each generator other than its own.
        confidence: Confidence of each single interval.
    """

    prompts: tuple[str, ...]
    generators: tuple[str, ...]
    entries: tuple[MatrixEntry, ...]
    losses: tuple[TransferLoss, ...]
    confidence: float

    def entry(self, prompt: str, generator: str) -> MatrixEntry:
        """The entry of a row and a column.

        Raises:
            KeyError: There is no such row or column.
        """
        found = {(entry.prompt, entry.generator): entry for entry in self.entries}
        return found[prompt, generator]

    def __str__(self) -> str:
        """The matrix as text, in percent, with gains over the seed prompt."""
        width = max(len(name) for name in ("prompt for", *self.prompts))
        columns = [max(len(name), 14) for name in self.generators]
        heads = (f"{name:>{size}}" for name, size in zip(self.generators, columns, strict=True))
        lines = [" ".join([f"{'prompt for':{width}}", *heads])]
        for prompt in self.prompts:
            cells = [_cell(self.entry(prompt, generator)) for generator in self.generators]
            texts = (f"{text:>{size}}" for text, size in zip(cells, columns, strict=True))
            lines.append(" ".join([f"{prompt:{width}}", *texts]))
        return "\n".join(lines)


def generator_matrix(
    rows: Mapping[str, Sequence[Outcome]],
    generators: Sequence[str],
    method: IntervalMethod,
    confidence: float,
) -> GeneratorMatrix:
    """Build the matrix.

    Args:
        rows: Outcomes of each prompt on the same test cells of all generators; the seed prompt is
            under `SEED_ROW`, and each generator's own prompt under its name.
        generators: Names of the generators, in the order of `Cell.generator`.
        method: Method for confidence intervals.
        confidence: Their confidence.
    """
    parts = {
        (prompt, name): [o for o in outcomes if o.cell.generator == place]
        for prompt, outcomes in rows.items()
        for place, name in enumerate(generators)
    }
    entries, losses = [], []
    for (prompt, name), outcomes in parts.items():
        change = lost = None
        if prompt != SEED_ROW:
            change = _change(outcomes, parts[SEED_ROW, name], method, confidence)
        if prompt not in {SEED_ROW, name}:
            lost = _change(parts[name, name], outcomes, method, confidence)
        if lost is not None:
            losses.append(_loss(prompt, name, *lost))
        entries.append(
            MatrixEntry(
                prompt=prompt,
                generator=name,
                score=mean_score(outcomes),
                gain=change[0] if change else None,
                interval=change[1] if change else None,
            )
        )
    return GeneratorMatrix(
        prompts=tuple(rows),
        generators=tuple(generators),
        entries=tuple(entries),
        losses=tuple(losses),
        confidence=confidence,
    )


def _loss(
    prompt: str, generator: str, loss: float, interval: tuple[float, float], requests: int
) -> TransferLoss:
    return TransferLoss(
        prompt=prompt, generator=generator, loss=loss, interval=interval, requests=requests
    )


def _change(
    after: Sequence[Outcome],
    before: Sequence[Outcome],
    method: IntervalMethod,
    confidence: float,
) -> tuple[float, tuple[float, float], int] | None:
    """Mean difference by request, its interval, and the number of requests."""
    differences = list(paired_differences(after, before).values())
    if not differences:
        return None
    return fmean(differences), method.interval(differences, confidence), len(differences)


def _cell(entry: MatrixEntry) -> str:
    if entry.score is None:
        return "-"
    gain = "" if entry.gain is None else f" ({100 * entry.gain:+.1f})"
    return f"{100 * entry.score:.1f}{gain}"
