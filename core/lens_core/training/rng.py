"""States of every global random generator, as JSON.

The stages' own chances are functions of seed and step; these are for whatever else a run calls:
rewards, loaders, layers of other libraries.
"""

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generator_states() -> dict[str, Any]:
    """States of Python's, NumPy's, torch's and this process's GPU's generators."""
    version, words, gauss = random.getstate()
    numbers: dict[str, Any] = dict(np.random.get_state(legacy=False))
    key = numbers["state"]["key"]
    states = {
        "python": [version, list(words), gauss],
        "numpy": {
            **numbers,
            "state": {"key": _text(torch.from_numpy(key)), "pos": int(numbers["state"]["pos"])},
        },
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = _text(torch.cuda.get_rng_state())
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Undo `generator_states`; generators that were not saved stay as they are."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numbers = states["numpy"]
    key = np.frombuffer(_bytes(numbers["state"]["key"]), dtype=np.uint32)
    np.random.set_state({**numbers, "state": {**numbers["state"], "key": key.copy()}})
    torch.set_rng_state(_tensor(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(states["cuda"]))


def _text(tensor: Tensor) -> str:
    return base64.b64encode(tensor.numpy().tobytes()).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(_bytes(text)), dtype=torch.uint8)
