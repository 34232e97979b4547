"""Runs NanoEval on a model; resumable, and keeps every image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image

from lens_core.nano.evaluation import EvalResult, NanoEvalReport, evaluate, nano_eval_prompts
from lens_reasoner import ImageRequest, run_sync
from lens_sdk.errors import UnfinishedRunError, UnknownPartError
from lens_sdk.metadata import versions
from lens_sdk.nano_reasoner import NanoReasoner
from lens_sdk.runtime import LensRuntime

PromptKind = Literal["dense", "brief", "reasoned"]


@dataclass(frozen=True)
class BenchmarkSettings:
    """The settings that determine the result.

    Attributes:
        per_task: Number of requests for each of the six tasks.
        seed: Determines the requests and the noise.
        prompts: `dense` captions, `brief` requests, or brief requests rewritten (`reasoned`).
        num_inference_steps: Number of steps; None means the model's default.
        guidance_scale: Guidance scale; None means the model's default.
        sizes: Width and height; every request is generated at each size. If empty, each image has
            one of the sizes used in training.
    """

    per_task: int = 50
    seed: int = 0
    prompts: PromptKind = "dense"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.prompts not in get_args(PromptKind):
            raise UnknownPartError(
                f"Prompts {self.prompts!r} are not known.",
                hint=f"Choices: {', '.join(get_args(PromptKind))}.",
            )


class NanoBenchmark:
    """Generates NanoEval's images batch by batch and scores them.

    The folder gets `settings.json`, `results.jsonl` with one line per image, and the images.
    Running again with the same settings resumes the run.
    """

    def __init__(self, runtime: LensRuntime, settings: BenchmarkSettings, folder: Path) -> None:
        """Prepare the run.

        Raises:
            UnfinishedRunError: The folder holds results of other settings or another model.
        """
        self._runtime = runtime
        self._settings = settings
        self._folder = folder
        self._items = [
            item
            for size in settings.sizes or (None,)
            for item in nano_eval_prompts(settings.seed, settings.per_task, size)
        ]
        self._reasoner = NanoReasoner(runtime) if settings.prompts == "reasoned" else None
        self._describe()
        self._results = self._read()

    @property
    def total(self) -> int:
        """Number of images in the whole run."""
        return len(self._items)

    def advance(self, batch: int) -> Iterator[int]:
        """Generate and score the missing images.

        Args:
            batch: Images per batch.

        Yields:
            How many images are done, after each batch and once at the start.
        """
        yield len(self._results)
        for indices in self._batches(batch):
            self._record(indices, self._prompts(indices))
            yield len(self._results)

    def report(self) -> NanoEvalReport:
        """The accuracies so far."""
        shown: dict[str, str | int | float] = {"model": self._runtime.model.name}
        shown |= {key: value for key, value in self._described().items() if value is not None}
        if self._settings.sizes:
            shown["sizes"] = " ".join(_name(size) for size in self._settings.sizes)
        return NanoEvalReport.from_results(self._scored(None), shown)

    def report_by_size(self) -> dict[str, NanoEvalReport]:
        """The accuracies so far for each size in the settings, by `WIDTHxHEIGHT`."""
        reports = {}
        for size in self._settings.sizes:
            if scored := self._scored(size):
                reports[_name(size)] = NanoEvalReport.from_results(scored)
        return reports

    def save(self, report: NanoEvalReport) -> Path:
        """Write the report as `report.json` and return its path."""
        tasks = [
            {**score.model_dump(), "accuracy": score.accuracy, "interval_95": score.interval}
            for score in report.tasks
        ]
        record = {
            "overall": report.overall,
            "overall_interval_95": report.overall_interval,
            "tasks": tasks,
            "sizes": {
                name: {"overall": part.overall, "overall_interval_95": part.overall_interval}
                for name, part in self.report_by_size().items()
            },
            "settings": report.settings,
            "model": self._runtime.model.record(),
            "versions": versions(),
        }
        path = self._folder / "report.json"
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return path

    def _scored(self, size: tuple[int, int] | None) -> list[tuple[str, EvalResult]]:
        """Task and result of every image so far, of one size or of all."""
        return [
            (row["task"], EvalResult(row["correct"], row["reason"]))
            for index, row in self._results.items()
            if size in (None, (self._items[index]["width"], self._items[index]["height"]))
        ]

    def _described(self) -> dict[str, Any]:
        """The settings as JSON; newer ones are left out if unused, so that old runs still match."""
        described = {key: value for key, value in vars(self._settings).items() if key != "sizes"}
        if self._settings.sizes:
            described["sizes"] = [list(size) for size in self._settings.sizes]
        return described

    def _batches(self, size: int) -> Iterator[list[int]]:
        """Missing items, in groups of one image size."""
        missing = [index for index in range(self.total) if index not in self._results]
        by_size: dict[tuple[int, int], list[int]] = {}
        for index in missing:
            item = self._items[index]
            by_size.setdefault((item["width"], item["height"]), []).append(index)
        for indices in by_size.values():
            pending = iter(indices)
            while chunk := list(islice(pending, size)):
                yield chunk

    def _prompts(self, indices: Sequence[int]) -> list[str]:
        key = "dense" if self._settings.prompts == "dense" else "prompt"
        texts = [str(self._items[index][key]) for index in indices]
        if self._reasoner is None:
            return texts
        requests = [ImageRequest(text=text) for text in texts]
        return [run_sync(self._reasoner.rewrite(request)).prompt for request in requests]

    def _record(self, indices: Sequence[int], prompts: list[str]) -> None:
        pictures = self._draw(indices, prompts)
        (self._folder / "pictures").mkdir(exist_ok=True)
        with (self._folder / "results.jsonl").open("a", encoding="utf-8") as file:
            for index, prompt, picture in zip(indices, prompts, pictures, strict=True):
                picture.save(self._folder / "pictures" / f"{index:04d}.png")
                item = self._items[index]
                result = evaluate(picture, item)
                row = {
                    "index": index,
                    "task": item["tag"],
                    "request": item["prompt"],
                    "prompt": prompt,
                    "correct": result.correct,
                    "reason": result.reason,
                }
                file.write(json.dumps(row) + "\n")
                self._results[index] = row

    def _draw(self, indices: Sequence[int], prompts: list[str]) -> list[Image.Image]:
        first = self._items[indices[0]]
        noise = [torch.Generator().manual_seed(self._noise_seed(index)) for index in indices]
        with self._runtime.exclusive() as pipeline:
            output = pipeline(
                prompts,
                height=first["height"],
                width=first["width"],
                num_inference_steps=self._settings.num_inference_steps,
                guidance_scale=self._settings.guidance_scale,
                generator=noise,
                return_dict=False,
            )
        pictures: list[Image.Image] = output[0]
        return pictures

    def _noise_seed(self, index: int) -> int:
        return self._settings.seed * 1_000_000 + index

    def _describe(self) -> None:
        """Write the settings file, or check that an existing one matches."""
        described = {**self._described(), "model": self._runtime.model.record()}
        path = self._folder / "settings.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != described:
            raise UnfinishedRunError(
                f"{self._folder} holds results of other settings or another model.",
                hint="Choose another folder with --out, or remove this one.",
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    def _read(self) -> dict[int, dict[str, Any]]:
        path = self._folder / "results.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        # A killed run may leave half a line, which is dropped; its image is generated again.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        return {row["index"]: row for row in rows}


def _name(size: tuple[int, int]) -> str:
    """Format a size as `WIDTHxHEIGHT`."""
    return f"{size[0]}x{size[1]}"
