"""Lens at its real size with random weights: written to disk as published, loaded and drawn with.

For whoever wants to know whether a machine copes before looking for the weights, and the one test
of files, loading and memory plans at 3.8 billion parameters and a GPT-OSS of 20 billion. The
checkpoint takes 22 GB, and its pictures are noise.

Run from the repository:

    python benchmarks/full_size.py write runs/full-size
    python benchmarks/full_size.py draw runs/full-size --memory 8gb --size 256 --steps 4
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from torch import Tensor, nn

from lens_core import LensPipeline
from lens_core.bench.configs import PROMPT
from lens_core.checkpoints.configs import released_encoder_config
from lens_core.checkpoints.convert_encoder import NOT_PACKED
from lens_core.checkpoints.writers import write_folder
from lens_core.memory.choose import default_device
from lens_core.memory.published import published_model
from lens_core.sampling import default_scheduler
from lens_core.tokenizer import load_packaged_tokenizer

BYTES = 23 * 10**9
MIB = 2**20
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": list(NOT_PACKED)}
INDEX = {
    "_class_name": "LensPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "LensGptOssEncoder"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "LensTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write the checkpoint, a shard in memory at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder.parent).free) < BYTES:
        raise SystemExit(
            f"{BYTES / 1e9:.0f} GB are needed in {folder.parent}, {free / 1e9:.0f} free"
        )
    generator = torch.Generator().manual_seed(seed)
    model = published_model()
    encoder = released_encoder_config().to_dict() | {"quantization_config": MXFP4}
    stem = "diffusion_pytorch_model"
    for name, module, file, config in (
        ("transformer", model.transformer, stem, dict(model.transformer.config)),
        ("text_encoder", model.text_encoder, "model", encoder),
        ("vae", model.vae, stem, dict(model.vae.config)),
    ):
        begin = time.perf_counter()
        assert module is not None
        write_folder(folder / name, file, _weights(module, generator), config, 2 * 10**9)
        typer.echo(f"{name}: {time.perf_counter() - begin:.0f} s")
    default_scheduler().save_pretrained(folder / "scheduler")
    load_packaged_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n", encoding="utf-8")


def _weights(module: nn.Module, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield weights taken from a pool, as generating each value would take longer than writing."""
    pool = (torch.randn(2**22, generator=generator) * 0.02).bfloat16()
    codes = torch.randint(0, 256, (2**22,), generator=generator).to(torch.uint8)
    for name, blank in module.state_dict().items():
        if name.endswith("_scales"):
            values = torch.full(blank.shape, 120, dtype=torch.uint8)
        elif blank.dtype == torch.uint8:
            values = _from(codes, blank.shape)
        elif ("norm" in name and name.endswith("weight")) or name.endswith("running_var"):
            values = torch.ones(blank.shape, dtype=blank.dtype)
        else:
            values = _from(pool, blank.shape).to(blank.dtype)
        yield name, values


def _from(pool: Tensor, shape: torch.Size) -> Tensor:
    count = shape.numel()
    return pool.repeat(-(-count // len(pool)))[:count].view(shape)


class Peak:
    """Peak memory of this process, excluding memory-mapped files."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        process: Any = psutil.Process()
        while not self._done.wait(0.02):
            memory = process.memory_info()
            self.bytes = max(self.bytes, memory.rss - memory.shared)

    def stop(self) -> int:
        """Bytes."""
        self._done.set()
        self._watcher.join()
        return self.bytes


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="Written by `write`, or a real checkpoint.")],
    memory: Annotated[str, typer.Option(help="Memory plan.")] = "auto",
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 4,
    guidance: Annotated[float, typer.Option(help="1 runs one branch.")] = 1.0,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "",
    prompt: Annotated[str, typer.Option(help="What to draw.")] = PROMPT,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("runs/full-size.png"),
) -> None:
    """Load, read a prompt, draw and decode; say how long each took and how much memory it had."""
    where = torch.device(device) if device else default_device()
    peak, begin = Peak(), time.perf_counter()
    pipeline = LensPipeline.from_pretrained(
        folder, dtype=torch.bfloat16, memory=memory, device=where
    )
    loaded = time.perf_counter()
    typer.echo(f"plan {pipeline.memory_plan.name} on {where}, loaded in {loaded - begin:.0f} s")
    ends: list[float] = []

    def step_end(_pipeline: LensPipeline, step: int, _time: Tensor, _values: Any) -> dict[str, Any]:
        ends.append(time.perf_counter())
        typer.echo(f"step {step + 1} of {steps}, {peak.bytes / MIB:,.0f} MiB at most so far")
        return {}

    pictures = pipeline(
        prompt, height=size, width=size, seed=0, num_inference_steps=steps,
        guidance_scale=guidance, callback_on_step_end=step_end,
    ).images  # fmt: skip
    done = time.perf_counter()
    assert isinstance(pictures, list)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(out)
    values: dict[str, Any] = {
        "plan": pipeline.memory_plan.name,
        "device": str(where),
        "load_s": round(loaded - begin, 1),
        "read_and_first_step_s": round(ends[0] - loaded, 1),
        "further_steps_s": [round(after - before, 1) for before, after in pairwise(ends)],
        "decode_s": round(done - ends[-1], 1),
        "host_mib": round(peak.stop() / MIB),
    }
    if where.type == "cuda":
        values["device_mib"] = round(torch.cuda.max_memory_allocated(where) / MIB)
    typer.echo(json.dumps(values))


if __name__ == "__main__":
    app()
