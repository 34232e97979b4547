"""A prompt study with real images: a poor prompt, lens-nano, and the default optimiser.

It optimises the system prompt of `NanoRuleReasoner`, which follows its prompt to the letter without
a language model. Edits come from `NANO_LIBRARY`, a list of good, useless and harmful sections that
are not labelled as such. Rubric, judge and fidelity checker are those of the nano world. Everything
else is the default of `PromptStudy`.

Three things are measured on the requests of the test split, which the search never sees:

- the study's own claim, on the share of criteria met;
- NanoEval of the same images (GenEval's rules: a request is fulfilled entirely or not at all);
- transfer: seed and optimised prompt with the same image seeds, once on a second generator, and
  once on the same weights with different sampling (8 steps, no guidance).

For comparison, images are also generated from the unchanged requests. By default, the second
generator is the previously shipped checkpoint, read from the repository's history; `--second
FOLDER` selects any other Lens checkpoint.

**Judge and NanoEval share one detector.** Its errors affect both in the same way.

Run from the repository; an interrupted run can be resumed:

    python benchmarks/prompt_opt_nano.py --out runs/prompt-opt-nano
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tarfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer
from nano_study_report import Arm, passes, summarise, to_markdown

from lens_core.nano.evaluation import nano_eval_prompts
from lens_prompt_opt import Budget, PromptSet, PromptStudy, StudyRequest, StudyResult
from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.cells import Cell
from lens_prompt_opt.evaluation import EvaluationContext
from lens_prompt_opt.journal import DiskJournal
from lens_prompt_opt.library_proposer import LibraryProposer
from lens_prompt_opt.pipeline import Parts, PipelineEvaluator
from lens_reasoner import ImageRequest, Rewrite, Usage
from lens_reasoner.parts import named_identity
from lens_reasoner.prompts import SystemPrompt
from lens_sdk.errors import UnknownModelError
from lens_sdk.metadata import versions
from lens_sdk.models import DEFAULT_MODEL, LensModel, resolve_model
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.nano_proposals import NANO_LIBRARY, POOR_PROMPT
from lens_sdk.nano_rule_reasoner import NanoRuleReasoner
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.drawing import BatchingLensGenerator

SIZE = (128, 128)
WEIGHTS = "core/lens_core/weights/lens-nano"
DENOISER = "transformer/diffusion_pytorch_model.safetensors"
AT_ONCE = 16
"""Number of concurrent cells; the generator processes eight of them in one batch."""


@dataclass(frozen=True)
class Settings:
    """Settings that determine the results."""

    per_task: int
    test_pictures: int
    images: int
    set_seed: int
    random_seed: int


QUICK = {"num_inference_steps": 8, "guidance_scale": 1.0}
"""Another way to sample the same weights."""


class AsAsked:
    """A reasoner that returns requests unchanged, regardless of its system prompt."""

    fingerprint = "as asked"

    def with_system_prompt(self, prompt: SystemPrompt) -> AsAsked:
        return self

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        return Rewrite(request=request.text, prompt=request.text, model="none", usage=Usage.zero())


class Benchmark:
    """The study, and the same cells generated in other ways."""

    def __init__(self, settings: Settings, model: str, second: LensModel, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.first, self.second = resolve_model(model), second
        self.items = _distinct(nano_eval_prompts(settings.set_seed, settings.per_task, SIZE))
        self.prompts = PromptSet(
            requests=tuple(
                StudyRequest(
                    id=name,
                    request=ImageRequest(text=item["prompt"], width=SIZE[0], height=SIZE[1]),
                )
                for name, item in self.items.items()
            )
        )

    async def run(self) -> dict[str, Any]:
        """Run what is missing, then return the report."""
        reasoner = NanoRuleReasoner(POOR_PROMPT)
        with closing(BatchingLensGenerator(LensRuntime(self.first))) as generator:
            result = await self._study(generator)
            print(result.claim, flush=True)
            cells, prompts = self._cells(result), [POOR_PROMPT, result.best.system_prompt]
            asked = await self._draw(generator, AsAsked(), prompts[:1], cells, "as-asked")
            quick = await self._draw(generator, reasoner, prompts, cells, "quick", **QUICK)
        with closing(BatchingLensGenerator(LensRuntime(self.second))) as other:
            moved = await self._draw(other, reasoner, prompts, cells, "second")
        elsewhere = {"second": moved, "quick": quick}
        seconds = {"study": result.cost[-1].seconds, "as asked": asked[0].seconds} | {
            name: sum(arm.seconds for arm in arms) for name, arms in elsewhere.items()
        }
        pictures = self.folder / "study" / "pictures"
        first = [
            passes(pictures, [(p.request, side(p).image) for p in result.pictures], self.items)
            for side in (lambda p: p.before, lambda p: p.after)
        ]
        result.report(self.folder / "report.html")
        return {
            **summarise(result, self.items, first, asked[0], elsewhere),
            "settings": asdict(self.settings),
            "models": {"first": self.first.record(), "second": self.second.record()},
            "seconds": seconds,
            "versions": versions(),
        }

    async def _study(self, generator: BatchingLensGenerator) -> StudyResult:
        study = PromptStudy(
            reasoner=NanoRuleReasoner(POOR_PROMPT),
            generator=generator,
            judge=NanoJudge(),
            prompts=self.prompts,
            rubric_writer=NanoRubricWriter(),
            fidelity=NanoFidelityChecker(),
            proposer=LibraryProposer(NANO_LIBRARY),
            test_pictures=self.settings.test_pictures,
            concurrency=AT_ONCE,
        )
        return await study.optimize(
            seed=POOR_PROMPT,
            budget=Budget(images=self.settings.images),
            run_dir=self.folder / "study",
            random_seed=self.settings.random_seed,
        )

    def _cells(self, result: StudyResult) -> list[Cell]:
        """Return the requests and image seeds of the claim."""
        ids = {request.text: request.id for request in self.prompts.requests}
        return [Cell(ids[pair.request], pair.seed, draw=pair.seed) for pair in result.pictures]

    async def _draw(
        self,
        generator: BatchingLensGenerator,
        reasoner: AsAsked | NanoRuleReasoner,
        prompts: Sequence[SystemPrompt],
        cells: Sequence[Cell],
        name: str,
        **sampler: float,
    ) -> list[Arm]:
        """Run each prompt on the cells, skipping existing results."""
        parts = Parts(
            reasoner=reasoner,
            generators=(generator,),
            judge=NanoJudge(),
            rubric_writer=NanoRubricWriter(),
            fidelity=None,
            names={
                "rewrite": reasoner.fingerprint,
                "generate": named_identity(generator),
                "judge": "nano-detector",
                "rubric": "nano-request-reader",
                "fidelity": "none",
            },
            concurrency=AT_ONCE,
        )
        folder = self.folder / f"{name}-{generator.fingerprint}"
        requests = {
            known.id: known.model_copy(update={"request": known.request.model_copy(update=sampler)})
            for known in self.prompts.requests
        }
        arms = []
        with closing(DiskJournal(folder)) as journal:
            context = EvaluationContext(requests, journal, Ledger(Budget(calls=10**9)))
            evaluator = PipelineEvaluator(parts, context)
            for prompt in prompts:
                started = time.perf_counter()
                outcomes = await evaluator.evaluate([(prompt, cell) for cell in cells])
                key = f"seconds:{prompt.label}"
                if journal.get(key) is None:
                    journal.put(key, {"seconds": time.perf_counter() - started})
                drawn = [(requests[o.cell.request].text, o.image) for o in outcomes]
                right = passes(folder / "pictures", drawn, self.items)
                took = (journal.get(key) or {})["seconds"]
                arms.append(Arm(right, [o.score for o in outcomes], took))
                print(f"{name}: {len(cells)} pictures", flush=True)
        return arms


def _distinct(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return requests with distinct texts, by name."""
    by_text = {item["prompt"]: item for item in reversed(items)}
    kept = [item for item in items if by_text[item["prompt"]] is item]
    return {f"{item['tag']}-{number}": item for number, item in enumerate(kept)}


