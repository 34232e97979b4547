"""What settings of a call cost and give: NanoEval's pictures, drawn in pairs.

Pictures of all settings have the same prompts and seeds, so that differences are paired, with 95 %
intervals. `python benchmarks/call_settings.py STUDY FOLDER` goes on where it was stopped and
prints a table of docs/speed.md; STUDY is `guidance` or `solver`.
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

Row = dict[str, Any]


def _guidance(low: float, high: float) -> Row:
    return {"guidance_interval": [low, high]}


def _sampling(solver: str, steps: int, shift: float | None = None) -> Row:
    return {"solver": solver, "num_inference_steps": steps, "shift": shift}


STUDIES: dict[str, dict[str, Row]] = {
    "guidance": {
        "at every step": _guidance(0.0, 1.0),
        "sigma 0 to 0.9": _guidance(0.0, 0.9),
        "sigma 0.3 to 1": _guidance(0.3, 1.0),
        "sigma 0.3 to 0.9": _guidance(0.3, 0.9),
        "sigma 0.5 to 0.9": _guidance(0.5, 0.9),
        "never": _guidance(0.0, 0.0),
    },
    "solver": {
        "Euler, 20 steps": _sampling("euler", 20),
        "Euler, 10 steps": _sampling("euler", 10),
        "dpmpp_2m, 10 steps": _sampling("dpmpp_2m", 10),
        "Euler, 10 steps, shift 3": _sampling("euler", 10, 3.0),
        "dpmpp_2m, 10 steps, shift 3": _sampling("dpmpp_2m", 10, 3.0),
        "ab2, 10 steps, shift 3": _sampling("ab2", 10, 3.0),
        "Euler, 8 steps": _sampling("euler", 8),
        "Euler, 8 steps, shift 3": _sampling("euler", 8, 3.0),
        "dpmpp_2m, 8 steps, shift 3": _sampling("dpmpp_2m", 8, 3.0),
        "ab2, 8 steps, shift 3": _sampling("ab2", 8, 3.0),
        "ab2, 6 steps, shift 3": _sampling("ab2", 6, 3.0),
    },
}
"""Settings by their name in the table; the others are compared with the first."""

MODELS = ("lens-nano-base", "lens-nano")


def draw(pipeline: LensPipeline, items: list[Row], settings: Row) -> Row:
    """Generate every item once; return whether each passed, and denoiser passes per image."""
    passes: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    passed = []
    for seed, item in enumerate(items):
        size = {"width": item["width"], "height": item["height"]}
        picture = pipeline(item["dense"], seed=seed, **size, **settings).images[0]
        passed.append(evaluate(picture, item).correct)
    hook.remove()
    return {"passed": passed, "passes": len(passes) / len(items)}


def measure(study: str, folder: Path, per_task: int) -> list[Row]:
    """Return results for every model and setting, generating those missing from the folder."""
    path = folder / "results.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    items = nano_eval_prompts(7, per_task)
    for model in MODELS:
        done = [row["settings"] for row in rows if _is(row, model, len(items))]
        missing = {name: one for name, one in STUDIES[study].items() if one not in done}
        if not missing:
            continue
        pipeline = LensPipeline.from_pretrained(packaged_folder(model))
        pipeline.set_progress_bar_config(disable=True)
        for name, settings in missing.items():
            row = {"model": model, "settings": settings, **draw(pipeline, items, settings)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(model, name, f"{fmean(row['passed']):.3f}", flush=True)
    return [row for row in rows if len(row["passed"]) == len(items)]


def _is(row: Row, model: str, count: int) -> bool:
    return bool(row["model"] == model and len(row["passed"]) == count)


def line(name: str, row: Row, first: Row) -> str:
    """A row of the table."""
    pairs = zip(row["passed"], first["passed"], strict=True)
    gains = [100.0 * (new - old) for new, old in pairs]
    error = 1.96 * stdev(gains) / len(gains) ** 0.5
    gain = "" if row is first else f"{fmean(gains):+.1f} ± {error:.1f}"
    cells = (row["model"], name, f"{row['passes']:g}", f"{fmean(row['passed']):.3f}", gain)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=50, help="requests for each of six tasks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(given.study, given.folder, given.per_task)
    print(f"| model | {given.study} | passes | NanoEval | difference in points |")
    print("|---|---|---|---|---|")
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        first = next(iter(STUDIES[given.study].values()))
        [start] = [row for row in own if row["settings"] == first]
        for name, settings in STUDIES[given.study].items():
            print(line(name, next(row for row in own if row["settings"] == settings), start))


if __name__ == "__main__":
    main()
