"""Pre-training of the denoiser by flow matching: the first form of the recipe's first stage.

Data and encoders are frozen and cached in shards. Every step is a function of the seed and its
number, so a run that is killed goes on exactly where it was saved.
"""

from pathlib import Path

import torch
import torch._dynamo
import torch._inductor.config
from diffusers.models.attention_dispatch import attention_backend
from torch import Generator, Tensor

from lens_core.errors import NonFiniteError
from lens_core.loading import LensDefaults, load_tokenizer, load_vae
from lens_core.pipeline import LensPipeline
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import LensTextEncoder
from lens_core.training.batches import Batch, batches, shard_path
from lens_core.training.config import PretrainConfig
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.grids import save_grid
from lens_core.training.journal import Journal
from lens_core.training.objective import noised, recipe_mean, sample_timesteps
from lens_core.training.shards import ShardBuilder
from lens_core.training.state import load_state, save_state
from lens_core.training.workers import Workers

_TOLERATED_SKIPS = 20


def build_shards(config: PretrainConfig, out: Path) -> None:
    """Encode the training scenes into `out/shards`; shards already there are kept.

    May run beside `pretrain`, which waits for the shards it needs.

    Args:
        config: The run's settings.
        out: Folder of the whole training, with `components/`.
    """
    components = out / "components"
    torch.set_num_threads(config.threads)
    builder = ShardBuilder(
        load_vae(components / "vae"),
        LensTextEncoder.from_pretrained(components / "text_encoder"),
        load_tokenizer(components / "tokenizer"),
        tuple(config.model["selected_layer_index"]),
        config.seed,
        config.shard_scenes,
    )
    journal = Journal(out / "shards", config.shards)
    for index in range(config.shards):
        path = shard_path(out / "shards", index)
        if not path.is_file():
            builder.build(index, path)
        journal.report(index + 1, shards=index + 1)
    journal.close()


def pretrain(config: PretrainConfig, out: Path) -> None:
    """Train, or resume, and leave the finished checkpoint in `out/pretrain/pipeline`.

    Args:
        config: Settings; the same ones must be given again to resume.
        out: Folder of the whole training, with `components/` and `shards/`; `pretrain/` is this
            stage's own, for `state/`, `log.jsonl` and `samples/`.

    Raises:
        NonFiniteError: Gradients stayed NaN or infinite for many steps.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    training = DenoiserTraining.create(config)
    components, shards, out = out / "components", out / "shards", out / "pretrain"
    first, skipped = _resume(out / "state", training)
    if config.compile:
        _compile_blocks(training.model)
    journal = Journal(out, config.steps, first)
    bins = TimestepBins()
    data = batches(config, shards, first, workers)
    for step in range(first, config.steps):
        batch = next(data)
        losses, timesteps, align = _forward(training, batch, step * workers.count + workers.rank)
        loss = losses.mean() + config.align_weight * align
        loss.backward()  # type: ignore[no-untyped-call]
        norm, finite = training.update(step, workers)
        skipped += not finite
        if skipped > _TOLERATED_SKIPS:
            raise NonFiniteError(f"{skipped} steps had gradients that are not finite; last: {step}")
        bins.add(losses.detach(), timesteps)
        done = step + 1
        if not workers.leads:
            continue
        if done % config.log_every == 0:
            journal.report(
                done,
                loss=bins.mean(),
                bins=bins.flush(),
                align=align.item(),
                norm=norm,
                waited=round(batch.waited, 1),
                skipped=skipped,
            )
        if done % config.save_every == 0 or done == config.steps:
            save_state(out / "state", training.tensors(), {"step": done, "skipped": skipped})
        if done % config.sample_every == 0:
            save_grid(assemble(config, training, components), out / "samples" / f"{done:06d}.png")
    journal.close()
    if not workers.leads:
        return
    assemble(config, training, components).to(dtype=torch.bfloat16).save_pretrained(
        out / "pipeline"
    )


def assemble(config: PretrainConfig, training: DenoiserTraining, components: Path) -> LensPipeline:
    """A pipeline of the averaged weights and the frozen components."""
    return LensPipeline(
        training.averaged(),
        LensTextEncoder.from_pretrained(components / "text_encoder"),
        load_vae(components / "vae"),
        load_tokenizer(components / "tokenizer"),
        default_scheduler(),
        LensDefaults(
            height=128,
            width=128,
            num_inference_steps=20,
            guidance_scale=config.guidance_scale,
        ),
    )


def _forward(
    training: DenoiserTraining, batch: Batch, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error per sample, its timesteps, and the alignment loss of batch `number`."""
    config, model = training.config, training.model
    generator = Generator().manual_seed(config.seed * 1_000_003 + number)
    latents = batch.latents.float()
    mean = config.timestep_mean
    mean = recipe_mean(latents.shape[1]) if mean is None else mean
    timesteps = sample_timesteps(len(latents), mean, generator)
    noisy, velocity = noised(latents, timesteps, generator)
    captured: list[Tensor] = []
    hook = None
    if config.align_block is not None:
        block = model.transformer_blocks[config.align_block]
        hook = block.register_forward_hook(lambda *call: captured.append(call[2][0]))
    predicted = _predict(model, batch, noisy.to(model.dtype), timesteps)
    align = torch.zeros(())
    if hook is not None and training.head is not None:
        hook.remove()
        align = training.head(torch.cat(captured), batch.labels)
    return (predicted.float() - velocity).square().mean(dim=(1, 2)), timesteps, align


