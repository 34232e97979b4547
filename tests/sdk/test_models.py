"""Names of models, without loading them."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lens_sdk import MissingExtraError, UnknownModelError, models, resolve_model


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
