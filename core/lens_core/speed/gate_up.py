"""The two matrix products that an MLP begins with, as one.

The weights of `w1` and `w3` become two halves of one tensor, so that they take no more memory and
keep their names, and what is loaded into them or added to them is seen by both ways.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lens_core.blocks import SwiGLU, project_apart
from lens_core.speed.fp8 import fits, multiply, quantise_rows

_TOGETHER = "gate_up"
_CODES, _SCALES = "gate_up_codes", "gate_up_scales"


def project_together(mlp: SwiGLU, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `project_apart`, with one product; with adapters on the layers, with two."""
    if not _is_bare(mlp):
        return project_apart(mlp, x)
    gate, up = F.linear(x, mlp.gate_up).chunk(2, dim=-1)  # type: ignore[arg-type]
    return gate, up


def project_together_in_fp8(mlp: SwiGLU, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `project_apart`, with one 8-bit product; with adapters on the layers, with two as ever."""
    if not _is_bare(mlp):
        return project_apart(mlp, x)
    codes, scales = mlp.gate_up_codes, mlp.gate_up_scales
    gate, up = multiply(x, codes, scales, None).chunk(2, dim=-1)  # type: ignore[arg-type]
    return gate, up


@torch.inference_mode(False)
@torch.no_grad()
def tie(mlp: SwiGLU) -> None:
    """Make `w1` and `w3` halves of one tensor, if they are bare layers, and compute with it."""
    if not _is_bare(mlp):
        return
    weight = torch.cat((mlp.w1.weight.detach(), mlp.w3.weight.detach()))
    mlp.w1.weight.data, mlp.w3.weight.data = weight.chunk(2)
    mlp.register_buffer(_TOGETHER, weight, persistent=False)
    mlp.project = project_together


@torch.inference_mode(False)
@torch.no_grad()
def quantise_gate_up(mlp: SwiGLU) -> None:
    """Make the 8-bit form of both weights and compute with it.

    Only if they are bare layers whose sides suit the product.
    """
    if not _is_bare(mlp) or not fits(2 * mlp.w1.out_features, mlp.w1.in_features):
        return
    weight = torch.cat((mlp.w1.weight.detach(), mlp.w3.weight.detach()))
    codes, scales = quantise_rows(weight)
    mlp.register_buffer(_CODES, codes, persistent=False)
    mlp.register_buffer(_SCALES, scales, persistent=False)
    mlp.project = project_together_in_fp8


@torch.inference_mode(False)
@torch.no_grad()
def untie(mlp: SwiGLU) -> None:
    """Undo everything above; weights stay as they are, each in memory of its own."""
    mlp.project = project_apart
    if _TOGETHER in mlp._buffers:
        for layer in (mlp.w1, mlp.w3):
            weight = getattr(layer, "base_layer", layer).weight
            weight.data = weight.data.clone()
    for name in (_TOGETHER, _CODES, _SCALES):
        mlp._buffers.pop(name, None)
        mlp._non_persistent_buffers_set.discard(name)


def _is_bare(mlp: SwiGLU) -> bool:
    return type(mlp.w1) is nn.Linear and type(mlp.w3) is nn.Linear
