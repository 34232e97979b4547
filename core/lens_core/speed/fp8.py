"""Matrix products in 8 bits: codes in float8 (E4M3) with a scale for every row.

A layer's weights have a scale for each output channel, made once; what comes in gets one for each
token, made anew at every call. Products are summed in float32 and come out in bfloat16.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lens_core.errors import ComponentError

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
OLDEST_CAPABILITY = (8, 9)
"""Ada; matrix units before it know no 8-bit floats."""
GRANULE = 16
"""Sides of a matrix must be multiples of this."""

_TINY = 1e-12


def fp8_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why 8-bit products cannot be computed on a device in a precision; None if they can."""
    if dtype != torch.bfloat16:
        return f"the denoiser is in {dtype}, and results come in bfloat16; load it in bfloat16"
    if device.type not in {"cpu", "cuda", "meta"}:
        return f"torch has no such product on {device.type!r}"
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < OLDEST_CAPABILITY:
            name = torch.cuda.get_device_name(device)
            return (
                f"{name} has compute capability {found[0]}.{found[1]}, and 8-bit floats need "
                f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} or newer"
            )
    return _failure(device)


def require_fp8(device: torch.device, dtype: torch.dtype) -> None:
    """Check that 8-bit products can be computed.

    Raises:
        ComponentError: They cannot; says why and what to use instead.
    """
    if (problem := fp8_problem(device, dtype)) is not None:
        raise ComponentError(f"fp8 cannot be used: {problem}. The plan 'fast' needs none of this")


@cache
def _failure(device: torch.device) -> str | None:
    """What goes wrong with a small product; None if it is right."""
    if device.type == "meta":
        return None
    left, right = (torch.ones(GRANULE, GRANULE, device=device, dtype=torch.bfloat16) * 3,) * 2
    try:
        found = multiply(left, *quantise_rows(right), None)
    except RuntimeError as error:
        return f"torch {torch.__version__} refuses the product: {str(error).splitlines()[0]}"
    expected = 9.0 * GRANULE
    return None if bool((found == expected).all()) else "the product of a test comes out wrong"


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round every row to 8 bits, its largest value to the format's largest.

    Args:
        x: `[rows, columns]`. NaN and infinity make their whole row NaN.

    Returns:
        Codes as float8 `[rows, columns]` and float32 scales `[rows, 1]`; their product is close to
        `x`.
    """
    exact = x.float()
    scales = exact.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / LARGEST
    return (exact / scales).clamp(-LARGEST, LARGEST).to(E4M3), scales


def multiply(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ (codes * scales).T + bias`, `x` being rounded to 8 bits too.

    Args:
        x: bfloat16 `[..., inputs]`.
        codes: float8 `[outputs, inputs]`.
        scales: float32 `[outputs, 1]`.
        bias: bfloat16 `[outputs]`, or None.

    Returns:
        bfloat16 `[..., outputs]`.
    """
    rows, row_scales = quantise_rows(x.reshape(-1, x.shape[-1]))
    out = scaled_product(rows, row_scales, codes, scales, bias, x.dtype)
    return out.view(*x.shape[:-1], -1)


def scaled_product(
    left: Tensor,
    left_scales: Tensor,
    right: Tensor,
    right_scales: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`(left * left_scales) @ (right * right_scales).T + bias`, all scales `[rows, 1]`."""
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_scales,
        scale_b=right_scales.t(),
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )


def fits(outputs: int, inputs: int) -> bool:
    """Whether both sides of a weight are multiples of 16, as the product needs."""
    return outputs % GRANULE == 0 and inputs % GRANULE == 0


class Fp8Linear(nn.Linear):
    """Stands in the place of a linear layer, whose weights it keeps beside their 8-bit form.

    Names in the state dict stay, so that saving, LoRAs and loading work as ever.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, source: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(source.in_features, source.out_features, source.bias is not None)
        self.weight, self.bias = source.weight, source.bias
        self.train(source.training)
        self.quantise()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., inputs]` to `[..., outputs]` in bfloat16; there is no gradient."""
        return multiply(x, self.codes, self.scales, self.bias)

    @torch.inference_mode(False)
    @torch.no_grad()
    def quantise(self) -> None:
        """Make the 8-bit form of the weights as they are now.

        To be done again after a change of the model's precision, which casts codes as well.
        """
        codes, scales = quantise_rows(self.weight.detach())
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain layers; `PreparedWeights` makes their 8-bit form."""
        return _itself, (self.plain(),)

    def plain(self) -> nn.Linear:
        """The layer without 8 bits, of the same parameters."""
        with torch.device("meta"):
            found = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        found.weight, found.bias = self.weight, self.bias
        return found.train(self.training)


def _itself(layer: nn.Linear) -> nn.Linear:
    """What a pickle calls to have a layer of another class than it was made from."""
    return layer
