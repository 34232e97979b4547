"""A user's pictures as shards, written again when what they were made from changes."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_core.data.buckets import bucket_table
from lens_core.data.digests import file_hash, listing_hash
from lens_core.data.errors import ManifestError
from lens_core.data.fitting import CropPolicy
from lens_core.data.manifest import MANIFEST, load_manifest
from lens_core.data.reading import ShardFolder
from lens_core.data.sources import SourceImage, folder_images, table_images
from lens_core.data.writing import ShardSettings, write_shards
from lens_core.errors import ParameterError
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.workers import Workers


@dataclass(frozen=True)
class Pictures:
    """The user's own.

    Attributes:
        shards: To learn from.
        held_out: For the validation loss; None without any.
    """

    shards: ShardFolder
    held_out: ShardFolder | None

    @classmethod
    def read(
        cls, config: LoraTrainingConfig, folder: Path, begun: bool, workers: Workers
    ) -> "Pictures":
        """See `picture_shards`.

        Args:
            config: The run's settings.
            folder: The run's own.
            begun: Whether training has begun.
            workers: The processes that train together.
        """
        shards = picture_shards(config, config.images, folder / "data", begun, workers)
        held_out = None
        if config.validation_images is not None:
            held_out = picture_shards(
                config, config.validation_images, folder / "held-out", begun, workers
            )
        return cls(shards, held_out)


def picture_shards(
    config: LoraTrainingConfig, source: str, folder: Path, begun: bool, workers: Workers
) -> ShardFolder:
    """The pictures as shards; the first process writes them.

    Shards of before are used again if they were made of the same files in the same way.

    Args:
        config: The run's settings.
        source: Folder of pictures with captions, or a table that lists them.
        folder: Of the shards.
        begun: Whether training has begun on what is there: then it is never replaced.
        workers: The processes that train together.

    Raises:
        ManifestError: Training has begun on other pictures, or on shards made in another way.
        ParameterError: No pictures, or no batch size for the buckets that they fit.
        DataError: Pictures that the policy refuses.
    """
    made = _made(config, source, folder.parent)
    if workers.leads and _differing(folder, made):
        if begun and (folder / MANIFEST).is_file():
            raise ManifestError(
                f"{folder} was made with other {', '.join(_differing(folder, made))}, and training "
                "has begun on it; give what it was made with, or choose another --out"
            )
        shutil.rmtree(folder, ignore_errors=True)
        settings = ShardSettings(
            bucket_table(config.buckets), crop=_crop(config), policy=config.policy
        )
        write_shards(_images(Path(source)), folder, settings, made)
    workers.gather(folder.name)
    data = ShardFolder.open(folder)
    bases = {bucket.base for bucket in data.manifest.bucket_list()}
    if missing := sorted(bases - config.batch_sizes.keys()):
        raise ParameterError(
            f"the pictures of {source} fit buckets of bases {sorted(bases)}, and batch_sizes has "
            f"none for {missing}; add them, or choose other buckets"
        )
    return data


def _crop(config: LoraTrainingConfig) -> CropPolicy:
    return CropPolicy(config.crop, config.most_cut)


def _images(path: Path) -> Iterator[SourceImage]:
    return table_images(path) if path.is_file() else folder_images(path)


def _made(config: LoraTrainingConfig, source: str, run: Path) -> dict[str, Any]:
    """What decides the shards, as the manifest keeps it."""
    return {
        "source": source,
        "files": _listing(Path(source), run),
        "buckets": config.buckets,
        "policy": config.policy.model_dump(mode="json"),
        "crop": asdict(_crop(config)),
    }


def _differing(folder: Path, made: dict[str, Any]) -> list[str]:
    """Which of it is not that of the shards there; everything without shards."""
    if not (folder / MANIFEST).is_file():
        return list(made)
    before = load_manifest(folder).made
    # Shards of earlier versions say less of how they were made.
    return [name for name, value in made.items() if before.get(name, value) != value]


def _listing(source: Path, run: Path) -> str:
    """Changes when files are added, removed or changed.

    What the run itself writes does not count, if it lies among them.
    """
    return file_hash(source) if source.is_file() else listing_hash(source, run)