def _predict(model: torch.nn.Module, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Velocities; rows without a caption run on image tokens alone."""
    captioned = batch.mask.shape[0]
    shape = [(1, batch.size[0] // 16, batch.size[1] // 16)]
    features = list(batch.features.to(noisy.dtype))
    with attention_backend("_native_math"):
        parts = [
            model(noisy[:captioned], features, batch.mask, timesteps[:captioned], shape, False)[0]
        ]
        if captioned < len(noisy):
            # A handful of rows: not worth compiling another form of the blocks for every size.
            with torch.compiler.set_stance("force_eager"):
                parts.append(
                    model(noisy[captioned:], None, None, timesteps[captioned:], shape, False)[0]
                )
    return torch.cat(parts)


def _compile_blocks(model: torch.nn.Module) -> None:
    """Compile the blocks for each shape they meet; threads may differ from run to run."""
    torch._dynamo.config.recompile_limit = 64
    torch._inductor.config.cpp.dynamic_threads = True
    for block in model.transformer_blocks:  # type: ignore[union-attr]
        block.forward = torch.compile(block.forward, dynamic=False)


class TimestepBins:
    """Loss by quarter of the timestep range, averaged between two log records."""

    def __init__(self, count: int = 4) -> None:
        self._sum = torch.zeros(count)
        self._number = torch.zeros(count)

    def add(self, losses: Tensor, timesteps: Tensor) -> None:
        """Count a batch's losses `[B]` at its timesteps `[B]`."""
        index = (timesteps * len(self._sum)).long().clamp(max=len(self._sum) - 1)
        self._sum.index_add_(0, index, losses)
        self._number.index_add_(0, index, torch.ones_like(losses))

    def mean(self) -> float:
        """Mean loss of all counted samples."""
        return float(self._sum.sum() / self._number.sum().clamp(min=1))

    def flush(self) -> list[float]:
        """Mean loss of each bin; the counts start again."""
        means = (self._sum / self._number.clamp(min=1)).tolist()
        self._sum.zero_()
        self._number.zero_()
        return [round(float(value), 4) for value in means]


def _resume(state: Path, training: DenoiserTraining) -> tuple[int, int]:
    saved = load_state(state)
    if saved is None:
        return 0, 0
    tensors, values = saved
    training.restore(tensors)
    return int(values["step"]), int(values["skipped"])
