"""`lens data`: writes, checks and encodes training data as shards by bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_core.packaged import PACKAGED_MODELS, model_folder
from lens_sdk.cli.choices import Crop, Device, Dtype, Format, Problem
from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import DeviceOption
from lens_sdk.cli.progress import progress_bars
from lens_sdk.models import require_packages

if TYPE_CHECKING:
    from lens_core.data.buckets import Bucket
    from lens_core.data.manifest import Manifest
    from lens_core.data.sources import SourceImage
    from lens_core.data.writing import ShardSettings

data = typer.Typer(
    name="data",
    help="Prepare training data: images sorted by size, checked, encoded.",
    no_args_is_help=True,
    add_completion=False,
)

Shards = Annotated[Path, typer.Argument(help="Folder of shards.")]


@data.command()
@reports_errors
def shard(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images with captions in .txt files; a .jsonl, .csv or .parquet table "
            "of images; or nano, for generated scenes."
        ),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    buckets: Annotated[
        str,
        typer.Option(
            "--buckets",
            help="Table of sizes: lens, lens-512, lens-1024, nano, nano-128 or nano-held-out. "
            "The default depends on the source.",
        ),
    ] = "",
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Images per shard.")] = (
        1000
    ),
    image_format: Annotated[
        Format, typer.Option("--format", help="Image format; png and webp are lossless.")
    ] = Format.PNG,
    crop: Annotated[
        Crop, typer.Option("--crop", help="Which part to keep of an image with another shape.")
    ] = Crop.CENTRE,
    most_cut: Annotated[
        float, typer.Option("--most-cut", min=0, max=1, help="Maximum share of an image to crop.")
    ] = 0.3,
    every_base: Annotated[
        bool,
        typer.Option(
            "--every-base", help="Keep an image at every resolution that it is large enough for."
        ),
    ] = False,
    refuse: Annotated[
        list[Problem] | None,
        typer.Option("--refuse", help="Stop at such an image instead of skipping it. Repeatable."),
    ] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Number of nano scenes.")] = 10000,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of nano's scenes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write images and captions as shards: tar files (WebDataset) of images of one size.

    Example: lens data shard pictures --out shards --buckets lens-512
    """
    require_packages()
    from lens_core.data.buckets import bucket_table
    from lens_core.data.writing import write_shards

    table = bucket_table(buckets or ("nano" if source == "nano" else "lens"))
    settings = _settings(table, per_shard, image_format, crop, most_cut, every_base, refuse or [])
    images = _images(source, seed, scenes, table)
    made = {"source": source} | ({"seed": seed, "scenes": scenes} if source == "nano" else {})
    with progress_bars(err) as bars:
        task = bars.add_task("Writing shards", total=scenes if source == "nano" else None)

        def counted() -> Iterator[SourceImage]:
            for image in images:
                yield image
                bars.advance(task)

        manifest = write_shards(counted(), output, settings, made)
    path = output / "manifest.json"
    if as_json:
        print_json({**described(manifest), "path": str(path)})
        return
    _describe(manifest)
    out.print(str(path), markup=False, soft_wrap=True)


@data.command()
@reports_errors
def check(folder: Shards, as_json: JsonOption = False) -> None:
    """Compare every shard with the hash recorded when it was written.

    Example: lens data check shards
    """
    require_packages()
    from lens_core.data.errors import DamagedShardError
    from lens_core.data.reading import ShardFolder

    opened = ShardFolder.open(folder)
    with err.status("Reading shards"):
        problems = opened.verify()
    if problems:
        raise DamagedShardError("; ".join(problems))
    if as_json:
        print_json(described(opened.manifest))
        return
    _describe(opened.manifest)
    out.print(f"All {len(opened.manifest.shards)} shards are as they were written.")


