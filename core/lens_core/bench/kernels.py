"""Which attention kernels actually run, and the speed of each in isolation."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch._C._autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from lens_core.bench.timing import Timing, Work, measure
from lens_core.errors import ParameterError
from lens_core.speed.fp8 import quantise_rows, require_fp8, scaled_product

BACKENDS: Mapping[str, SDPBackend] = MappingProxyType(
    {
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
)
"""Attention backends of torch; its own choice is called `torch`."""

_ON_DEVICE = re.compile(r"attention|attn|fmha|flash|sdpa", re.IGNORECASE)
_ON_HOST = re.compile(r"^aten::_scaled_dot_product\w+|^aten::_flash_attention\w*")


def attention_kernels(work: Work, device: torch.device) -> tuple[str, ...]:
    """Return the names of the attention kernels `work` launches; on a CPU, torch's operators."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as trace:
        work()
    pattern = _ON_DEVICE if on_cuda else _ON_HOST
    wanted = DeviceType.CUDA if on_cuda else DeviceType.CPU
    names = {event.name for event in trace.events() or [] if event.device_type == wanted}
    return tuple(sorted(name[:120] for name in names if pattern.search(name)))


def time_attention(
    backend: str,
    shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    warmup: int,
    repeats: int,
) -> Timing:
    """Time one joint attention as the denoiser calls it, without a mask.

    Args:
        backend: `torch` for its own choice, or a name in `BACKENDS`.
        shape: (batch, tokens, heads, head_dim).
        device: Where to compute.
        dtype: Dtype of queries, keys and values.
        warmup: Number of unmeasured calls.
        repeats: Number of measured calls.

    Raises:
        ParameterError: The backend does not support this call on this device.
    """
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(3)
    )

    def chosen() -> object:
        return F.scaled_dot_product_attention(query, key, value)

    def forced() -> object:
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(query, key, value)

    work = chosen if backend == "torch" else forced
    try:
        return measure(work, device, warmup, repeats)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"attention {backend!r} cannot run here: {reason}") from error


def time_ceiling(
    side: int, device: torch.device, dtype: torch.dtype, warmup: int, repeats: int
) -> Timing:
    """Time a product of square random matrices; zeros would be faster than real work."""
    torch.manual_seed(0)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return measure(lambda: left @ right, device, warmup, repeats)


def time_fp8_ceiling(side: int, device: torch.device, warmup: int, repeats: int) -> Timing:
    """Like `time_ceiling`, for two matrices already in 8 bits, with a scale for each row.

    Raises:
        ComponentError: The device does not support this product.
    """
    require_fp8(device, torch.bfloat16)
    torch.manual_seed(0)
    pairs = [quantise_rows(torch.randn(side, side, device=device)) for _ in range(2)]
    (left, left_scales), (right, right_scales) = pairs
    return measure(
        lambda: scaled_product(left, left_scales, right, right_scales, None, torch.bfloat16),
        device,
        warmup,
        repeats,
    )
