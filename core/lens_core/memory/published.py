"""The published Lens without its weights, to count what they take."""

from functools import cache

import torch
from diffusers import AutoencoderKLFlux2

from lens_core.checkpoints.configs import released_encoder_config
from lens_core.memory.predict import Model
from lens_core.memory.tensors import cast_parameters
from lens_core.packed_experts import Mxfp4Packing
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel


@cache
def published_model(dtype: torch.dtype = torch.bfloat16) -> Model:
    """Lens, Lens-Base and Lens-Turbo alike, on the meta device.

    The text encoder is GPT-OSS-20B with its head, its experts packed as MXFP4.

    Args:
        dtype: Of everything that is not packed.
    """
    config = released_encoder_config()
    packings = [(Mxfp4Packing(), Mxfp4Packing())] * config.num_hidden_layers
    with torch.device("meta"):
        transformer = LensTransformer2DModel()
        encoder = LensTextEncoder(config, True, packings)
        vae = AutoencoderKLFlux2()
    for component in (transformer, encoder, vae):
        cast_parameters(component, dtype)
    return Model(transformer, encoder, vae)
