"""Hashes of frozen encoders, so that what they computed is never taken for another's."""

import hashlib
import json

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


def module_hash(module: nn.Module, *settings: object) -> str:
    """SHA-256 over a module's class, tensors and further settings, in hexadecimal.

    Args:
        module: Its parameters and buffers are read, in any precision.
        *settings: Anything else that decides its output, as JSON values.
    """
    digest = hashlib.sha256(type(module).__name__.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over a fast tokenizer's definition, in hexadecimal."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def text_hash(text: str) -> str:
    """SHA-256 of a caption, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
