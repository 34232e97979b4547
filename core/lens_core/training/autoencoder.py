"""Training of the nano VAE: diffusers' `AutoencoderKLFlux2` on drawn scenes.

First random crops, whose convolutions cost a quarter, then whole pictures. The loss is the squared
error and a small KL term; later also L1 on pixels and on their differences, which sharpens edges
but stalls the beginning. At the end the BatchNorm statistics that normalise image tokens are
measured.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from lens_core.latents import pack_tokens
from lens_core.nano.drawing import render
from lens_core.nano.sampling import sample_scene
from lens_core.training.config import NANO_SIZES, AutoencoderConfig
from lens_core.training.journal import Journal
from lens_core.training.optim import rate_factor, set_rates
from lens_core.training.state import resume_component, save_component


def train_autoencoder(config: AutoencoderConfig, out: Path, components: Path) -> None:
    """Train, or resume in `out`, and leave the finished VAE in `components/vae`.

    Args:
        config: Settings; the same ones must be given again to resume.
        out: Run folder, for `log.jsonl` and `state/`.
        components: Where the finished VAE goes.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    vae = AutoencoderKLFlux2(**config.model).to(memory_format=torch.channels_last)
    initialise(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    optimizer.param_groups[0]["peak"] = config.learning_rate
    first = resume_component(out / "state", "vae", vae, optimizer)
    journal = Journal.of_stage(out, config, first)
    pictures = PicturePool(config.seed, config.pool)
    for step in range(first, config.steps):
        set_rates([optimizer], rate_factor(step, config))
        whole = step >= config.steps - config.full_steps
        batch = pictures.batch(
            step,
            max(1, config.batch_size // 3) if whole else config.batch_size,
            None if whole else config.crop,
        )
        with torch.autocast("cpu", torch.bfloat16):
            losses = _losses(vae, batch)
        sharpen = config.sharpen_weight if step >= config.sharpen_from else 0.0
        loss = losses["mse"] + config.kl_weight * losses["kl"]
        loss = loss + sharpen * (losses["l1"] + losses["edge"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % config.log_every == 0:
            journal.report(step + 1, **{name: value.item() for name, value in losses.items()})
        if (step + 1) % config.save_every == 0:
            save_component(out / "state", "vae", vae, optimizer, step + 1)
    measure_statistics(vae, pictures)
    vae.save_pretrained(components / "vae")
    journal.close()


class PicturePool:
    """Rendered training pictures, a slowly renewed pool so that drawing costs little.

    The pictures of a step depend on the seed and the step alone.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._seed = seed
        self._size = size
        self._round = -1
        self._pool: list[list[Tensor]] = []

    def batch(self, step: int, size: int, crop: int | None) -> Tensor:
        """`[size, 3, H, W]` pixels in [-1, 1]: crops, or whole pictures of one shape."""
        if step // 150 != self._round:
            self._round = step // 150
            self._pool = self._draw(self._round)
        rng = np.random.default_rng((self._seed, 1, step))
        if crop is None:
            group = self._pool[int(rng.integers(len(self._pool)))]
            return _stack([group[i] for i in rng.integers(len(group), size=size)])
        flat = [picture for group in self._pool for picture in group]
        chosen = [flat[i] for i in rng.integers(len(flat), size=size)]
        return _stack([_crop(picture, crop, rng) for picture in chosen])

    def _draw(self, index: int) -> list[list[Tensor]]:
        rng = np.random.default_rng((self._seed, 0, index))
        count = self._size // len(NANO_SIZES)
        return [
            [
                torch.from_numpy(np.array(render(sample_scene(rng, size=(width, height)))))
                for _ in range(count)
            ]
            for height, width in NANO_SIZES
        ]


def _crop(picture: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    top = int(rng.integers(picture.shape[0] - side + 1))
    left = int(rng.integers(picture.shape[1] - side + 1))
    return picture[top : top + side, left : left + side]


def _stack(pictures: list[Tensor]) -> Tensor:
    pixels = torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def _losses(vae: AutoencoderKLFlux2, pixels: Tensor) -> dict[str, Tensor]:
    posterior = vae.encode(pixels).latent_dist
    difference = vae.decode(posterior.sample()).sample.float() - pixels
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
    edge = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return {
        "mse": difference.square().mean(),
        "l1": difference.abs().mean(),
        "edge": edge,
        "kl": kl,
    }


@torch.no_grad()
def initialise(vae: AutoencoderKLFlux2) -> None:
    """Start near the identity, which a deep autoencoder needs to learn within minutes.

    Resampling convolutions copy their channels, residual branches begin at zero, and the posterior
    is narrow.
    """
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight.zero_()
            module.bias.zero_()
        elif isinstance(module, torch.nn.Conv2d) and name.endswith(("samplers.0.conv", "shortcut")):
            torch.nn.init.dirac_(module.weight)
            module.weight.add_(torch.randn_like(module.weight), alpha=0.02)
    latents = vae.config.latent_channels
    vae.quant_conv.weight[latents:].mul_(0.1)
    vae.quant_conv.bias[latents:] = -6.0


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLFlux2, pictures: PicturePool, batches: int = 30) -> None:
    """Set the BatchNorm statistics to mean and variance of patchified latent means."""
    tokens = []
    for index in range(batches):
        mean = vae.encode(pictures.batch(index, 32, None)).latent_dist.mean
        tokens.append(pack_tokens(mean).flatten(0, 1))
    rows = torch.cat(tokens)
    vae.bn.running_mean.copy_(rows.mean(0))
    vae.bn.running_var.copy_(rows.var(0))
