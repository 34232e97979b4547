"""`lens data`: training data as shards by bucket, checked and encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from lens_sdk.cli.console import err, out, reports_errors
from lens_sdk.cli.progress import progress_bars
from lens_sdk.errors import UnknownPartError

if TYPE_CHECKING:
    from lens_core.data.buckets import Bucket
    from lens_core.data.manifest import Manifest
    from lens_core.data.sources import SourceImage
    from lens_core.data.writing import ShardSettings

data = typer.Typer(
    name="data", help="Training data: shards by bucket.", no_args_is_help=True, add_completion=False
)

Shards = Annotated[Path, typer.Argument(help="Folder of shards.")]


@data.command()
@reports_errors
def shard(
    source: Annotated[
        str,
        typer.Argument(help="Folder of pictures; .jsonl, .csv or .parquet table; or nano."),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    buckets: Annotated[
        str,
        typer.Option(
            "--buckets", help="lens, lens-512, lens-1024, nano, nano-128 or nano-held-out."
        ),
    ] = "",
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Pictures of a shard.")] = (
        1000
    ),
    image_format: Annotated[
        str, typer.Option("--format", help="png, webp (both lossless) or jpg.")
    ] = "png",
    crop: Annotated[str, typer.Option("--crop", help="centre, top or random.")] = "centre",
    most_cut: Annotated[
        float, typer.Option("--most-cut", min=0, max=1, help="Share of a picture cut off at most.")
    ] = 0.3,
    every_base: Annotated[
        bool, typer.Option("--every-base", help="Once for every base area that a picture fills.")
    ] = False,
    refuse: Annotated[
        list[str] | None,
        typer.Option(
            "--refuse",
            help="Stop at unreadable_image, missing_caption or unfit_image instead of skipping.",
        ),
    ] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Scenes that nano draws.")] = 10000,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of nano's scenes.")] = 0,
) -> None:
    """Write pictures and captions as WebDataset shards, every shard of one bucket."""
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
    _describe(manifest)
    out.print(str(output / "manifest.json"), markup=False, soft_wrap=True)


@data.command()
@reports_errors
def check(folder: Shards) -> None:
    """Compare every shard with its hash in the manifest."""
    from lens_core.data.errors import DamagedShardError
    from lens_core.data.reading import ShardFolder

    opened = ShardFolder.open(folder)
    with err.status("Reading shards"):
        problems = opened.verify()
    if problems:
        raise DamagedShardError("; ".join(problems))
    _describe(opened.manifest)
    out.print(f"All {len(opened.manifest.shards)} shards are as they were written.")


@data.command()
@reports_errors
def encode(
    folder: Shards,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Folder with vae/, text_encoder/, tokenizer/.")
    ],
    cache: Annotated[Path, typer.Option("--cache", help="Folder of the caches.")],
    layers: Annotated[
        str,
        typer.Option("--layers", help="Text encoder layers; those of transformer/ if left out."),
    ] = "",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option("--precision", help="float32 or bfloat16.")] = "float32",
) -> None:
    """Fill the caches of latents and text features, so that training need not encode."""
    from lens_sdk.models import require_packages

    require_packages()
    from lens_core.data.encoding import fill_caches
    from lens_core.data.frozen import FrozenParts
    from lens_core.data.reading import ShardFolder

    opened = ShardFolder.open(folder)
    with err.status("Loading the encoders"):
        parts = FrozenParts.load(model, device, precision)
        chosen = parts.layers(tuple(int(part) for part in layers.split(",") if part.strip()))
        encoder = parts.encoder(chosen, cache, cache)
    with progress_bars(err) as bars:
        task = bars.add_task("Encoding", total=opened.manifest.samples)
        computed = fill_caches(opened, encoder, lambda done: bars.update(task, completed=done))
    out.print(f"Computed {computed} latents and features into {cache}", markup=False)


def _settings(
    table: tuple[Bucket, ...],
    per_shard: int,
    image_format: str,
    crop: str,
    most_cut: float,
    every_base: bool,
    refused: list[str],
) -> ShardSettings:
    from lens_core.data.fitting import Crop, CropPolicy
    from lens_core.data.policy import DataPolicy
    from lens_core.data.writing import Format, ShardSettings

    for given, known, name in (
        (image_format, get_args(Format), "format"),
        (crop, get_args(Crop), "crop"),
    ):
        _check_choice(name, given, known)
    for kind in refused:
        _check_choice("refuse", kind, tuple(DataPolicy.model_fields))
    return ShardSettings(
        table,
        per_shard,
        CropPolicy(cast(Crop, crop), most_cut),
        DataPolicy.model_validate(dict.fromkeys(refused, "refuse")),
        cast(Format, image_format),
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


def _check_choice(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UnknownPartError(
            f"--{option} {given!r} is not known.", hint=f"Choices: {', '.join(known)}."
        )


def _describe(manifest: Manifest) -> None:
    """Pictures by bucket, and what was left out."""
    counts = {bucket.name: 0 for bucket in manifest.bucket_list()}
    for entry in manifest.shards:
        counts[entry.bucket] += entry.samples
    lines = [f"{manifest.samples} pictures in {len(manifest.shards)} shards"]
    lines += [f"  {name}: {count}" for name, count in counts.items()]
    lines += [f"  skipped, {kind}: {count}" for kind, count in manifest.skipped.items()]
    out.print("\n".join(lines), markup=False, soft_wrap=True)
