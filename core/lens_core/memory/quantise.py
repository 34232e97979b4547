"""Rounding the denoiser's large matrices to 8 bits with torchao; activations stay as they are.

Only weights are rounded: 8-bit activations fail on Lens, whose text stream reaches 10,000. Nor are
modulations, norms, embedders and the last layers, where rounding leaves a grid in the picture.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch import nn

from lens_core.errors import ComponentError, ParameterError
from lens_core.memory.plan import WeightForm
from lens_core.memory.tensors import parts_of

_LARGE = re.compile(r"(.*\.)?(attn\.(img_qkv|txt_qkv|to_out\.0|to_add_out)|(img|txt)_mlp\.w[123])")


def quantised_layers(block: nn.Module) -> Iterator[nn.Linear]:
    """The layers of a denoiser, or of a block of it, whose weights are rounded."""
    for name, layer in block.named_modules():
        if _LARGE.fullmatch(name) and isinstance(layer, nn.Linear):
            yield layer


def is_quantised(component: nn.Module) -> bool:
    """Whether any weight is made of codes and scales."""
    return any(len(list(parts_of(weight))) > 1 for weight in component.parameters())


def require_torchao(form: WeightForm) -> None:
    """See that weights can be rounded to a form here.

    Raises:
        ComponentError: torchao is needed and not installed.
    """
    if form != "full" and find_spec("torchao") is None:
        raise ComponentError(
            f"transformer_weights={form!r} needs torchao: pip install 'lens-sdk[quantised]', or "
            "choose a plan that rounds nothing"
        )


def quantise(transformer: nn.Module, form: WeightForm) -> None:
    """Round the large matrices of a denoiser in place.

    Args:
        transformer: In bfloat16 or float32.
        form: `fp8` (E4M3) or `int8`, both with a scale for each row; `full` leaves it alone.

    Raises:
        ComponentError: torchao is not installed.
        ParameterError: The weights are rounded already.
    """
    if form == "full":
        return
    if is_quantised(transformer):
        raise ParameterError(
            f"transformer_weights={form!r}: the weights are in 8 bits already; load them again"
        )
    require_torchao(form)
    from torchao.quantization import quantize_

    chosen = {id(layer) for layer in quantised_layers(transformer)}
    quantize_(transformer, _config(form), filter_fn=lambda layer, _name: id(layer) in chosen)


def _config(form: WeightForm) -> object:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    # torchao would otherwise change the compiler's settings for the whole process.
    if form == "fp8":
        return Float8WeightOnlyConfig(weight_dtype=torch.float8_e4m3fn, set_inductor_config=False)
    return Int8WeightOnlyConfig(set_inductor_config=False)
