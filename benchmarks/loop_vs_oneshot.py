"""Does the loop fulfil requests more often than one shot, and than more random tries?

Four methods are compared on held-out NanoEval requests, each with several seeds:

- `plain`: the unchanged request, one image;
- `one_shot`: the rewritten request, one image, no loop;
- `best_of_k`: the rewritten request, the judge's choice of as many images as the loop generated for
  the same request and seed;
- `loop`: rewritten, judged, diagnosed and revised, up to `--rounds` rounds.

All but `plain` share the first prompt and the first seeds, so they are paired. The final image of
each method is scored by NanoEval's rules (GenEval's), which are not the judge's criteria.

**The judge and the scorer share one detector.** Detector errors mislead both in the same way, so
selection by the judge (`best_of_k`, `loop`) benefits from them, and the pass rates of these two
methods are too high to the extent that the detector errs. It is exact on clean renderings but has
not been measured on the malformed images of a weak model. Comparing `loop` with `best_of_k` is fair
in this respect. The results say nothing about other generators or real photographs.

Intervals: Wilson for each pass rate (somewhat narrow, as it treats images of one request as
independent), and for differences a bootstrap over requests of paired means.

Run from the repository; an interrupted run can be resumed:

    python benchmarks/loop_vs_oneshot.py --requests 40 --seeds 3 --out runs/loop-vs-oneshot
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from loop_report import WAYS, summarise, to_markdown

from lens_core.nano.evaluation import evaluate, nano_eval_prompts
from lens_core.nano.vocabulary import TASKS
from lens_reasoner import (
    AgentLoop,
    Candidate,
    GeneratedImage,
    ImageReady,
    ImageRequest,
    Judged,
    LoopLimits,
    LoopResult,
    RunState,
)
from lens_sdk import LocalLensGenerator
from lens_sdk.errors import UnfinishedRunError
from lens_sdk.metadata import versions
from lens_sdk.models import DEFAULT_MODEL, resolve_model
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.nano_reasoner import NanoReasoner
from lens_sdk.nano_reviser import NanoReviser
from lens_sdk.runtime import LensRuntime

OUT = Path("runs/loop-vs-oneshot")


@dataclass(frozen=True)
class Settings:
    """Settings that determine the results."""

    requests: int
    seeds: int
    rounds: int
    per_round: int
    set_seed: int
    steps: int | None


class Benchmark:
    """Runs every request with every seed and method, and stores the results."""

    def __init__(self, runtime: LensRuntime, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.runtime = runtime
        self.generator = LocalLensGenerator(runtime)
        self.judge = NanoJudge()
        self.loop = AgentLoop(
            generator=self.generator,
            reasoner=NanoReasoner(runtime),
            judge=self.judge,
            rubric_writer=NanoRubricWriter(),
            fidelity_checker=NanoFidelityChecker(),
            reviser=NanoReviser(runtime),
            limits=LoopLimits(max_rounds=settings.rounds),
        )
        self.items = _interleaved(settings)
        self.rows = self._open()

    async def run(self) -> None:
        """Generate and score what is missing."""
        for index, item in enumerate(self.items):
            for number in range(self.settings.seeds):
                if (index, number) in self.rows:
                    continue
                row = await self._row(index, number, item)
                with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                self.rows[index, number] = row
                done = f"{len(self.rows)}/{len(self.items) * self.settings.seeds}"
                marks = " ".join(f"{way} {row['ways'][way]['correct']:d}" for way in WAYS)
                print(f"{done} {marks} {item['prompt']}", flush=True)

    async def _row(self, index: int, number: int, item: Mapping[str, Any]) -> dict[str, Any]:
        request = ImageRequest(
            text=item["prompt"],
            width=item["width"],
            height=item["height"],
            # Far enough apart that the seeds of all rounds do not overlap.
            seed=(index * self.settings.seeds + number) * 1000,
            num_images=self.settings.per_round,
            num_inference_steps=self.settings.steps,
        )
        result = await self.loop.run(request)
        plain = await AgentLoop(generator=self.generator).run(
            request.model_copy(update={"num_images": 1})
        )
        rewriting = result.prompts[0].seconds
        several = await self._best_of(result)
        first, best, chosen = result.candidates[0], result.best, _best(several)
        assert best is not None
        ways = {
            "plain": _way([plain.candidates[0]], plain.candidates[0], item, judged=False),
            "one_shot": _way([first], first, item, judged=False, more=rewriting),
            "best_of_k": _way(several, chosen, item, judged=True, more=rewriting),
            "loop": _way(result.candidates, best, item, judged=True, more=_thinking(result)),
        }
        return {
            "index": index,
            "seed": number,
            "task": item["tag"],
            "request": item["prompt"],
            "rounds": result.candidates[-1].round + 1,
            "revisions": len(result.prompts) - 1,
            "lost_by_rewrite": len(result.fidelity[0].lost) if result.fidelity else None,
            "stop_reason": result.stop_reason,
            "failures": [failure.message for failure in result.failures],
            "ways": ways,
        }

    async def _best_of(self, result: LoopResult) -> list[Candidate]:
        """Generate as many images as the loop, from its first prompt, reusing the loop's own."""
        shared = [c for c in result.candidates if c.prompt_version == 0]
        rubric, first = result.rubric, result.candidates[0].image
        assert rubric is not None
        state = RunState()
        for number in range(len(shared), len(result.candidates)):
            seed = (first.seed or 0) + number
            settings = first.settings.model_copy(update={"dropped": {}})
            (image,) = await self.generator.generate(first.prompt, seeds=[seed], settings=settings)
            state.apply(ImageReady(round=0, index=number, image=image))
            verdict = await self.judge.judge(image, rubric)
            state.apply(Judged(index=number, verdict=verdict))
        return [*shared, *state.candidates.values()]

    def _open(self) -> dict[tuple[int, int], dict[str, Any]]:
        described = {**asdict(self.settings), "model": self.runtime.fingerprint}
        path = self.folder / "settings.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != described:
            raise UnfinishedRunError(
                f"{self.folder} holds results of other settings, weights or versions.",
                hint="Choose another folder with --out, or remove this one.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        results = self.folder / "results.jsonl"
        text = results.read_text(encoding="utf-8") if results.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            results.write_text(whole, encoding="utf-8")
        rows = [json.loads(line) for line in whole.splitlines()]
        return {(row["index"], row["seed"]): row for row in rows}


def _interleaved(settings: Settings) -> list[dict[str, Any]]:
    """Return held-out requests with alternating tasks, so any number of them covers all tasks."""
    per_task = ceil(settings.requests / len(TASKS))
    items = nano_eval_prompts(settings.set_seed, per_task)
    turns = (items[task * per_task + i] for i in range(per_task) for task in range(len(TASKS)))
    return list(turns)[: settings.requests]


def _best(candidates: Iterable[Candidate]) -> Candidate:
    state = RunState()
    state.candidates = {candidate.index: candidate for candidate in candidates}
    assert state.best is not None
    return state.best


def _way(
    drawn: Sequence[Candidate],
    chosen: Candidate,
    item: Mapping[str, Any],
    *,
    judged: bool,
    more: float = 0.0,
) -> dict[str, Any]:
    scored = evaluate(chosen.image.image, item)
    seconds = more + sum(_seconds(candidate.image) for candidate in drawn)
    if judged:
        seconds += sum(c.verdict.seconds for c in drawn if c.verdict is not None)
    return {
        "correct": scored.correct,
        "reason": scored.reason,
        "judge_score": chosen.score if judged else None,
        "images": len(drawn),
        "seconds": seconds,
        "prompt": chosen.image.prompt,
    }


def _seconds(image: GeneratedImage) -> float:
    return image.timings.get("generate", 0.0)


def _thinking(result: LoopResult) -> float:
    """Return the seconds spent rewriting, revising and checking prompts."""
    prompts = sum(prompt.seconds for prompt in result.prompts)
    return prompts + sum(report.seconds for report in result.fidelity)


def main(
    requests: Annotated[int, typer.Option(min=1, help="Held-out requests.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each request.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Most rounds of the loop.")] = 3,
    per_round: Annotated[int, typer.Option(min=1, help="Pictures in each round.")] = 2,
    set_seed: Annotated[int, typer.Option(min=0, help="Chooses the requests.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps.")] = None,
    model: Annotated[str, typer.Option(help="lens-nano or a folder.")] = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "runs/loop-vs-oneshot"
    ),
) -> None:
    """Compare the loop with one shot and with best-of-k."""
    settings = Settings(requests, seeds, rounds, per_round, set_seed, steps)
    benchmark = Benchmark(LensRuntime(resolve_model(model)), settings, out)
    asyncio.run(benchmark.run())
    rows = list(benchmark.rows.values())
    report = {**summarise(rows), "settings": asdict(settings), "versions": versions()}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(to_markdown(report) + "\n", encoding="utf-8")
    print(to_markdown(report))


if __name__ == "__main__":
    typer.run(main)
