"""Where a training process computes."""

import os

import torch

from lens_core.errors import ParameterError


def place(device: str) -> torch.device:
    """The device a config names; `cuda` is the one of the process's local rank.

    Raises:
        ParameterError: Another name, or no such device here.
    """
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda" or not torch.cuda.is_available():
        raise ParameterError(f"device {device!r} is not available; choose cpu, or cuda with a GPU")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(chosen)
    return chosen
