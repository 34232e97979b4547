"""Pre-training of the denoiser on cached scenes of the nano world.

Data and encoders are frozen and cached in shards.
"""

from pathlib import Path

import torch

from lens_core.loading import LensDefaults, load_tokenizer, load_vae
from lens_core.pipeline import LensPipeline
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import LensTextEncoder
from lens_core.training.batches import Batch, SceneBatches, shard_path
from lens_core.training.config import PretrainConfig
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.engine import DenoiserRun, Monitoring
from lens_core.training.grids import save_grid
from lens_core.training.journal import Journal
from lens_core.training.network import denoiser_arguments
from lens_core.training.shards import ShardBuilder, read_shard
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel

_VALIDATION_SHARD = 10_000_000
"""Number of the shard of held-out scenes; its seed is none of a training shard's."""


def build_shards(config: PretrainConfig, out: Path) -> None:
    """Encode the training scenes into `out/shards`; shards already there are kept.

    May run beside `pretrain`, which waits for the shards it needs.

    Args:
        config: The run's settings.
        out: Folder of the whole training, with `components/`.
    """
    torch.set_num_threads(config.threads)
    builder = _builder(config, out / "components", config.shard_scenes)
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
            stage's own.

    Raises:
        NonFiniteError: Gradients stayed NaN or infinite for many steps.
        CheckpointError: A state could not be read or written.
        ParameterError: Settings that do not fit the processes or the device.
    """
    torch.set_num_threads(config.threads)
    workers = Workers.join()
    training = DenoiserTraining.create(config, workers)
    source = SceneBatches(config, out / "shards", workers)

    def draw(training: DenoiserTraining, path: Path, wanted: bool) -> None:
        model = training.export(wanted)
        if model is not None:
            save_grid(assemble(config, model, out / "components"), path)

    monitoring = Monitoring(_held_out(config, out, workers), draw)
    DenoiserRun(config, training, source, workers, out / "pretrain", monitoring).train()
    model = training.export(workers.leads)
    if model is not None:
        finished = assemble(config, model, out / "components").to(dtype=torch.bfloat16)
        finished.save_pretrained(out / "pretrain" / "pipeline")


def assemble(
    config: PretrainConfig, model: LensTransformer2DModel, components: Path
) -> LensPipeline:
    """A pipeline of a denoiser and the frozen components."""
    return LensPipeline(
        model,
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


def _builder(config: PretrainConfig, components: Path, scenes: int) -> ShardBuilder:
    return ShardBuilder(
        load_vae(components / "vae"),
        LensTextEncoder.from_pretrained(components / "text_encoder"),
        load_tokenizer(components / "tokenizer"),
        tuple(denoiser_arguments(config.model)["selected_layer_index"]),
        config.seed,
        scenes,
    )


def _held_out(config: PretrainConfig, out: Path, workers: Workers) -> list[Batch]:
    """A batch of held-out scenes of every size, densely captioned; encoded once."""
    if not config.validate_every:
        return []
    path = out / "shards" / "validation.safetensors"
    if workers.leads and not path.is_file():
        builder = _builder(config, out / "components", config.validation_scenes)
        builder.build(_VALIDATION_SHARD, path)
    workers.gather(path.name)
    batches = []
    for group in read_shard(path):
        rows = range(len(group.latents))
        batches.append(Batch(group.size, group.latents, *group.text("dense", rows)))
    return batches