def shipped_before(folder: Path) -> LensModel:
    """Return the previously shipped checkpoint, from the repository's history.

    Raises:
        UnknownModelError: The history does not reach back that far.
    """
    try:
        log = _git("log", "--format=%H", "--", f"{WEIGHTS}/{DENOISER}").decode().split()
        target = folder / f"lens-nano-{log[1][:7]}"
        if not target.is_dir():
            part = folder / f".{target.name}.part"
            with tarfile.open(fileobj=BytesIO(_git("archive", log[1], WEIGHTS))) as archive:
                archive.extractall(part, filter="data")
            (part / WEIGHTS).rename(target)
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UnknownModelError(
            f"The repository's history holds no earlier checkpoint: {error}.",
            hint="Fetch the whole history, or name another Lens folder with --second.",
        ) from error
    return resolve_model(str(target))


def _git(*arguments: str) -> bytes:
    root = Path(__file__).parents[1]
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout


def main(
    per_task: Annotated[int, typer.Option(min=4, help="Requests of each task, at most.")] = 40,
    test_pictures: Annotated[int, typer.Option(min=1, help="Pictures per test request.")] = 2,
    images: Annotated[int, typer.Option(min=1, help="Most pictures of the study.")] = 900,
    set_seed: Annotated[int, typer.Option(min=0, help="Chooses the requests.")] = 5,
    random_seed: Annotated[int, typer.Option(min=0, help="Seed of the study.")] = 0,
    model: Annotated[str, typer.Option(help="lens-nano or a folder.")] = DEFAULT_MODEL,
    second: Annotated[
        Path | None, typer.Option(help="Checkpoint for the transfer; the one shipped before.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "runs/prompt-opt-nano"
    ),
) -> None:
    """Optimise a poor prompt for lens-nano, and measure what it is worth."""
    out.mkdir(parents=True, exist_ok=True)
    other = resolve_model(str(second)) if second else shipped_before(out)
    settings = Settings(per_task, test_pictures, images, set_seed, random_seed)
    report = asyncio.run(Benchmark(settings, model, other, out).run())
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(to_markdown(report) + "\n", encoding="utf-8")
    print(to_markdown(report))


if __name__ == "__main__":
    typer.run(main)
