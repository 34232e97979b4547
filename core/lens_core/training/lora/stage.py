"""Fine-tuning on one's own pictures: shards, caches, then the engine with small or all weights.

Encoders are loaded first, fill the caches, and are gone before the denoiser is loaded, so that the
two never share the memory.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import torch

from lens_core.checkpoints.lora_adapters import save_lora
from lens_core.data.buckets import bucket_table
from lens_core.data.encoding import BatchEncoder, fill_caches
from lens_core.data.errors import ManifestError
from lens_core.data.fitting import CropPolicy
from lens_core.data.frozen import FrozenParts
from lens_core.data.manifest import MANIFEST
from lens_core.data.reading import ShardFolder
from lens_core.data.sources import SourceImage, folder_images, table_images
from lens_core.data.writing import ShardSettings, write_shards
from lens_core.loading import load_components, load_transformer, save_components
from lens_core.memory.placements import Placements
from lens_core.memory.plan import MemoryPlan
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.devices import place
from lens_core.training.engine import DenoiserRun, Looks
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.memory import record_plan, run_plan
from lens_core.training.lora.samples import sample_sheet
from lens_core.training.lora.weights import ADAPTER, LoraWeights, lora_training
from lens_core.training.mixed.source import BucketBatches
from lens_core.training.mixed.start import fill_weights, model_arguments, pipeline_folder
from lens_core.training.workers import Workers


def train_lora(config: LoraTrainingConfig, folder: Path) -> None:
    """Train, or resume, and leave `folder/weights`: a LoRA in PEFT's form, or a whole pipeline.

    Args:
        config: Settings; the same ones must be given again to resume.
        folder: This run's own.

    Raises:
        ComponentError: `start` holds no pipeline.
        DataError: No usable pictures, or pictures that the policy refuses.
        ParameterError: Layers that the model does not have, or another setting that does not fit;
            a memory plan that does not.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    start = pipeline_folder("lora", config.start, Path(config.start))
    config = config.model_copy(update={"model": model_arguments(start)})
    plan = run_plan(config, start, folder, place(config.device))
    data = _shards(config, folder / "data", workers)
    if workers.leads:
        record_plan(plan, folder)
    encoder, looks = _encoded(config, start, data, folder / "cache", plan, workers)
    training = _training(config, start, plan, workers)
    source = BucketBatches(config, data, encoder, workers)
    try:
        DenoiserRun(config, training, source, workers, folder, looks).train()
    finally:
        source.close()
    _save(training, start, folder / "weights", workers)


def _shards(config: LoraTrainingConfig, folder: Path, workers: Workers) -> ShardFolder:
    """The pictures as shards; written by the first process, once."""
    if workers.leads and not (folder / MANIFEST).is_file():
        settings = ShardSettings(
            bucket_table(config.buckets),
            crop=CropPolicy(config.crop, config.most_cut),
            policy=config.policy,
        )
        write_shards(_images(Path(config.images)), folder, settings, {"source": config.images})
    workers.gather(folder.name)
    data = ShardFolder.open(folder)
    if data.manifest.made.get("source") != config.images:
        raise ManifestError(
            f"{folder} holds the pictures of {data.manifest.made.get('source')}, not of "
            f"{config.images}; choose another --out"
        )
    return data


def _images(path: Path) -> Iterator[SourceImage]:
    return table_images(path) if path.is_file() else folder_images(path)


def _encoded(
    config: LoraTrainingConfig,
    start: Path,
    data: ShardFolder,
    cache: Path,
    plan: MemoryPlan,
    workers: Workers,
) -> tuple[BatchEncoder, Looks]:
    """Caches that hold every picture and caption, and what draws samples.

    The encoders' memory is free again, but for the autoencoder in the host's where it draws.
    """
    device = place(config.device)
    parts = FrozenParts.load(start, "cpu", config.encoder_precision)
    places = Placements(device)
    places.place(
        {"text_encoder": (parts.text_encoder, plan.text_encoder), "vae": (parts.vae, plan.vae)}
    )
    encoder = parts.encoder(parts.layers(), cache, cache, config.text_multiple)
    looks = Looks()
    if workers.leads:
        fill_caches(data, encoder)
    if config.sample_every and encoder.captions is not None:
        looks = Looks(draw=sample_sheet(config, parts, encoder.captions, data, plan, device))
    workers.gather(cache.name)
    kept = encoder.without_encoders()
    places.clear()
    parts.vae.to("cpu")
    del parts, places, encoder
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return kept, looks


def _training(
    config: LoraTrainingConfig, start: Path, plan: MemoryPlan, workers: Workers
) -> DenoiserTraining:
    if config.method == "full":
        training = DenoiserTraining.create(config, workers)
        fill_weights(training, load_transformer(start / "transformer").state_dict())
        return training
    model = load_transformer(start / "transformer", getattr(torch, config.precision))
    return lora_training(config, model, workers, plan)


def _save(training: DenoiserTraining, start: Path, folder: Path, workers: Workers) -> None:
    """Write the averaged weights."""
    if isinstance(training.weights, LoraWeights):
        if workers.leads:
            with training.averaged():
                save_lora(training.network.model, folder, ADAPTER)
        return
    model = training.export(workers.leads)
    if model is None:
        return
    parts = load_components(start, torch.bfloat16, {"transformer": model.to(torch.bfloat16)})
    defaults = parts.pop("defaults")
    save_components(folder, parts, defaults)
