"""Headers of safetensors files that no honest writer makes: each is refused with a typed error."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from lens_core import CheckpointError
from lens_core.checkpoints.header import read_header
from lens_core.checkpoints.inspect import inspect_checkpoint
from lens_core.checkpoints.names import count_blocks, vae_to_diffusers

FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NEXT = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
ENDLESS = "9" * 5000


def write(path: Path, header: str | Mapping[str, object], data: int = 8) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8")
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 65536 + 640])
def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    header = json.dumps({"a": FOUR, "b": NEXT}).ljust(length)
    path = write(tmp_path / "x.safetensors", header)
    assert path.read_bytes()[:2] in {bytes([0x80, protocol]) for protocol in (2, 3, 4, 5)}
    assert read_header(path).tensors.keys() == {"a", "b"}


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-1, -1]},
        {"shape": [1.0]},
        {"shape": ["1"]},
        {"shape": [True]},
        {"shape": [float("inf")]},
        {"shape": None},
        {"shape": [2**62, 2**62]},
        {"shape": []} | {"data_offsets": [0, 0]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [0, 4, 4]},
        {"data_offsets": [4, 8]},
        {"data_offsets": [0, 8], "shape": [2]},
        {"dtype": "F33"},
        {"dtype": None},
    ],
    ids=str,
)
def test_shapes_and_places_that_cannot_be_are_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = write(tmp_path / "x.safetensors", {"a": FOUR, "b": NEXT})
    assert read_header(path).tensors.keys() == {"a", "b"}
    write(path, {"a": FOUR | changes, "b": NEXT})
    with pytest.raises(CheckpointError):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[" * 100_000, "RecursionError"),
        ("[1]", "not a safetensors file"),
        ('{"a": [1, 2]}', "not a safetensors file"),
        ('{"__metadata__": 5}', "not a safetensors file"),
        ('{"__metadata__": {"a": {}}}', "metadata must be text"),
        (f'{{"a": {json.dumps(FOUR)}, "a": {json.dumps(NEXT)}}}', "a name appears twice"),
        (f'{{"\\ud800": {json.dumps(FOUR)}}}', "surrogates not allowed"),
    ],
    ids=["deep", "list", "entry", "metadata", "nested", "twice", "name"],
)
def test_headers_of_another_form_are_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(write(tmp_path / "x.safetensors", header))


def test_names_cannot_ask_for_endless_blocks(tmp_path: Path) -> None:
    names = [
        f"{stem}.{number}.{rest}"
        for stem, rest in (
            ("transformer_blocks", "attn.img_qkv.weight"),
            ("decoder.up", "block.0.conv1.weight"),
        )
        for number in (ENDLESS, "999999999")
    ]
    assert count_blocks(names, "transformer_blocks.") == len(names)
    assert vae_to_diffusers(names)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    narrow = {"img_in.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}
    path = write(tmp_path / "x.safetensors", narrow | dict.fromkeys(names, empty))
    info = inspect_checkpoint(path)[0]
    assert info.blocks == len(names) + 1
    assert not info.is_complete
    scalars = dict.fromkeys(("img_in.weight", "model.embed_tokens.weight"), FOUR | {"shape": []})
    scalars["model.embed_tokens.weight"] = NEXT | {"shape": []}
    assert not inspect_checkpoint(write(path, scalars))[0].is_complete
