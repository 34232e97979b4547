"""What a plan will need: bytes on the device in each stage, and with the host."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import nn
from transformers import GptOssConfig

from lens_core.memory.dry_run import (
    Work,
    dry_run_decoding,
    dry_run_denoising,
    dry_run_encoding,
)
from lens_core.memory.footprint import Footprint, footprint_of, planned_footprint
from lens_core.memory.plan import LARGEST_SIDE, MemoryPlan
from lens_core.modulation import STREAMS
from lens_core.packed_experts import PackedExperts, Packing
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel

LARGEST = Work(LARGEST_SIDE, LARGEST_SIDE)
"""The largest square picture, with the longest text."""


@dataclass(frozen=True)
class Model:
    """The components a prediction is about; they may be on the meta device.

    Attributes:
        transformer: The denoiser, as loaded.
        text_encoder: GPT-OSS; None for a pipeline that is given features.
        vae: The autoencoder.
    """

    transformer: LensTransformer2DModel
    text_encoder: LensTextEncoder | None
    vae: AutoencoderKLFlux2


@dataclass(frozen=True)
class Prediction:
    """Bytes that a plan needs.

    Attributes:
        plan: The plan.
        work: What is done at once.
        stages: On the device while text is read (`encode`), the picture is sampled (`denoise`) and
            decoded (`decode`): weights and what is computed, not what the driver takes.
        host: Weights in the host's memory at most. Weights that are read as stored are mapped from
            their files, and the system can drop them from its memory when it must.
    """

    plan: MemoryPlan
    work: Work
    stages: dict[str, int]
    host: int

    @property
    def peak(self) -> int:
        """Most bytes on the device at once."""
        return max(self.stages.values())

    @property
    def needed(self) -> int:
        """The peak and a reserve for what no tensor shows.

        0.6 GiB are the driver's context, the libraries' workspaces and code; 5 % is lost between
        allocations.
        """
        return int(self.peak * 1.05) + int(0.6 * 2**30)


def predict(model: Model, plan: MemoryPlan, work: Work = LARGEST) -> Prediction:
    """Predict what a plan needs for a model, without running it.

    Args:
        model: Its components, real or on the meta device.
        plan: The plan.
        work: What is done at once.
    """
    parts = _footprints(model, plan)
    places = {"text_encoder": plan.text_encoder, "transformer": plan.transformer, "vae": plan.vae}
    table = table_bytes(model.transformer, work.steps) if plan.modulation_table else 0
    computing = {
        "text_encoder": encoding_bytes(model, work),
        "transformer": denoising_bytes(model, work) + table,
        "vae": decoding_bytes(model, work, plan.vae_tile) + table,
    }
    stages = {}
    for stage, working in zip(("encode", "denoise", "decode"), places, strict=True):
        if working in parts:
            stages[stage] = computing[working] + sum(
                part.working(places[name]) if name == working else part.waiting(places[name])
                for name, part in parts.items()
            )
    return Prediction(plan, work, stages, _host(parts, plan, places, model))


def _footprints(model: Model, plan: MemoryPlan) -> dict[str, Footprint]:
    parts = {}
    if model.text_encoder is not None:
        parts["text_encoder"] = footprint_of(model.text_encoder)
    parts["transformer"] = planned_footprint(
        model.transformer, plan.transformer_weights, plan.modulation_table
    )
    parts["vae"] = footprint_of(model.vae)
    return parts


def _host(
    parts: dict[str, Footprint], plan: MemoryPlan, places: dict[str, Any], model: Model
) -> int:
    kept = {name: part.total for name, part in parts.items() if places[name] != "resident"}
    if plan.modulation_table:
        whole = planned_footprint(model.transformer, plan.transformer_weights, False)
        parked = whole.total - parts["transformer"].total
        kept["modulations"] = parked
    return sum(kept.values())


def table_bytes(transformer: nn.Module, steps: int) -> int:
    """Bytes of a modulation table of a number of timesteps."""
    config: Any = transformer.config
    element = next(transformer.parameters()).element_size()
    return int((steps + 1) * config.num_layers * len(STREAMS) * 6 * config.inner_dim * element)


def encoding_bytes(model: Model, work: Work) -> int:
    """Bytes that encoding a text takes besides weights; 0 without a text encoder."""
    encoder = model.text_encoder
    if encoder is None:
        return 0
    experts = encoder.model.layers[0].mlp.experts
    packing = None
    if isinstance(experts, PackedExperts):
        packing = (experts.packings["gate_up_proj"], experts.packings["down_proj"])
    return _encoding_bytes(
        encoder.config.to_json_string(use_diff=False), packing, encoder.dtype, work
    )


def denoising_bytes(model: Model, work: Work) -> int:
    """Bytes that a forward pass of the denoiser takes besides weights."""
    config = tuple(sorted((k, _frozen(v)) for k, v in model.transformer.config.items()))
    return _denoising_bytes(config, model.transformer.dtype, work)


def decoding_bytes(model: Model, work: Work, tile: int | None) -> int:
    """Bytes that decoding takes besides weights."""
    config = tuple(sorted((k, _frozen(v)) for k, v in model.vae.config.items()))
    return _decoding_bytes(config, model.vae.dtype, work, tile)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=64)
def _encoding_bytes(
    config: str, packing: tuple[Packing, Packing] | None, dtype: torch.dtype, work: Work
) -> int:
    return dry_run_encoding(GptOssConfig(**json.loads(config)), packing, dtype, work)


@lru_cache(maxsize=64)
def _denoising_bytes(config: tuple[Any, ...], dtype: torch.dtype, work: Work) -> int:
    return dry_run_denoising(dict(config), dtype, work)


@lru_cache(maxsize=64)
def _decoding_bytes(
    config: tuple[Any, ...], dtype: torch.dtype, work: Work, tile: int | None
) -> int:
    return dry_run_decoding(dict(config), dtype, work, tile)
