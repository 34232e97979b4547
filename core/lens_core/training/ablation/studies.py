"""What each ablation compares."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lens_core.checkpoint_files import read_config
from lens_core.errors import ParameterError
from lens_core.training.ablation.config import AblationConfig, Changes
from lens_core.training.config import load_config
from lens_core.training.mixed.config import MixedConfig
from lens_core.training.network import denoiser_arguments
from lens_core.training.prompts import NanoPrompts, Prompt, read_prompts


@dataclass(frozen=True)
class Study:
    """An ablation.

    Attributes:
        stage: The stage that every cell runs.
        question: What the table answers.
        variants: Makes the variants, with settings, for a folder of the whole ablation.
    """

    stage: str
    question: str
    variants: Callable[[AblationConfig, Path], dict[str, Changes]]


def _captions(config: AblationConfig, out: Path) -> dict[str, Changes]:
    return {
        "brief": {"caption_shares": {"brief": 1.0}},
        "dense": {"caption_shares": {"dense": 1.0}},
        "mixed": {"caption_shares": {"brief": 0.5, "dense": 0.5}},
    }


def _encoder_layers(config: AblationConfig, out: Path) -> dict[str, Changes]:
    base = load_config(MixedConfig, config.base_of("lowres"), "lowres", config.settings)
    layers = list(denoiser_arguments(base.model)["selected_layer_index"])
    return {
        "last": {"model": {"selected_layer_index": layers[-1:]}},
        "middle": {"model": {"selected_layer_index": layers[len(layers) // 2 - 1 :][:1]}},
        "several": {"model": {"selected_layer_index": layers}},
    }


def _vae(config: AblationConfig, out: Path) -> dict[str, Changes]:
    """Variants name folders with `vae/`, `text_encoder/` and `tokenizer/`; channels follow."""
    if len(config.variants) < 2:
        raise ParameterError(
            "the ablation vae compares autoencoders: name folders that hold vae/, text_encoder/ "
            """and tokenizer/ with --set 'variants={"a": {"start": "A"}, "b": {"start": "B"}}'"""
        )
    found = {}
    for name, changes in config.variants.items():
        vae = read_config(Path(str(changes.get("start"))) / "vae")
        channels, patch = int(vae["latent_channels"]), int(vae["patch_size"][0])
        model = {"out_channels": channels, "in_channels": channels * patch**2, "patch_size": patch}
        found[name] = {**changes, "model": model | dict(changes.get("model", {}))}
    return found


def _rl_subsets(config: AblationConfig, out: Path) -> dict[str, Changes]:
    """Nested subsets, written as files once, so that a resumed ablation has the same."""
    source = str(config.settings.get("prompts", "nano"))
    everything = _prompts(source, config.prompt_count)
    order = np.random.default_rng(config.prompt_count).permutation(len(everything))
    shuffled = [everything[int(index)] for index in order]
    kept = [p for p in shuffled if config.excluded not in (p.facts.get("category"), _tag(p))]
    if len(kept) == len(shuffled):
        tags = sorted({str(p.facts.get("category", _tag(p))) for p in shuffled})
        raise ParameterError(f"excluded {config.excluded!r} is no prompt's tag; there are {tags}")
    subsets = {
        "quarter": shuffled[: len(shuffled) // 4],
        "half": shuffled[: len(shuffled) // 2],
        "all": shuffled,
        f"without {config.excluded}": kept,
    }
    folder = out / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Changes] = {}
    for name, prompts in subsets.items():
        path = folder / f"{name.replace(' ', '-')}.jsonl"
        lines = [json.dumps({"prompt": p.text, **p.facts}) for p in prompts]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found[name] = {"prompts": str(path), "evaluate_every": 0}
    return found


def _prompts(source: str, count: int) -> list[Prompt]:
    if source == "nano":
        return NanoPrompts(seed=0, brief_share=0.2).draw(0, count)
    return read_prompts(Path(source))


def _tag(prompt: Prompt) -> object:
    return prompt.facts.get("tag")


STUDIES: Mapping[str, Study] = {
    "captions": Study("lowres", "Which captions teach more in equal steps?", _captions),
    "encoder-layers": Study("lowres", "Which layers of the text encoder?", _encoder_layers),
    "vae": Study("lowres", "Which autoencoder, judged by the model trained on it?", _vae),
    "rl-subsets": Study("rl", "How many prompts does post-training need, and which?", _rl_subsets),
}


def study_by_name(name: str) -> Study:
    """A study.

    Raises:
        ParameterError: No such study.
    """
    if name not in STUDIES:
        raise ParameterError(f"there is no ablation {name!r}; choose one of {', '.join(STUDIES)}")
    return STUDIES[name]