@data.command()
@reports_errors
def encode(
    folder: Shards,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help=f"{', '.join(PACKAGED_MODELS)}, or a folder with vae/, text_encoder/, tokenizer/.",
        ),
    ],
    cache: Annotated[Path, typer.Option("--cache", help="Cache folder.")],
    layers: Annotated[
        str,
        typer.Option(
            "--layers", help="Text encoder layers, such as 1,3. Default: those of transformer/."
        ),
    ] = "",
    device: DeviceOption = Device.AUTO,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Number format; auto is bfloat16 on a GPU.")
    ] = Dtype.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Encode images and captions in advance, so that training does not have to.

    Example: lens data encode shards --model lens-nano --cache encoded
    """
    require_packages()
    from lens_core.data.encoding import fill_caches
    from lens_core.data.frozen import FrozenParts
    from lens_core.data.reading import ShardFolder
    from lens_sdk.runtime import no_loading_bars

    wanted = _layers(layers)
    opened = ShardFolder.open(folder)
    with err.status("Loading the encoders"), no_loading_bars():
        parts = FrozenParts.load(model_folder(model), *_where(device, dtype))
        encoder = parts.encoder(parts.layers(wanted), cache, cache)
    with progress_bars(err) as bars:
        task = bars.add_task("Encoding", total=2 * opened.manifest.samples)
        computed = fill_caches(opened, encoder, lambda done: bars.update(task, completed=done))
    if as_json:
        print_json({"computed": computed, "cache": str(cache)})
    else:
        out.print(f"Computed {computed} latents and features into {cache}", markup=False)


def _layers(text: str) -> tuple[int, ...]:
    """Parse layer numbers, separated by commas.

    Raises:
        typer.BadParameter: An entry is not a number.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 1,3", param_hint="--layers"
        ) from error


def _where(device: Device, dtype: Dtype) -> tuple[str, str]:
    """Return the device and number format, with auto resolved."""
    import torch

    gpu = torch.cuda.is_available() if device is Device.AUTO else device is Device.CUDA
    found = Dtype.BFLOAT16 if gpu else Dtype.FLOAT32
    return "cuda" if gpu else "cpu", (found if dtype is Dtype.AUTO else dtype).value


def _settings(
    table: tuple[Bucket, ...],
    per_shard: int,
    image_format: Format,
    crop: Crop,
    most_cut: float,
    every_base: bool,
    refused: list[Problem],
) -> ShardSettings:
    from lens_core.data.fitting import CropPolicy
    from lens_core.data.policy import DataPolicy
    from lens_core.data.writing import ShardSettings

    return ShardSettings(
        table,
        per_shard,
        CropPolicy(crop.value, most_cut),
        DataPolicy.model_validate(dict.fromkeys((kind.value for kind in refused), "refuse")),
        image_format.value,
        every_base,
    )


def _images(
    source: str, seed: int, scenes: int, table: tuple[Bucket, ...]
) -> Iterator[SourceImage]:
    from lens_core.data.sources import folder_images, nano_images, table_images

    if source == "nano":
        return nano_images(seed, scenes, table)
    path = Path(source)
    return table_images(path) if path.is_file() else folder_images(path)


def described(manifest: Manifest) -> dict[str, Any]:
    """Describe a folder of shards for JSON."""
    return {
        "pictures": manifest.samples,
        "shards": len(manifest.shards),
        "buckets": _counts(manifest),
        "captions": manifest.captions,
        "skipped": manifest.skipped,
    }


def _counts(manifest: Manifest) -> dict[str, int]:
    """Count images by bucket."""
    counts = {bucket.name: 0 for bucket in manifest.bucket_list()}
    for entry in manifest.shards:
        counts[entry.bucket] += entry.samples
    return counts


def _describe(manifest: Manifest) -> None:
    """Print the number of images by bucket, and what was left out."""
    lines = [f"{manifest.samples} pictures in {len(manifest.shards)} shards"]
    lines += [f"  {name}: {count}" for name, count in _counts(manifest).items()]
    lines += [f"  skipped, {kind}: {count}" for kind, count in manifest.skipped.items()]
    out.print("\n".join(lines), markup=False, soft_wrap=True)
