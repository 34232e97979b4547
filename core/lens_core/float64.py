"""Finding a device that computes in float64."""

import torch


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU for Apple's GPUs and Intel's, most of which have no float64."""
    return torch.device("cpu") if device.type in {"mps", "xpu"} else device
