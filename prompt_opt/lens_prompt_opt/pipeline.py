"""Evaluation with real parts; every call goes through the journal."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from lens_prompt_opt import call_records
from lens_prompt_opt.budget import Stage
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.edits import prompt_id
from lens_prompt_opt.errors import StudyInterruptedError, require
from lens_prompt_opt.evaluation import EvaluationContext, Task
from lens_prompt_opt.fingerprints import fingerprint
from lens_prompt_opt.journal import JsonRecord, call_key
from lens_prompt_opt.outages import is_outage
from lens_prompt_opt.reasoners import ReasonerSource, bind
from lens_prompt_opt.shared_calls import Account, Call, SharedCalls
from lens_reasoner.answers import verdict_of
from lens_reasoner.errors import GeneratorError, ReasonerError
from lens_reasoner.generator import Generator
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge
from lens_reasoner.parts import fingerprint as fingerprint_of
from lens_reasoner.reasoner import Reasoner
from lens_reasoner.revision import FidelityChecker, FidelityReport, Statement
from lens_reasoner.rubric import RubricWriter
from lens_reasoner.settings import honoured_settings
from lens_reasoner.types import Refused, Rewrite, Rubric, Usage
from lens_reasoner.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """The parts of a study.

    Attributes:
        reasoner: Rewrites; accepts other system prompts.
        generators: One or several; a prompt's score is the mean over them.
        judge: Scores images.
        rubric_writer: Writes criteria for requests that have none.
        fidelity: Checks which criteria rewrites state; None leaves faults unattributed.
        names: Names for records, by stage; they are part of the results' keys.
        concurrency: Maximum concurrent calls per stage.

    Raises:
        StudyConfigError: `concurrency` is below 1.
    """

    reasoner: ReasonerSource
    generators: tuple[Generator, ...]
    judge: Judge
    rubric_writer: RubricWriter | None
    fidelity: FidelityChecker | None
    names: Mapping[str, str]
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Check `concurrency`, because 0 would wait forever."""
        require("concurrency", self.concurrency, self.concurrency >= 1, "at least 1")


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with numbers appended to repeated ones."""
    counts = Counter(names)
    taken = set(names)
    found = []
    for name in names:
        if counts[name] > 1:
            numbered = (f"{name} #{number}" for number in count(1))
            name = next(one for one in numbered if one not in taken)
        taken.add(name)
        found.append(name)
    return tuple(found)


class PipelineEvaluator:
    """Evaluates cells concurrently with the parts; see `Evaluator`."""

    def __init__(self, parts: Parts, context: EvaluationContext) -> None:
        self._parts = parts
        self._context = context
        self._calls = SharedCalls(context, parts.concurrency)
        self._rubrics: dict[str, Rubric] = {
            name: request.rubric
            for name, request in context.requests.items()
            if request.rubric is not None
        }

    @property
    def names(self) -> Mapping[str, str]:
        """See `Evaluator.names`."""
        return self._parts.names

    @property
    def generators(self) -> tuple[str, ...]:
        """See `Evaluator.generators`."""
        return distinct_names([generator.name for generator in self._parts.generators])

    @property
    def max_prompt_tokens(self) -> int | None:
        """See `Evaluator.max_prompt_tokens`."""
        limits = [g.capabilities.max_prompt_tokens for g in self._parts.generators]
        return min((limit for limit in limits if limit is not None), default=None)

    def rubric(self, request: str) -> Rubric | None:
        """See `Evaluator.rubric`."""
        return self._rubrics.get(request)

    async def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        """See `Evaluator.evaluate`."""
        bound: dict[str, Reasoner] = {}
        accounts = [Account() for _ in tasks]
        work = []
        for (prompt, cell), account in zip(tasks, accounts, strict=True):
            name = prompt_id(prompt)
            if name not in bound:
                bound[name] = bind(self._parts.reasoner, prompt)
            work.append(self._cell(bound[name], name, cell, account))
        outcomes = await self._all(work)
        self._calls.enter(accounts)
        return outcomes

    async def statements(self, outcomes: Sequence[Outcome]) -> list[Mapping[str, Statement]]:
        """See `Evaluator.statements`."""
        accounts = [Account() for _ in outcomes]
        found = await self._all(
            self._statement(outcome, account)
            for outcome, account in zip(outcomes, accounts, strict=True)
        )
        self._calls.enter(accounts)
        return found

    async def _all(self, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        try:
            return await call_records.all_of(work)
        except asyncio.CancelledError:
            await self._calls.abandon()
            raise

    async def _once(self, stage: Stage, key: str, call: Call, account: Account) -> JsonRecord:
        """The result under `key`; the failure, if the call failed because of its input."""
        return await self._calls.once(stage, key, lambda: call_records.attempt(call), account)

    async def _cell(self, reasoner: Reasoner, prompt: str, cell: Cell, account: Account) -> Outcome:
        rubric = await self._rubric(cell.request, account)
        if isinstance(rubric, str):
            return Outcome(cell, None, failure=rubric)
        rewritten = await self._rewrite(reasoner, prompt, cell, account)
        if "prompt" not in rewritten:
            return Outcome(cell, 0.0, failure=rewritten["failure"])
        drawn, image = await self._draw(rewritten["prompt"], cell, account)
        if image is None:
            return Outcome(cell, 0.0, rewrite=rewritten["prompt"], failure=drawn["failure"])
        verdict = await self._judge(image, rubric, cell, account)
        answers = verdict.get("answers", {})
        return Outcome(
            cell,
            verdict.get("score"),
            answers={name: answer["answer"] for name, answer in answers.items()},
            rewrite=rewritten["prompt"],
            image=drawn["picture"],
            fingerprint=drawn["fingerprint"],
            failure=verdict.get("failure", ""),
            evidence={name: answer["evidence"] for name, answer in answers.items()},
            disputed=frozenset(name for name, answer in answers.items() if answer["disputed"]),
        )

    async def _rubric(self, request: str, account: Account) -> Rubric | str:
        """The criteria of a request, or why there are none."""
        if (known := self._rubrics.get(request)) is not None:
            return known
        writer, wanted = self._parts.rubric_writer, self._context.requests[request].request
        if writer is None:
            raise StudyInterruptedError(
                f"Request {request!r} has no rubric and there is nobody to write one.",
                hint="Give the study a rubric_writer, or the request a rubric.",
            )

        async def call() -> JsonRecord:
            rubric = await writer.write(wanted)
            return call_records.record(
                rubric.usage, rubric.seconds, rubric=rubric.model_dump(mode="json")
            )

        key = call_key("rubric", self._parts.names["rubric"], wanted.text)
        record = await self._once("rubric", key, call, account)
        if "rubric" not in record:
            return str(record["failure"])
        rubric = Rubric.model_validate(record["rubric"])
        return self._rubrics.setdefault(request, rubric)

    async def _rewrite(
        self, reasoner: Reasoner, prompt: str, cell: Cell, account: Account
    ) -> JsonRecord:
        wanted = self._context.requests[cell.request].request
        # Reasoners that sample may use the seed; for others it only distinguishes the draws.
        wanted = wanted.model_copy(update={"seed": cell.draw})

        async def call() -> JsonRecord:
            done: Rewrite | Refused = await reasoner.rewrite(wanted)
            if isinstance(done, Refused):
                reason = f"refused: {done.category}: {done.reason}"
                return call_records.record(done.usage, done.seconds, failure=reason)
            return call_records.record(done.usage, done.seconds, prompt=done.prompt)

        name = fingerprint_of(reasoner) or self._parts.names["rewrite"]
        key = call_key("rewrite", name, prompt, wanted.model_dump(mode="json"))
        return await self._once("rewrite", key, call, account)

    async def _draw(
        self, prompt: str, cell: Cell, account: Account
    ) -> tuple[JsonRecord, GeneratedImage | None]:
        generator = self._parts.generators[cell.generator]
        wanted = self._context.requests[cell.request].request
        settings = honoured_settings(wanted, generator)

        async def call() -> JsonRecord:
            started = time.perf_counter()
            try:
                [image] = await generator.generate(prompt, seeds=[cell.seed], settings=settings)
            except GeneratorError as error:
                if is_outage(error):
                    raise
                return call_records.failed(error, time.perf_counter() - started)
            return call_records.record(
                image.usage,
                time.perf_counter() - started,
                picture=self._context.journal.put_picture(image),
                fingerprint=fingerprint(image),
                image=image.model_dump(mode="json", exclude={"data"}),
            )

        asked = settings.model_dump(mode="json")
        key = call_key("generate", self.generators[cell.generator], prompt, cell.seed, asked)
        most = generator.capabilities.max_concurrency
        gate = f"generate {cell.generator}"
        record = await self._calls.once("generate", key, call, account, gate=gate, most=most)
        if "picture" not in record:
            return record, None
        data = self._context.journal.picture(record["picture"])
        return record, GeneratedImage.model_validate({**record["image"], "data": data})

    async def _judge(
        self, image: GeneratedImage, rubric: Rubric, cell: Cell, account: Account
    ) -> JsonRecord:
        async def call() -> JsonRecord:
            verdict = await self._verdict(image, rubric)
            answers = {v.criterion: call_records.answer(v) for v in verdict.verdicts}
            return call_records.record(
                verdict.usage, verdict.seconds, score=verdict.score, answers=answers
            )

        questions = [c.model_dump(mode="json") for c in rubric.criteria]
        name = self._parts.names["judge"]
        key = call_key("judge", name, image.sha256, questions, cell.vote)
        return await self._once("judge", key, call, account)

    async def _verdict(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """The judge's verdict; failed answers are retried once before it is recorded."""
        judge = self._parts.judge
        verdict = await verdict_of(judge, image, rubric)
        lost = {answer.criterion for answer in verdict.verdicts if answer.failed}
        if not lost:
            return verdict
        part = tuple(c for c in rubric.criteria if c.name in lost)
        try:
            again = await verdict_of(judge, image, rubric.model_copy(update={"criteria": part}))
        except ReasonerError as error:
            if is_outage(error):
                raise
            spent = getattr(error, "usage", None) or Usage()
            return verdict.model_copy(update={"usage": verdict.usage + spent})
        answers = {answer.criterion: answer for answer in again.verdicts}
        return verdict.model_copy(
            update={
                "verdicts": tuple(answers.get(v.criterion, v) for v in verdict.verdicts),
                "usage": verdict.usage + again.usage,
                "seconds": verdict.seconds + again.seconds,
            }
        )

    async def _statement(self, outcome: Outcome, account: Account) -> Mapping[str, Statement]:
        checker, rubric = self._parts.fidelity, self._rubrics.get(outcome.cell.request)
        if checker is None or rubric is None or not outcome.rewrite:
            return {}
        wanted = self._context.requests[outcome.cell.request].request

        async def call() -> JsonRecord:
            report = await checker.check(wanted, outcome.rewrite, rubric)
            dumped = report.model_dump(mode="json")
            return call_records.record(report.usage, report.seconds, report=dumped)

        name = self._parts.names["fidelity"]
        key = call_key("fidelity", name, wanted.text, outcome.rewrite)
        record = await self._once("fidelity", key, call, account)
        if "report" not in record:
            return {}
        findings = FidelityReport.model_validate(record["report"]).findings
        return {finding.criterion: finding.status for finding in findings}
