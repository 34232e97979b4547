"""Muon for sharded matrices: every process orthogonalises its share of whole matrices.

Newton-Schulz needs a matrix whole. `torch.optim.Muon` on `DTensor`s would gather each matrix in
every process and do the same work everywhere; here matrices are dealt to the processes that share
them, sent in one exchange (bfloat16, as Newton-Schulz computes), orthogonalised once, sent back.
"""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class ShardedMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, for matrices split by rows.

    Its state has the same names. Steps agree with the whole optimiser's to the bit if gradients do.

    Args:
        parameters: Matrices as `DTensor`s on one mesh, whose last dimension splits their rows.
        lr: Learning rate.
        weight_decay: Decoupled.
        momentum: Of the (Nesterov) gradient average.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; all processes must have the same ones."""
        for group in self.param_groups:
            active = [cast(DTensor, p) for p in group["params"] if p.grad is not None]
            if not active:
                continue
            exchange = active[0].device_mesh.get_group(active[0].device_mesh.ndim - 1)
            members = dist.get_world_size(exchange)
            for start in range(0, len(active), members):
                self._update(active[start : start + members], group, exchange)

    def _update(
        self, matrices: list[DTensor], group: dict[str, Any], exchange: dist.ProcessGroup
    ) -> None:
        """Update at most as many matrices as there are processes, one for each to orthogonalise."""
        directions = [self._direction(matrix, group["momentum"]) for matrix in matrices]
        me, members = dist.get_rank(exchange), dist.get_world_size(exchange)
        sizes = [_part_sizes(matrix, members) for matrix in matrices]
        mine = sizes[me] if me < len(matrices) else [0] * members
        sent = [sizes[j][me] if j < len(matrices) else 0 for j in range(members)]
        send = torch.cat([direction.flatten() for direction in directions])
        received = send.new_empty(sum(mine))
        dist.all_to_all_single(received, send, mine, sent, group=exchange)
        if me < len(matrices):
            received = orthogonalised(received.view(matrices[me].shape)).reshape(-1)
        dist.all_to_all_single(send, received.contiguous(), sent, mine, group=exchange)
        rate, decay = group["lr"], group["weight_decay"]
        for matrix, update in zip(matrices, torch.split(send, sent[: len(matrices)]), strict=True):
            part = matrix.to_local()
            part.mul_(1 - rate * decay)
            part.add_(update.view(part.shape), alpha=-rate * _scale(matrix))

    def _direction(self, matrix: DTensor, momentum: float) -> Tensor:
        """This process's rows of the Nesterov gradient average, in bfloat16."""
        gradient = cast(DTensor, matrix.grad).to_local()
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(cast(DTensor, matrix.grad))
        average = state["momentum_buffer"].to_local()
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum).bfloat16()


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with singular values near 1, by five quintic Newton-Schulz iterations.

    Source: kellerjordan.github.io/posts/muon, as in `torch.optim.Muon`, bit for bit.

    Args:
        matrix: bfloat16; changed in place.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x.div_(x.norm().clamp(min=1e-7))
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _part_sizes(matrix: DTensor, members: int) -> list[int]:
    """Elements of a matrix that each process holds: rows in chunks, the last ones shorter."""
    placement = matrix.placements[-1]
    if not (isinstance(placement, Shard) and placement.dim == 0):
        raise ValueError(f"Muon takes matrices split by rows, not {matrix.placements}")
    rows, columns = matrix.shape
    chunk = -(-rows // members)
    return [max(0, min(chunk, rows - rank * chunk)) * columns for rank in range(members)]


def _scale(matrix: Tensor) -> float:
    """Makes an update about as large as AdamW's (arXiv 2502.16982)."""
    return 0.2 * math.sqrt(max(matrix.shape))
