"""What fine-tuning needs under each memory plan, and which one a run has."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2

from lens_core.chat import MAX_SEQUENCE_LENGTH
from lens_core.checkpoint_files import read_config
from lens_core.errors import CheckpointError, ParameterError
from lens_core.memory.choose import chosen_plan
from lens_core.memory.dry_run import Work
from lens_core.memory.encoder_file import EncoderFile
from lens_core.memory.footprint import Footprint, footprint_of, planned_footprint
from lens_core.memory.plan import AUTO, MemoryPlan
from lens_core.memory.predict import (
    Model,
    Prediction,
    decoding_bytes,
    denoising_bytes,
    encoding_bytes,
    table_bytes,
)
from lens_core.memory.quantise import quantised_layers, require_torchao
from lens_core.memory.table import MemoryTable
from lens_core.memory.tensors import cast_parameters, module_bytes
from lens_core.training.devices import place
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.dry_run import dry_run_pictures, dry_run_step
from lens_core.training.lora.frozen import check_plan, recomputing, sample_tile
from lens_core.training.plan import TEMPLATE_TOKENS
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel

TUNING = MemoryTable(
    "fine-tuning memory table",
    {"captions": "reading", "pictures": "images", "train": "training", "samples": "samples"},
    "weights",
    lambda plan: "in full" if plan.transformer_weights == "full" else plan.transformer_weights,
)
"""Of fine-tuning; see `MemoryTable`."""

RECORD = "memory.json"
"""In a run's folder: the plan it was begun with."""

_MASTERS = 4 + 4 + 4 + 8
"""Bytes of a trained number in float32: itself, its gradient, its average and two moments."""


def run_plan(config: LoraTrainingConfig, start: Path, folder: Path, workers: Workers) -> MemoryPlan:
    """The plan that a run has in all its processes, the same when it is resumed.

    `auto` takes the fastest named plan whose prediction fits what the device has free when the run
    begins; on the CPU that is `resident`.

    Args:
        config: The run's settings, `model` filled in.
        start: Pipeline folder that it starts from.
        folder: The run's own.
        workers: The processes that train together; the first one's choice counts.

    Raises:
        ParameterError: No plan fits, the run cannot have the plan, or was begun with weights in
            another form.
        ComponentError: torchao is needed and not installed.
        CheckpointError: The record of a run that was begun is damaged.
    """
    if config.memory == AUTO and config.method == "full":
        raise ParameterError(
            "memory='auto' assumes frozen weights, but method=full trains them all; choose "
            "16gb, 24gb or resident, or method=lora"
        )
    begun = _begun(folder / RECORD) if has_begun(folder) else None
    if begun is not None and config.memory == AUTO:
        plan = begun
    else:
        model = cache(lambda: blank_model(config, start))
        plan = chosen_plan(
            config.memory,
            place(config.device),
            lambda plan: predict_training(config, model(), plan),
        )
    plan = workers.gather(plan)[0]
    check_plan(plan, config)
    require_torchao(plan.transformer_weights)
    if begun is not None and begun.transformer_weights != plan.transformer_weights:
        raise ParameterError(
            f"this run was started with memory plan {begun.name!r} and frozen weights in form "
            f"{begun.transformer_weights!r}, and {plan.name!r} has {plan.transformer_weights!r}: "
            "resume with the same, or choose another --out"
        )
    return plan


def has_begun(folder: Path) -> bool:
    """Whether a run has a training state to go on with; one that a kill cut short is none."""
    return any((folder / "checkpoints").glob("step-*/state.json"))


