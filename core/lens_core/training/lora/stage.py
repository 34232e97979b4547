"""Fine-tuning on one's own pictures: shards, caches, then the engine with small or all weights.

Encoders are loaded first, fill the caches, and are gone before the denoiser is loaded, so that the
two never share the memory.
"""

from dataclasses import replace
from pathlib import Path

import torch

from lens_core.checkpoints.lora_adapters import save_lora
from lens_core.data.hashing import weights_mark
from lens_core.loading import load_components, load_transformer, save_components
from lens_core.memory.plan import MemoryPlan
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.engine import DenoiserRun
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.encoded import encoded
from lens_core.training.lora.memory import has_begun, record_plan, run_plan
from lens_core.training.lora.pictures import Pictures
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
    plan = run_plan(config, start, folder, workers)
    data = Pictures.read(config, folder, has_begun(folder), workers)
    encoder, monitoring = encoded(config, start, data, folder / "cache", plan, workers)
    training = _training(config, start, plan, workers)
    if workers.leads:
        record_plan(plan, folder)
    source = BucketBatches(config, data.shards, encoder, workers)
    try:
        DenoiserRun(config, training, source, workers, folder, monitoring).train()
    finally:
        source.close()
    _save(training, start, folder / "weights", workers)


def _training(
    config: LoraTrainingConfig, start: Path, plan: MemoryPlan, workers: Workers
) -> DenoiserTraining:
    if config.method == "full":
        training = DenoiserTraining.create(config, workers)
        fill_weights(training, load_transformer(start / "transformer").state_dict())
        return training
    model = load_transformer(start / "transformer", getattr(torch, config.precision))
    fixed = {"alpha": config.alpha, "start weights": weights_mark(model)}
    return replace(lora_training(config, model, workers, plan), fixed=fixed)


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
