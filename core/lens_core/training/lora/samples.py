"""Sample pictures of fine-tuning: the same prompts and seeds each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from PIL import Image

from lens_core.data.encoders import CaptionEncoder
from lens_core.data.encoding import stored_samples
from lens_core.data.frozen import FrozenParts
from lens_core.data.reading import ShardFolder
from lens_core.loading import LensDefaults
from lens_core.memory.dry_run import tile_pictures
from lens_core.memory.placements import Placements
from lens_core.memory.plan import MemoryPlan
from lens_core.pipeline import LensPipeline
from lens_core.text_features import TextFeatures
from lens_core.training.config import Size
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.grids import save_sheet
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.frozen import sample_tile
from lens_core.training.lora.weights import LoraWeights
from lens_core.transformer import LensTransformer2DModel

_PICTURES = 4
_COLUMNS = 4


@dataclass(frozen=True)
class SampleSheet:
    """Draws prompts whose features were computed before the text encoder was freed.

    Used as `draw` of `engine.Monitoring`.

    Attributes:
        features: Of the prompts, a row each.
        vae: With the host between drawings.
        scheduler: Of the model.
        defaults: Its steps and guidance.
        size: Height and width in pixels.
        device: Where to draw.
    """

    features: Sequence[TextFeatures]
    vae: AutoencoderKLFlux2
    scheduler: FlowMatchEulerDiscreteScheduler
    defaults: LensDefaults
    size: Size
    device: torch.device

    def __call__(self, training: DenoiserTraining, path: Path, wanted: bool) -> None:
        """Draw with the averaged weights; prompt `n` from the noise of seed `n`."""
        if isinstance(training.weights, LoraWeights):
            if wanted:
                with training.averaged():
                    self._save(training.network.model, path)
            return
        model = training.export(wanted)
        if model is not None:
            self._save(model.to(self.device, dtype=training.precision), path)

    def _save(self, model: LensTransformer2DModel, path: Path) -> None:
        places = Placements(self.device)
        places.place({"vae": (self.vae, "offload")})
        pipeline = LensPipeline(model, None, self.vae, None, self.scheduler, self.defaults)
        pipeline.set_progress_bar_config(disable=True)
        try:
            drawn = [self._draw(pipeline, seed) for seed in range(len(self.features))]
        finally:
            places.clear()
        save_sheet(drawn, path, _COLUMNS)

    def _draw(self, pipeline: LensPipeline, seed: int) -> Image.Image:
        features = self.features[seed]
        height, width = self.size
        output = pipeline(
            prompt_embeds=features.embeds,
            prompt_embeds_mask=features.mask,
            generator=torch.Generator().manual_seed(seed),
            height=height,
            width=width,
            return_dict=False,
        )
        picture: Image.Image = output[0][0]
        return picture


def sample_sheet(
    config: LoraTrainingConfig,
    parts: FrozenParts,
    captions: CaptionEncoder,
    data: ShardFolder,
    plan: MemoryPlan,
    device: torch.device,
) -> SampleSheet:
    """Compute the prompts' features while the text encoder is loaded, and keep what drawing needs.

    Args:
        config: Its `sample_prompts`, or the captions of the first pictures, are drawn.
        parts: The frozen parts.
        captions: Reads prompts.
        data: The pictures.
        plan: The plan; under one that moves the autoencoder, pictures are decoded in tiles.
        device: Where to draw.
    """
    prompts = list(config.sample_prompts) or _first_captions(data)
    features = [captions.encode([prompt]) for prompt in prompts]
    host = torch.device("cpu")
    tile_pictures(parts.vae, sample_tile(plan))
    side = max(bucket.base for bucket in data.manifest.bucket_list())
    return SampleSheet(
        [feature.to(host, feature.embeds.dtype) for feature in features],
        parts.vae,
        parts.parts["scheduler"],
        parts.parts["defaults"],
        config.sample_size or (side, side),
        device,
    )


def _first_captions(data: ShardFolder) -> list[str]:
    captions = (next(iter(stored.captions.values())) for stored in stored_samples(data))
    return list(islice(dict.fromkeys(captions), _PICTURES))
