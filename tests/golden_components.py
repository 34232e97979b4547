"""The tiny components the golden data was computed with, laid out as a checkpoint folder."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def read_json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


@cache
def cases(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}_cases.safetensors")


def case(file: str, name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in cases(file).items() if k.startswith(prefix)}


def max_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.detach().double() - expected.double()).abs().max())


def embedding(rows: int, columns: int) -> Tensor:
    """The text encoder's embedding, given in `cases.json` as a formula."""
    i = torch.arange(1, rows + 1, dtype=torch.float64)[:, None]
    j = torch.arange(1, columns + 1, dtype=torch.float64)[None]
    return torch.sin(i * j * 0.7548776662466927).float()


def write_text_encoder(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = read_json("text_encoder_config/config.json")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(GOLDEN / "text_encoder.safetensors")
    tensors["model.embed_tokens.weight"] = embedding(config["vocab_size"], config["hidden_size"])
    # The final norm is not part of the golden data, as features do not pass through it.
    tensors.setdefault("model.norm.weight", torch.ones(config["hidden_size"]))
    save_file(tensors, folder / "model.safetensors")


def write_diffusers(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((GOLDEN / f"{name}_config.json").read_text())
    shutil.copy(GOLDEN / f"{name}.safetensors", folder / "diffusion_pytorch_model.safetensors")


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint folder as published: foreign class names in the index, no tokenizer."""
    write_diffusers(folder / "transformer", "transformer")
    write_diffusers(folder / "vae", "vae")
    write_text_encoder(folder / "text_encoder")
    index = {
        "_class_name": "LensPipeline",
        "_diffusers_version": "0.37.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "LensGptOssEncoder"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "LensTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