def record_plan(plan: MemoryPlan, folder: Path) -> None:
    """Note the plan that a run has."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{RECORD}.part"
    unfinished.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / RECORD)


def _begun(record: Path) -> MemoryPlan | None:
    if not record.is_file():
        return None
    try:
        return MemoryPlan(**json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{record} is damaged ({error}); remove it, and give the previous memory plan"
        ) from error


def blank_model(config: LoraTrainingConfig, start: Path) -> Model:
    """What a run loads, on the meta device; only headers and configurations are read.

    Raises:
        CheckpointError: A part is missing or unreadable.
    """
    encoders, denoiser = (
        getattr(torch, name) for name in (config.encoder_precision, config.precision)
    )
    with torch.device("meta"):
        transformer = LensTransformer2DModel(**config.model)
        vae = AutoencoderKLFlux2.from_config(read_config(start / "vae"))
    cast_parameters(transformer, denoiser)
    cast_parameters(vae, encoders)
    return Model(transformer, EncoderFile(start / "text_encoder", encoders).blank(), vae)


def predict_training(
    config: LoraTrainingConfig,
    model: Model,
    plan: MemoryPlan,
    text_tokens: int = MAX_SEQUENCE_LENGTH,
) -> Prediction:
    """What fine-tuning will need under a plan, without running it.

    Args:
        config: The run's settings.
        model: What it loads; may be on the meta device.
        plan: The plan.
        text_tokens: Of the longest caption, the text around it included; what the template puts
            before it is not learnt from.

    Returns:
        Bytes in each stage: `captions` and `pictures` are encoded, then, when the encoders are
        gone, `train`, and `samples` if any are drawn. It is of the kind of batch that takes most,
        all ratios of a base taken for its square.
    """
    if config.method == "full":
        raise ParameterError(
            "memory is predicted for frozen weights, but method=full trains them all: 22 bytes for "
            "each weight, besides what a step takes; lens train plan estimates complete trainings"
        )
    learnt = -(-(text_tokens - TEMPLATE_TOKENS) // config.text_multiple) * config.text_multiple
    works = [Work(base, base, pictures, learnt) for base, pictures in config.batch_sizes.items()]
    needs = {work: _step_bytes(config, model, plan, work) for work in works}
    largest = max(works, key=lambda work: needs[work])
    held = _held_bytes(config, model, plan, largest)
    side = max(config.batch_sizes)
    stages = _encoding_stages(model, plan, Work(side, side, text_tokens=text_tokens))
    stages["train"] = held + needs[largest]
    if config.sample_every:
        height, width = config.sample_size or (side, side)
        drawn = _drawing_bytes(model, plan, Work(height, width, text_tokens=learnt))
        stages["samples"] = held + drawn
    return Prediction(plan, largest, stages, _host_bytes(model, plan))


def _encoding_stages(model: Model, plan: MemoryPlan, work: Work) -> dict[str, int]:
    text, vae = _encoders(model).values()
    return {
        "captions": encoding_bytes(model, work)
        + text.working(plan.text_encoder)
        + vae.waiting(plan.vae),
        "pictures": dry_run_pictures(model.vae, work)
        + vae.working(plan.vae)
        + text.waiting(plan.text_encoder),
    }


def _encoders(model: Model) -> Mapping[str, Footprint]:
    assert model.text_encoder is not None
    return {"text_encoder": footprint_of(model.text_encoder), "vae": footprint_of(model.vae)}


def _settings(config: LoraTrainingConfig, model: Model, plan: MemoryPlan) -> LoraTrainingConfig:
    arguments = {k: v for k, v in model.transformer.config.items() if not k.startswith("_")}
    return recomputing(plan, config).model_copy(update={"model": arguments})


def _held_bytes(config: LoraTrainingConfig, model: Model, plan: MemoryPlan, work: Work) -> int:
    """Frozen weights, and adapters with all that belongs to them."""
    frozen = planned_footprint(model.transformer, plan.transformer_weights, plan.modulation_table)
    held = frozen.working("stream") if plan.transformer == "stream" else frozen.total
    _, adapters = dry_run_step(_settings(config, model, plan), work)
    return held + adapters * (_MASTERS + model.transformer.dtype.itemsize)


def _step_bytes(config: LoraTrainingConfig, model: Model, plan: MemoryPlan, work: Work) -> int:
    needed, _ = dry_run_step(_settings(config, model, plan), work)
    if plan.modulation_table:
        needed += table_bytes(model.transformer, work.batch)
    return needed + _unpacked_bytes(model, plan)


def _unpacked_bytes(model: Model, plan: MemoryPlan) -> int:
    """Matrices in full of the block that computes, where they are rounded."""
    if plan.transformer_weights == "full":
        return 0
    blocks = model.transformer.transformer_blocks
    return max(module_bytes(quantised_layers(block)) for block in blocks)


def _drawing_bytes(model: Model, plan: MemoryPlan, work: Work) -> int:
    sampling = denoising_bytes(model, work) + _unpacked_bytes(model, plan)
    vae = footprint_of(model.vae).total
    return max(sampling, vae + decoding_bytes(model, work, sample_tile(plan)))


def _host_bytes(model: Model, plan: MemoryPlan) -> int:
    """The encoders, or what the denoiser leaves there: they are gone before it comes."""
    places = {"text_encoder": plan.text_encoder, "vae": plan.vae}
    kept = (part.total for name, part in _encoders(model).items() if places[name] != "resident")
    form, tabled = plan.transformer_weights, plan.modulation_table
    whole = planned_footprint(model.transformer, form, False)
    left = whole.total - planned_footprint(model.transformer, form, tabled).total
    if plan.transformer == "stream":
        left = sum(whole.blocks)
    return max(sum(kept), left)
