"""Training over buckets: mixed resolution from a pre-trained denoiser, or any sizes from scratch.

The engine is the pre-training's; what differs is the data, and where the weights come from.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lens_core.data.encoding import BatchEncoder
from lens_core.data.frozen import FrozenParts
from lens_core.data.reading import ShardFolder
from lens_core.pipeline import LensPipeline
from lens_core.previews import find_preview_map
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.devices import place
from lens_core.training.engine import DenoiserRun, Monitoring
from lens_core.training.grids import save_grid
from lens_core.training.mixed.config import MixedConfig
from lens_core.training.mixed.source import BucketBatches, held_out_batches
from lens_core.training.mixed.start import (
    model_arguments,
    parts_folder,
    pipeline_folder,
    start_from,
)
from lens_core.training.network import denoiser_arguments
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel


@dataclass(frozen=True)
class MixedStage:
    """What surrounds the training.

    Attributes:
        config: The run's settings, `model` filled in.
        parts: Frozen parts.
        encoder: With them and the caches.
        data: Shards.
        weights: Pipeline folder that the weights come from; None draws them.
    """

    config: MixedConfig
    parts: FrozenParts
    encoder: BatchEncoder
    data: ShardFolder
    weights: Path | None

    @classmethod
    def open(cls, config: MixedConfig, out: Path, stage: str) -> "MixedStage":
        """Load the frozen parts and the shards' manifest.

        Args:
            config: The run's settings.
            out: Folder of the whole training.
            stage: `lowres` or `mixed`, for errors.

        Raises:
            ComponentError: Nothing to start from, or parts that do not fit.
            ParameterError: `model` has an argument that no denoiser takes.
            DataError: No shards.
        """
        data, weights = ShardFolder.open(config.shards(out)), None
        if config.model:
            folder = parts_folder(stage, config.start, out / "components")
        else:
            earlier = [out / name / "pipeline" for name in ("pretrain", "lowres")]
            usual = next((path for path in earlier if path.is_dir()), earlier[0])
            weights = pipeline_folder(stage, config.start, usual)
            config = config.model_copy(update={"model": model_arguments(weights)})
            folder = weights
        arguments = denoiser_arguments(config.model)
        parts = FrozenParts.load(folder, place(config.device), config.encoder_precision)
        caches = config.caches(out)
        encoder = parts.encoder(
            parts.layers(tuple(arguments["selected_layer_index"])),
            caches if config.cache_latents else None,
            caches if config.cache_text else None,
            config.text_multiple,
        )
        return cls(config, parts, encoder, data, weights)

    def pipeline(self, model: LensTransformer2DModel) -> LensPipeline:
        """A denoiser with the frozen parts; a fresh one's own size is the largest bucket's side."""
        parts = dict(self.parts.parts)
        defaults = replace(parts.pop("defaults"), guidance_scale=self.config.guidance_scale)
        if self.weights is None:
            side = max(bucket.base for bucket in self.data.manifest.bucket_list())
            defaults = replace(defaults, height=side, width=side)
        pipeline = LensPipeline(transformer=model, **parts, defaults=defaults)
        previews = find_preview_map(self.parts.folder)
        if previews is not None:
            pipeline.preview_map = previews
        return pipeline

    def monitoring(self) -> Monitoring:
        """Validation on held-out shards, and sample grids."""
        config = self.config

        def draw(training: DenoiserTraining, path: Path, wanted: bool) -> None:
            model = training.export(wanted)
            if model is not None:
                vae = self.parts.vae
                pipeline = self.pipeline(model.to(vae.device, dtype=vae.dtype))
                save_grid(pipeline, path, config.sample_prompts)

        held_out = []
        if config.validate_every and config.validation_data is not None:
            shards = ShardFolder.open(Path(config.validation_data))
            held_out = held_out_batches(shards, self.encoder, config, config.validation_pictures)
        return Monitoring(held_out, draw)


def train_mixed(config: MixedConfig, out: Path, folder: Path) -> None:
    """Train, or resume, and leave the finished checkpoint in `folder/pipeline`.

    Args:
        config: Settings; the same ones must be given again to resume.
        out: Folder of the whole training, where what `config` leaves open is looked for.
        folder: This stage's own.

    Raises:
        ComponentError: Nothing to start from.
        DataError: No shards, or data that the policy refuses.
        NonFiniteError: Gradients stayed NaN or infinite for many steps.
        CheckpointError: A state could not be read or written, or belongs to other data.
        ParameterError: Settings that do not fit the processes or the device.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    stage = MixedStage.open(config, out, folder.name)
    training = DenoiserTraining.create(stage.config, workers)
    if stage.weights is not None:
        start_from(training, stage.weights)
    source = BucketBatches(stage.config, stage.data, stage.encoder, workers)
    try:
        DenoiserRun(stage.config, training, source, workers, folder, stage.monitoring()).train()
    finally:
        source.close()
    model = training.export(workers.leads)
    if model is not None:
        finished = stage.pipeline(model).to(dtype=torch.bfloat16)
        finished.save_pretrained(folder / "pipeline")
