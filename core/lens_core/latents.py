"""Between pixels, VAE latents and the tokens the denoiser works on.

Tokens are the latents' 2x2 patches, channels in the order (latent channel, row, column), rows of
the picture first. They are normalised with the running statistics of the VAE's own BatchNorm.
"""

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from lens_core.errors import ParameterError


def pack_tokens(grid: Tensor, patch: int = 2) -> Tensor:
    """Fold latents `[B, C, H, W]` into tokens `[B, (H / patch) * (W / patch), C * patch ** 2]`."""
    batch, channels, height, width = grid.shape
    if height % patch or width % patch:
        raise ParameterError(
            f"latents of {height}x{width} cannot be cut in {patch}x{patch} patches"
        )
    patches = grid.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_tokens(tokens: Tensor, height: int, width: int, patch: int = 2) -> Tensor:
    """Unfold tokens `[B, height * width, C * patch ** 2]` into `[B, C, height * p, width * p]`.

    `height` and `width` count tokens.

    Raises:
        ParameterError: There are more or fewer.
    """
    check_grid(tokens, height, width)
    patches = tokens.reshape(len(tokens), height, width, -1, patch, patch)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def check_grid(tokens: Tensor, height: int, width: int) -> None:
    """Refuse tokens `[B, count, C]` that are not `height * width`.

    Raises:
        ParameterError: Says how many there are.
    """
    if (count := tokens.shape[1]) != height * width:
        raise ParameterError(f"{count} tokens do not make a grid of {height}x{width}")


def token_statistics(
    vae: AutoencoderKLFlux2, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each token channel, `sqrt(running_var + batch_norm_eps)`."""
    mean = vae.bn.running_mean.to(device, dtype)
    variance = vae.bn.running_var.to(device, dtype)
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def normalise(tokens: Tensor, vae: AutoencoderKLFlux2) -> Tensor:
    """Scale tokens to what the denoiser models, in the tokens' own precision."""
    mean, deviation = token_statistics(vae, tokens.device, tokens.dtype)
    return (tokens - mean) / deviation


def denormalise(tokens: Tensor, vae: AutoencoderKLFlux2) -> Tensor:
    """Undo `normalise`."""
    mean, deviation = token_statistics(vae, tokens.device, tokens.dtype)
    return tokens * deviation + mean


def decode_tokens(tokens: Tensor, vae: AutoencoderKLFlux2, height: int, width: int) -> Tensor:
    """Pixels of normalised tokens.

    Args:
        tokens: `[B, height * width, channels]`.
        vae: The autoencoder; it runs in its own dtype.
        height: Tokens, not pixels.
        width: Tokens, not pixels.

    Returns:
        Float32 `[B, 3, pixels, pixels]`, about -1 to 1, not clamped.
    """
    patch = vae.config.patch_size[0]
    grid = unpack_tokens(denormalise(tokens, vae), height, width, patch)
    pixels: Tensor = vae.decode(grid.to(vae.dtype), return_dict=False)[0]
    return pixels.float()


def encode_pixels(
    pixels: Tensor, vae: AutoencoderKLFlux2, device: torch.device | None = None
) -> Tensor:
    """Normalised float32 tokens of pixels `[B, 3, H, W]` in [-1, 1]: the posterior's mode.

    Args:
        pixels: The pictures.
        vae: The autoencoder; it runs in its own dtype.
        device: Where to compute, if the autoencoder is only brought there for the call.
    """
    posterior = vae.encode(pixels.to(device or vae.device, vae.dtype)).latent_dist
    return normalise(pack_tokens(posterior.mode().float(), vae.config.patch_size[0]), vae)
