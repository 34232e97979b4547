"""The denoiser's cached data: latents, text features and truth of drawn scenes, in shards.

A shard is one safetensors file and depends only on the seed, its number and the frozen encoders.
Scenes are grouped by picture size; text features of a group lie end to end, cut by `lengths`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.chat import DEFAULT_DATE, encode_prompts
from lens_core.latents import encode_pixels
from lens_core.nano.captions import brief_caption, dense_caption
from lens_core.nano.drawing import render, token_labels
from lens_core.nano.sampling import sample_scene
from lens_core.nano.scenes import Scene
from lens_core.text_encoder import LensTextEncoder
from lens_core.training.config import NANO_SIZES, Size

CAPTIONS = ("dense", "brief")
_CHUNK = 64


@dataclass(frozen=True)
class Group:
    """The scenes of a shard that have one size.

    Attributes:
        size: Height and width in pixels.
        latents: Normalised image tokens `[scenes, tokens, channels]`.
        labels: Class, colour and background of every token, `[scenes, tokens, 3]`.
        features: For each kind of caption, text features `[all text tokens, layers, width]`.
        lengths: For each kind of caption, the text tokens of every scene.
    """

    size: Size
    latents: Tensor
    labels: Tensor
    features: dict[str, Tensor]
    lengths: dict[str, Tensor]

    def text(
        self, kind: str, rows: Sequence[int], least: int = 32, multiple: int = 32
    ) -> tuple[Tensor, Tensor]:
        """Features `[layers, rows, S, width]` and mask `[rows, S]` of some scenes.

        S is at least `least` and a multiple of `multiple`: compiling a block takes as long as
        dozens of steps, so few shapes may occur.
        """
        ends = self.lengths[kind].cumsum(0)
        parts = [
            self.features[kind][int(ends[row] - self.lengths[kind][row]) : int(ends[row])]
            for row in rows
        ]
        longest = max([least, *map(len, parts)])
        longest = -(-longest // multiple) * multiple
        stored = self.features[kind]
        padded = stored.new_zeros((len(parts), longest, *stored.shape[1:]))
        mask = torch.zeros((len(parts), longest), dtype=torch.bool)
        for row, part in enumerate(parts):
            padded[row, : len(part)] = part
            mask[row, : len(part)] = True
        return padded.permute(2, 0, 1, 3), mask


@dataclass(frozen=True)
class ShardBuilder:
    """Draws scenes and encodes them with the frozen components.

    Attributes:
        vae: Encodes pictures.
        text_encoder: Encodes captions.
        tokenizer: Its tokenizer.
        layers: Encoder layers that are kept.
        seed: Seed of the data set.
        scenes: Scenes per shard.
    """

    vae: AutoencoderKLFlux2
    text_encoder: LensTextEncoder
    tokenizer: PreTrainedTokenizerBase
    layers: Sequence[int]
    seed: int
    scenes: int

    def build(self, index: int, path: Path) -> None:
        """Write shard `index` to `path`, which appears only when complete."""
        rng = np.random.default_rng((self.seed, 2, index))
        tensors: dict[str, Tensor] = {}
        for number, (height, width) in enumerate(NANO_SIZES):
            count = self.scenes // len(NANO_SIZES)
            scenes = [sample_scene(rng, size=(width, height)) for _ in range(count)]
            tensors[f"{number}.latents"] = self._latents(scenes)
            labels = [np.stack(token_labels(scene), -1).reshape(-1, 3) for scene in scenes]
            tensors[f"{number}.labels"] = torch.from_numpy(np.stack(labels))
            for kind, write in zip(CAPTIONS, (dense_caption, brief_caption), strict=True):
                features, lengths = self._features([write(scene, rng) for scene in scenes])
                tensors[f"{number}.{kind}.features"] = features
                tensors[f"{number}.{kind}.lengths"] = lengths
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        save_file(tensors, fresh)
        fresh.replace(path)

    @torch.inference_mode()
    def _latents(self, scenes: Sequence[Scene]) -> Tensor:
        parts = []
        for start in range(0, len(scenes), _CHUNK):
            pictures = np.stack([np.array(render(s)) for s in scenes[start : start + _CHUNK]])
            pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(encode_pixels(pixels, self.vae).bfloat16())
        return torch.cat(parts)

    @torch.inference_mode()
    def _features(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        encoded = [encode_prompts(self.tokenizer, [text], DEFAULT_DATE) for text in captions]
        skip = encoded[0].prefix_length
        rows = [row.input_ids[0] for row in encoded]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts: dict[int, Tensor] = {}
        for start in range(0, len(order), _CHUNK):
            chosen = order[start : start + _CHUNK]
            longest = len(rows[chosen[-1]])
            pad = int(self.tokenizer.pad_token_id or 0)
            ids = torch.tensor([rows[i] + [pad] * (longest - len(rows[i])) for i in chosen])
            mask = torch.arange(longest) < torch.tensor([[len(rows[i])] for i in chosen])
            with torch.autocast("cpu", torch.bfloat16):
                outputs = self.text_encoder.features(ids, mask.long(), self.layers)
            stacked = torch.stack(outputs, dim=2).bfloat16()
            for place, i in enumerate(chosen):
                parts[i] = stacked[place, skip : len(rows[i])]
        features = torch.cat([parts[i] for i in range(len(rows))])
        return features, torch.tensor([len(row) - skip for row in rows])


def read_shard(path: Path) -> list[Group]:
    """The groups of a shard, one per picture size."""
    tensors = load_file(path)
    groups = []
    for number, size in enumerate(NANO_SIZES):
        groups.append(
            Group(
                size,
                tensors[f"{number}.latents"],
                tensors[f"{number}.labels"].long(),
                {kind: tensors[f"{number}.{kind}.features"] for kind in CAPTIONS},
                {kind: tensors[f"{number}.{kind}.lengths"] for kind in CAPTIONS},
            )
        )
    return groups
