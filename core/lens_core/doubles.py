"""Where float64 can be computed."""

import torch


def device_for_doubles(device: torch.device) -> torch.device:
    """The device itself, or the CPU for Apple's GPUs, which have no float64."""
    return torch.device("cpu") if device.type == "mps" else device
