"""The training data of a run, encoded by the frozen encoders or read from complete caches."""

import gc
import json
from pathlib import Path
from typing import Any

import torch

from lens_core.chat import DEFAULT_DATE, MAX_SEQUENCE_LENGTH
from lens_core.data.caches import TensorCache
from lens_core.data.digests import listing_hash
from lens_core.data.encoding import BatchEncoder, fill_caches
from lens_core.data.frozen import FrozenParts
from lens_core.errors import ComponentError
from lens_core.memory.placements import Placements
from lens_core.memory.plan import MemoryPlan
from lens_core.training.batches import Batch
from lens_core.training.devices import place
from lens_core.training.engine import Monitoring
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.pictures import Pictures
from lens_core.training.lora.samples import sample_sheet
from lens_core.training.mixed.source import held_out_batches
from lens_core.training.workers import Workers

RECORD = "encoders.json"
"""In the folder of the caches: which files the encoders came from, and their hashes."""


def encoded(
    config: LoraTrainingConfig,
    start: Path,
    data: Pictures,
    cache: Path,
    plan: MemoryPlan,
    workers: Workers,
) -> tuple[BatchEncoder, Monitoring]:
    """Caches that hold every picture and caption, and the run's validation and samples.

    The encoders are loaded where something is not cached yet, or sample pictures are to be drawn.
    Their memory is free again, but for the autoencoder in the host's where it draws.
    """
    known = None if config.sample_every else _known(config, start, cache)
    found = None if known is None else _cached(config, data, known, workers)
    if known is None or found is None:
        known, monitoring = _with_encoders(config, start, data, cache, plan, workers)
    else:
        monitoring = Monitoring(found)
    workers.gather(cache.name)
    return known, monitoring


def _cached(
    config: LoraTrainingConfig, data: Pictures, known: BatchEncoder, workers: Workers
) -> list[Batch] | None:
    """The held-out batches from the caches, or None where these lack something."""
    try:
        fill_caches(data.shards, known, share=(workers.rank, workers.count))
        return _held_out(config, data, known)
    except ComponentError:
        return None


def _with_encoders(
    config: LoraTrainingConfig,
    start: Path,
    data: Pictures,
    cache: Path,
    plan: MemoryPlan,
    workers: Workers,
) -> tuple[BatchEncoder, Monitoring]:
    device = place(config.device)
    parts = FrozenParts.load(start, "cpu", config.encoder_precision)
    places = Placements(device)
    places.place(
        {"text_encoder": (parts.text_encoder, plan.text_encoder), "vae": (parts.vae, plan.vae)}
    )
    encoder = parts.encoder(parts.layers(), cache, cache, config.text_multiple)
    fill_caches(data.shards, encoder, share=(workers.rank, workers.count))
    held_out, draw = _held_out(config, data, encoder), None
    if config.sample_every and encoder.captions is not None:
        draw = sample_sheet(config, parts, encoder.captions, data.shards, plan, device)
    if workers.leads:
        _note(config, start, cache, encoder)
    kept = encoder.without_encoders()
    places.clear()
    parts.vae.to("cpu")
    del parts, places, encoder
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return kept, Monitoring(held_out, draw)


def _held_out(config: LoraTrainingConfig, data: Pictures, encoder: BatchEncoder) -> list[Batch]:
    if not config.validate_every or data.held_out is None:
        return []
    return held_out_batches(data.held_out, encoder, config, config.validation_pictures)


def _known(config: LoraTrainingConfig, start: Path, cache: Path) -> BatchEncoder | None:
    """The caches of the encoders as they were when last loaded; None if they may be others."""
    try:
        record = json.loads((cache / RECORD).read_text(encoding="utf-8"))
        if record["made"] != _made(config, start):
            return None
        latents = TensorCache(cache, "latents", record["latents"])
        text = TensorCache(cache, "text", record["text"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return BatchEncoder(None, None, latents, text, config.text_multiple)


def _note(config: LoraTrainingConfig, start: Path, cache: Path, encoder: BatchEncoder) -> None:
    assert encoder.images is not None
    assert encoder.captions is not None
    record = {
        "made": _made(config, start),
        "latents": encoder.images.fingerprint,
        "text": encoder.captions.fingerprint,
    }
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f"{RECORD}.part"
    unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(cache / RECORD)


def _made(config: LoraTrainingConfig, start: Path) -> dict[str, Any]:
    """What determines the encoders' outputs, as far as can be told without loading them."""
    folders = [start / part for part in ("vae", "text_encoder", "tokenizer")]
    return {
        "files": [listing_hash(folder) for folder in folders],
        "precision": config.encoder_precision,
        "layers": list(config.model["selected_layer_index"]),
        "longest": MAX_SEQUENCE_LENGTH,
        "date": DEFAULT_DATE,
    }
