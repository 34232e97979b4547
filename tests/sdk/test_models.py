"""Names of models, without loading them."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_core.checkpoints import load, sources
from lens_core.checkpoints.hub import HubSource
from lens_reasoner import GenerationSettings
from lens_sdk import (
    MissingExtraError,
    UnknownModelError,
    choose_generator,
    local_generator,
    models,
    resolve_model,
)
from lens_sdk.cli import app
from lens_sdk.errors import MissingWeightsError
from lens_sdk.models import PUBLISHED_MODELS
from lens_sdk.reproduce import reproduce
from tiny_components import tiny_pipeline


def test_a_folder_is_known_as_nano_by_its_tokenizer(tiny_folder: Path, nano_folder: Path) -> None:
    assert (resolve_model(str(tiny_folder)).name, resolve_model(str(tiny_folder)).nano) == (
        "tiny",
        False,
    )
    assert resolve_model(str(nano_folder)).nano


def test_weights_are_identified_by_their_content(nano_folder: Path) -> None:
    record = resolve_model(str(nano_folder)).record()
    path = nano_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert record["name"] == "small-nano"
    assert {Path(name).parts[0] for name in record["weights"]} == {
        "transformer",
        "text_encoder",
        "vae",
    }
    assert record["weights"]["transformer/diffusion_pytorch_model.safetensors"] == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_huge_weights_are_not_read(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LARGEST_HASHED", 1000)
    weights = resolve_model(str(nano_folder)).weights
    assert all(entry["sha256"] is None and entry["bytes"] > 1000 for entry in weights.values())


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_a_published_model_without_weights_says_how_to_get_them(
    name: str, empty_cache: Path
) -> None:
    with pytest.raises(MissingWeightsError, match="transformer, text_encoder, vae") as error:
        choose_generator(name)
    assert f"lens pull {name}" in error.value.hint
    assert error.value.parts == ("transformer", "text_encoder", "vae")
    result = CliRunner().invoke(app, ["generate", "a cup", "--model", name, "--no-reason"])
    assert result.exit_code == 1
    assert f"lens pull {name}" in result.output


def test_a_published_model_brings_its_steps_and_guidance(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "4" * 40
    place = empty_cache / "models--good--lens" / "snapshots" / revision
    tiny = tiny_pipeline()
    tiny.save_pretrained(place)
    parts = {
        part: (HubSource("gone/lens", part), HubSource("good/lens", part, revision))
        for part in ("transformer", "text_encoder", "vae")
    }
    turbo = replace(sources.PRESETS["lens-turbo"], **parts)
    found = {**sources.PRESETS, "lens-turbo": turbo}
    for module in (sources, load):
        monkeypatch.setattr(module, "PRESETS", found)
    # The tiny encoder has other tokens than GPT-OSS.
    monkeypatch.setattr(load, "load_packaged_tokenizer", lambda: tiny.tokenizer)
    generator = local_generator("lens-turbo")
    model = generator.runtime.model
    assert (model.name, model.folder, model.nano) == ("lens-turbo", None, False)
    assert "transformer/diffusion_pytorch_model.safetensors" in model.weights
    assert generator.fingerprint
    pipeline = generator.runtime.load()
    assert (pipeline.defaults.num_inference_steps, pipeline.defaults.guidance_scale) == (4, 1.0)
    settings = GenerationSettings(width=48, height=64)
    image = asyncio.run(generator.generate("a cup", seeds=[1], settings=settings))[0]
    used = image.settings
    assert (used.num_inference_steps, used.guidance_scale) == (4, 1.0)
    assert reproduce(image.save(tmp_path / "picture.png"), model=generator).identical


@pytest.mark.parametrize("name", ["lens-huge", "no/such/folder"])
def test_an_unknown_model_lists_the_choices(name: str) -> None:
    with pytest.raises(UnknownModelError, match=name) as error:
        resolve_model(name)
    assert "lens-nano" in error.value.hint
    assert "transformer/" in error.value.hint


def test_an_incomplete_folder_says_what_is_missing(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "vae")
    with pytest.raises(UnknownModelError, match=r"has no vae/config\.json"):
        resolve_model(str(tmp_path / "broken"))


def test_missing_packages_name_the_extra(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = models.find_spec
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(MissingExtraError, match="torch") as error:
        resolve_model(str(tiny_folder))
    assert 'pip install "lens-sdk[local]"' in str(error.value)
    assert isinstance(error.value, ImportError)


def test_resolving_loads_no_torch(tiny_folder: Path) -> None:
    # Checking the name and the key must be quick, also for the large models.
    big = tiny_folder.parent / "big"
    shutil.copytree(tiny_folder, big)
    with (big / "tokenizer" / "tokenizer.json").open("a") as file:
        file.write(" " * 2**20)
    code = f"""
import sys
from lens_sdk import MissingKeyError, build_loop
try:
    build_loop({str(big)!r})
except MissingKeyError as error:
    print("key" in str(error), [m for m in ("torch", "transformers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
