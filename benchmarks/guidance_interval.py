"""What guidance between two noise levels costs and gives: NanoEval's pictures, drawn in pairs.

Pictures of all intervals have the same prompts and seeds, so that differences are paired; they are
told with 95 % intervals. `python benchmarks/guidance_interval.py runs/guidance` goes on where it
was stopped and prints the table of docs/speed.md.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from lens_core import LensPipeline
from lens_core.nano.evaluation import evaluate, nano_eval_prompts
from lens_core.packaged import packaged_folder

INTERVALS = ((0.0, 1.0), (0.0, 0.9), (0.3, 1.0), (0.3, 0.9), (0.5, 0.9), (0.0, 0.0))
"""The first is guidance at every step, the last at none."""

MODELS = ("lens-nano-base", "lens-nano")

Row = dict[str, Any]


def draw(pipeline: LensPipeline, items: list[Row], interval: tuple[float, float]) -> Row:
    """Draw every item once; whether it passed, and passes of the denoiser for a picture."""
    passes: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    passed = []
    for seed, item in enumerate(items):
        picture = pipeline(
            item["dense"],
            width=item["width"],
            height=item["height"],
            seed=seed,
            guidance_interval=interval,
        ).images[0]
        passed.append(evaluate(picture, item).correct)
    hook.remove()
    return {"passed": passed, "passes": len(passes) / len(items)}


def measure(folder: Path, per_task: int) -> list[Row]:
    """Every model and interval that the folder does not hold yet."""
    path = folder / "results.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    items = nano_eval_prompts(7, per_task)
    for model in MODELS:
        done = {(row["model"], *row["interval"], len(row["passed"])) for row in rows}
        missing = [one for one in INTERVALS if (model, *one, len(items)) not in done]
        if not missing:
            continue
        pipeline = LensPipeline.from_pretrained(packaged_folder(model))
        pipeline.set_progress_bar_config(disable=True)
        for interval in missing:
            row = {"model": model, "interval": interval, **draw(pipeline, items, interval)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(model, interval, f"{fmean(row['passed']):.3f}", flush=True)
    return [row for row in rows if len(row["passed"]) == len(items)]


def line(row: Row, always: Row) -> str:
    """A row of the table."""
    low, high = row["interval"]
    pairs = zip(row["passed"], always["passed"], strict=True)
    gains = [100.0 * (new - old) for new, old in pairs]
    error = 1.96 * stdev(gains) / len(gains) ** 0.5
    gain = "" if row is always else f"{fmean(gains):+.1f} ± {error:.1f}"
    cells = (
        f"{low:g} to {high:g}" if high else "never",
        f"{row['passes']:g}",
        f"{fmean(row['passed']):.3f}",
        gain,
    )
    return f"| {row['model']} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=50, help="requests for each of six tasks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(given.folder, given.per_task)
    print("| model | guided at sigma | passes | NanoEval | difference in points |")
    print("|---|---|---|---|---|")
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        for row in own:
            print(line(row, own[0]))


if __name__ == "__main__":
    main()
