"""Tiny checkpoints on disk, and an environment without keys."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from batch_world import file, served, world
from lens_core.nano import dense_caption, sample_scene
from lens_core.nano.chat import CHAT_WORDS, train_tokenizer
from lens_core.pipeline import LensPipeline
from lens_sdk.models import LensModel, resolve_model
from lens_sdk.runtime import LensRuntime
from lens_sdk.settings_sources import VARIABLES
from tiny_components import tiny_pipeline, tiny_text_encoder

__all__ = ["file", "served", "world"]

KEYS = ("OPENAI_API_KEY", "LENS_API_KEY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, *VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def short_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random encoder writes to the limit every time."""
    monkeypatch.setattr("lens_sdk.nano_reasoner.MAX_NEW_TOKENS", 8)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lens checkpoint that is not of the nano world."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def nano_tokenizer() -> PreTrainedTokenizerFast:
    rng = np.random.default_rng(0)
    captions = [dense_caption(sample_scene(rng), rng) for _ in range(60)]
    return train_tokenizer([*captions, " ".join(CHAT_WORDS)], 320)


@pytest.fixture(scope="session")
def nano_pipeline(nano_tokenizer: PreTrainedTokenizerFast) -> LensPipeline:
    """A random model whose tokenizer knows the nano rewriting task."""
    tiny = tiny_pipeline()
    pipeline = LensPipeline(
        transformer=tiny.transformer,
        text_encoder=tiny_text_encoder(),
        vae=tiny.vae,
        tokenizer=nano_tokenizer,
        scheduler=tiny.scheduler,
        defaults=tiny.defaults,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory, nano_pipeline: LensPipeline) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small-nano"
    nano_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen-Image pipeline with tiny random weights."""
    import tiny_diffusers

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen"
    tiny_diffusers.tiny_pipeline("qwen-image").save_pretrained(folder)
    return folder


@pytest.fixture
def nano_model(nano_folder: Path) -> LensModel:
    return resolve_model(str(nano_folder))


@pytest.fixture
def nano_runtime(nano_model: LensModel, nano_pipeline: LensPipeline) -> LensRuntime:
    return LensRuntime.of_pipeline(nano_model, nano_pipeline)
