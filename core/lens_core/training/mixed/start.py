"""What a stage starts from: weights of a finished denoiser, and the frozen parts around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lens_core.checkpoint_files import read_config
from lens_core.checkpoints.sources import PRESETS
from lens_core.errors import ComponentError
from lens_core.loading import load_transformer
from lens_core.packaged import model_folder
from lens_core.training.denoiser import DenoiserTraining


def pipeline_folder(stage: str, given: str | None, usual: Path) -> Path:
    """The pipeline folder that a stage starts from.

    Raises:
        ComponentError: It holds no pipeline.
    """
    folder = usual if given is None else model_folder(given)
    if given in PRESETS and not folder.is_dir():
        raise ComponentError(
            f"{given!r} is a published model, and {stage} starts from a folder with transformer/, "
            "text_encoder/ and vae/: lens pull says where its files are, lens convert writes such "
            "a folder, and --set start=FOLDER names it"
        )
    if not (folder / "transformer").is_dir():
        raise ComponentError(
            f"{folder} holds no pipeline for {stage} to start from: run the stage before it with "
            "the same --out, or name a pipeline folder with --set start=FOLDER"
        )
    return folder


def parts_folder(stage: str, given: str | None, usual: Path) -> Path:
    """The folder of the frozen parts of a model with fresh weights.

    Raises:
        ComponentError: It lacks the autoencoder or the text encoder.
    """
    folder = usual if given is None else model_folder(given)
    for part in ("vae", "text_encoder"):
        if not (folder / part).is_dir():
            raise ComponentError(
                f"{folder / part} is missing, and {stage} needs it: name a folder that holds vae/, "
                "text_encoder/ and tokenizer/ with --set start=FOLDER"
            )
    return folder


def model_arguments(folder: Path) -> dict[str, Any]:
    """Arguments of `LensTransformer2DModel` that a pipeline's denoiser was made with."""
    config = read_config(folder / "transformer")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def start_from(training: DenoiserTraining, folder: Path) -> None:
    """Let weights and average start from a pipeline's denoiser."""
    fill_weights(training, load_transformer(folder / "transformer").state_dict())


@torch.no_grad()
def fill_weights(training: DenoiserTraining, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole weights into masters and average, sharded or not.

    Args:
        training: Its network gets them too.
        tensors: By the denoiser's own names, the same in every process.
    """
    for held in (training.weights.masters, training.average):
        for name, tensor in tensors.items():
            target = held[f"model.{name}"]
            target.detach().copy_(_like(tensor, target))
    training.weights.refresh()


def _like(tensor: Tensor, target: Tensor) -> Tensor:
    moved = tensor.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        return distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)
    return moved
