"""Hashes that identify encoders and weights."""

import hashlib
import json

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

_MARKED = 64


def module_hash(module: nn.Module, *settings: object) -> str:
    """Return the SHA-256 of a module's class, tensors and further settings, in hexadecimal.

    Args:
        module: The module; its parameters and buffers may have any precision.
        *settings: Anything else that affects its output, as JSON values.
    """
    digest = hashlib.sha256(type(module).__name__.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_mark(module: nn.Module) -> str:
    """Return a hexadecimal mark that distinguishes weights of the same architecture.

    It is computed from the first values of every tensor, as bfloat16, so it is fast and the same in
    either precision.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        first = tensor.detach().reshape(-1)[:_MARKED].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(first.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a fast tokenizer's definition, in hexadecimal."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
