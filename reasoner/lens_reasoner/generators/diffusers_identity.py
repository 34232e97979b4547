"""A short hash that identifies a pipeline and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lens_reasoner.generators.diffusers_presets import DiffusersPreset

SAMPLED = 16
"""Values hashed per weight; hashing all would take minutes for large models."""


def pipeline_hash(pipeline: Any, preset: DiffusersPreset) -> str:
    """Hash the classes, configurations, precision, preset and some values of every weight."""
    digest = hashlib.sha256(f"{type(pipeline).__name__} {preset} {version('diffusers')}".encode())
    digest.update(_json(dict(pipeline.config)))
    for name, part in sorted(pipeline.components.items()):
        digest.update(f"{name} {type(part).__name__}".encode())
        config: Any = getattr(part, "config", None)
        digest.update(_json(config.to_dict() if hasattr(config, "to_dict") else config))
        if hasattr(part, "named_parameters"):
            for key, weight in part.named_parameters():
                digest.update(f"{key} {tuple(weight.shape)} {weight.dtype}".encode())
                # Weights that are only swapped in for a step have no values in between.
                if not weight.is_meta:
                    digest.update(str(weight.detach().flatten()[:SAMPLED].tolist()).encode())
    return digest.hexdigest()[:16]


def _json(config: object) -> bytes:
    # Private entries tell where a model came from, not what it is.
    known = dict(config) if isinstance(config, Mapping) else {}
    public = {key: value for key, value in known.items() if not key.startswith("_")}
    return json.dumps(public, sort_keys=True, default=str).encode()
