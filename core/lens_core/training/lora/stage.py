"""Fine-tuning on one's own pictures: shards, caches, then the engine with small or all weights.

Encoders are loaded first, fill the caches, and are gone before the denoiser is loaded, so that the
two never share the memory.
"""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_core.checkpoints.lora_adapters import save_lora
from lens_core.data.encoding import BatchEncoder, fill_caches
from lens_core.data.frozen import FrozenParts
from lens_core.data.reading import ShardFolder
from lens_core.loading import load_components, load_transformer, save_components
from lens_core.memory.placements import Placements
from lens_core.memory.plan import MemoryPlan
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.devices import place
from lens_core.training.engine import DenoiserRun, Looks
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.memory import has_begun, record_plan, run_plan
from lens_core.training.lora.pictures import picture_shards
from lens_core.training.lora.samples import sample_sheet
from lens_core.training.lora.weights import ADAPTER, LoraWeights, lora_training
from lens_core.training.mixed.source import BucketBatches, held_out_batches
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
    plan = run_plan(config, start, folder, workers)
    data = _Pictures.read(config, folder, workers)
    encoder, looks = _encoded(config, start, data, folder / "cache", plan, workers)
    training = _training(config, start, plan, workers)
    if workers.leads:
        record_plan(plan, folder)
    source = BucketBatches(config, data.shards, encoder, workers)
    try:
        DenoiserRun(config, training, source, workers, folder, looks).train()
    finally:
        source.close()
    _save(training, start, folder / "weights", workers)


@dataclass(frozen=True)
class _Pictures:
    """The user's own.

    Attributes:
        shards: To learn from.
        held_out: For the validation loss; None without any.
    """

    shards: ShardFolder
    held_out: ShardFolder | None

    @classmethod
    def read(cls, config: LoraTrainingConfig, folder: Path, workers: Workers) -> "_Pictures":
        begun = has_begun(folder)
        shards = picture_shards(config, config.images, folder / "data", begun, workers)
        held_out = None
        if config.validation_images is not None:
            held_out = picture_shards(
                config, config.validation_images, folder / "held-out", begun, workers
            )
        return cls(shards, held_out)


def _encoded(
    config: LoraTrainingConfig,
    start: Path,
    data: _Pictures,
    cache: Path,
    plan: MemoryPlan,
    workers: Workers,
) -> tuple[BatchEncoder, Looks]:
    """Caches that hold every picture and caption, and what the run looks at on its way.

    The encoders' memory is free again, but for the autoencoder in the host's where it draws.
    """
    device = place(config.device)
    parts = FrozenParts.load(start, "cpu", config.encoder_precision)
    places = Placements(device)
    places.place(
        {"text_encoder": (parts.text_encoder, plan.text_encoder), "vae": (parts.vae, plan.vae)}
    )
    encoder = parts.encoder(parts.layers(), cache, cache, config.text_multiple)
    fill_caches(data.shards, encoder, share=(workers.rank, workers.count))
    workers.gather(cache.name)
    looks = _looks(config, parts, encoder, data, plan)
    kept = encoder.without_encoders()
    places.clear()
    parts.vae.to("cpu")
    del parts, places, encoder
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return kept, looks


def _looks(
    config: LoraTrainingConfig,
    parts: FrozenParts,
    encoder: BatchEncoder,
    data: _Pictures,
    plan: MemoryPlan,
) -> Looks:
    """Held-out batches and sample prompts, read while the encoders are there."""
    held_out, draw = [], None
    if config.validate_every and data.held_out is not None:
        held_out = held_out_batches(data.held_out, encoder, config, config.validation_pictures)
    if config.sample_every and encoder.captions is not None:
        device = place(config.device)
        draw = sample_sheet(config, parts, encoder.captions, data.shards, plan, device)
    return Looks(held_out, draw)


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
