"""The methods of diffusers for LoRAs, and what they leave behind in plans, records and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from golden_components import max_error
from lens_core import CheckpointError, LensPipeline, NonFiniteError, ParameterError
from lora_files import (
    FIRST,
    MODULES,
    SECOND,
    is_as,
    output,
    random_pairs,
    with_changes,
    with_loras,
    write,
)
from tiny_components import tiny_pipeline, tiny_transformer
from tiny_diffusers import flux1, quiet


@pytest.fixture
def pipeline(tmp_path: Path) -> LensPipeline:
    """With LoRAs `one` at 0.8 and `two` at 0.4."""
    return with_loras(tiny_pipeline(), tmp_path)


def test_disabled_loras_wait_with_their_weights(pipeline: LensPipeline, tmp_path: Path) -> None:
    assert is_as(pipeline, 0.8, 0.4)
    pipeline.disable_lora()
    assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))
    assert pipeline.loras == {"one": 0.0, "two": 0.0}
    pipeline.disable_lora()
    pipeline.enable_lora()
    assert is_as(pipeline, 0.8, 0.4)
    pipeline.disable_lora()
    third = write(tmp_path / "3.safetensors", random_pairs(2, 3))
    for change in (
        lambda: pipeline.set_adapters(["two", "one"], [0.5, -1.0]),
        lambda: pipeline.load_lora_weights(third, "three"),
        lambda: pipeline.delete_adapters("three"),
        lambda: pipeline.load_lora_weights(tmp_path / "1.safetensors", "one", -1.0, hotswap=True),
    ):
        change()
        assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))
    for fuse in (pipeline.fuse_lora, pipeline.bake_lora):
        with pytest.raises(ParameterError, match="enable_lora"):
            fuse()
    pipeline.enable_lora()
    assert is_as(pipeline, -1.0, 0.5)


def test_nothing_waits_where_no_lora_is(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.disable_lora()
    with_loras(pipeline, tmp_path)
    assert is_as(pipeline, 0.8, 0.4)
    pipeline.disable_lora()
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(tmp_path / "1.safetensors", "one")
    assert pipeline.loras == {"one": 1.0}


def test_fusing_at_a_scale_and_undoing_it_to_the_bit(pipeline: LensPipeline) -> None:
    before = output(pipeline.transformer)
    weights = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    for scale in (0.5, -2.0, 0.0):
        pipeline.fuse_lora(components=["transformer"], lora_scale=scale)
        assert pipeline.fused_loras == {"one", "two"}
        assert is_as(pipeline, 0.8 * scale, 0.4 * scale)
        for refused in (pipeline.disable_lora, pipeline.enable_lora):
            with pytest.raises(ParameterError, match="unfuse_lora"):
                refused()
        pipeline.unfuse_lora(components="transformer")
        assert torch.equal(output(pipeline.transformer), before)
        after = pipeline.transformer.state_dict()
        assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert pipeline.loras == {"one": 0.8, "two": 0.4}
    assert pipeline.num_fused_loras == 0


def test_some_of_those_that_work_can_be_fused(pipeline: LensPipeline) -> None:
    pipeline.fuse_lora(lora_scale=0.5, adapter_names=["two"])
    assert pipeline.fused_loras == {"two"}
    assert is_as(pipeline, 0.0, 0.2)
    pipeline.unfuse_lora()
    assert is_as(pipeline, 0.8, 0.4)
    pipeline.set_adapters("one")
    with pytest.raises(ParameterError, match=r"\['two'\] are set aside"):
        pipeline.fuse_lora(adapter_names="two")
    for wrong in ({"adapter_names": ["no"]}, {"components": ["unet"]}, {"lora_scale": "half"}):
        with pytest.raises(ParameterError):
            pipeline.fuse_lora(**wrong)
    assert is_as(pipeline, 1.0, 0.0)


def test_what_was_fused_stays_when_loras_are_unloaded(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    """The recipe of diffusers' documentation for a checkpoint with LoRAs in its weights."""
    pipeline.fuse_lora(adapter_names=["one", "two"], lora_scale=0.5)
    pipeline.unload_lora_weights()
    assert pipeline.loras == {}
    assert pipeline.get_list_adapters() == {}
    pipeline.save_pretrained(tmp_path / "fused")
    assert is_as(LensPipeline.from_pretrained(tmp_path / "fused"), 0.4, 0.2)


def test_a_sum_that_is_no_number_is_not_fused(tmp_path: Path) -> None:
    pairs = dict(FIRST)
    down, up = pairs[MODULES[3]]
    pairs[MODULES[3]] = (down * torch.nan, up)
    pipeline = tiny_pipeline()
    pipeline.load_lora_weights(write(tmp_path / "nan.safetensors", pairs), "one")
    with pytest.raises(NonFiniteError, match="NaN"):
        pipeline.fuse_lora(safe_fusing=True)
    assert pipeline.loras == {"one": 1.0}
    pipeline.unload_lora_weights()
    assert torch.equal(output(pipeline.transformer), output(tiny_transformer()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, (1.0, 1.0)),
        ([None, 0.5], (1.0, 0.5)),
        ([{"transformer": 0.3}, 0.5], (0.3, 0.5)),
        ({"transformer": 0.3}, (0.3, 0.3)),
        (np.float32(0.5), (0.5, 0.5)),
        (np.array([0.5, 1.0]), (0.5, 1.0)),
        ((1, 2), (1.0, 2.0)),
    ],
    ids=str,
)
def test_weights_come_in_every_shape(
    pipeline: LensPipeline, weights: Any, expected: tuple[float, float]
) -> None:
    pipeline.set_adapters(["one", "two"], adapter_weights=weights)
    assert is_as(pipeline, *expected)


def test_weights_of_other_parts_are_refused(pipeline: LensPipeline) -> None:
    for wrong in ({"text_encoder": 0.3}, {"transformer": {"block": 1.0}}, "0.5", [float("nan")]):
        with pytest.raises(ParameterError):
            pipeline.set_adapters("one", wrong)
    assert is_as(pipeline, 0.8, 0.4)


def flux_with_loras(folder: Path) -> FluxPipeline:
    for name in ("one", "two"):
        source = flux1(False).transformer
        source.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
        layers = get_peft_model_state_dict(source)
        FluxPipeline.save_lora_weights(folder / name, transformer_lora_layers=layers)
    pipeline: FluxPipeline = quiet(flux1(False))
    for name in ("one", "two"):
        pipeline.load_lora_weights(folder / name, adapter_name=name)
    return pipeline


WORDS: list[Callable[[Any], object]] = [
    lambda pipe: pipe.set_adapters(["one", "two"], adapter_weights=[0.8, 0.4]),
    lambda pipe: pipe.disable_lora(),
    lambda pipe: pipe.set_adapters("two"),
    lambda pipe: pipe.enable_lora(),
    lambda pipe: pipe.set_adapters(["one", "two"]),
    lambda pipe: pipe.fuse_lora(lora_scale=0.7, adapter_names=["one"]),
    lambda pipe: pipe.unfuse_lora(),
    lambda pipe: pipe.delete_adapters("one"),
    lambda pipe: pipe.fuse_lora(),
    lambda pipe: pipe.unload_lora_weights(),
]


def test_the_methods_leave_what_they_leave_in_diffusers(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    theirs = flux_with_loras(tmp_path)
    for number, word in enumerate(WORDS):
        word(theirs)
        word(pipeline)
        for question in ("get_active_adapters", "get_list_adapters"):
            answer = getattr(pipeline, question)()
            assert answer == getattr(theirs, question)(), (number, question)
        if number + 1 < len(WORDS):  # There it still counts those that are gone.
            assert pipeline.fused_loras == theirs.fused_loras, number


def test_pipelines_around_one_denoiser_know_the_same_loras(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    others = LensPipeline.from_pipe(pipeline), LensPipeline(**pipeline.components)
    pipeline.set_adapters("two", 0.3)
    for other in others:
        assert is_as(other, 0.0, 0.3)
        with pytest.raises(CheckpointError, match="bake_lora"):
            other.save_pretrained(tmp_path / "saved")
    others[0].fuse_lora()
    with pytest.raises(ParameterError, match="unfuse_lora"):
        pipeline.fuse_lora()
    pipeline.unfuse_lora()
    others[1].unload_lora_weights()
    assert pipeline.loras == {}


def test_adapters_that_came_another_way_keep_a_model_from_being_saved(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_qkv"]), "mine")
    assert pipeline.get_list_adapters() == {"transformer": ["mine"]}
    with pytest.raises(CheckpointError, match="mine"):
        pipeline.save_pretrained(tmp_path / "saved")


def test_where_a_lora_is_can_be_said_as_in_diffusers(tmp_path: Path) -> None:
    pipeline, path = tiny_pipeline(), write(tmp_path / "style.safetensors", FIRST)
    with pytest.raises(ParameterError, match="save_file"):
        pipeline.load_lora_weights(load_file(path))
    for arguments, message in (
        ({"revision": "main"}, "revision 'main' only applies to hub repositories"),
        ({"prefix": "transformer"}, "key styles are recognised"),
        ({"alpha": 2}, "does not know alpha"),
    ):
        with pytest.raises(ParameterError, match=message):
            pipeline.load_lora_weights(path, **arguments)
    with pytest.raises(CheckpointError, match="someone/style"):
        pipeline.load_lora_weights("someone/style", cache_dir=tmp_path, local_files_only=True)
    assert pipeline.loras == {}


def test_the_only_file_of_a_folder_need_not_be_named(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    write(tmp_path / "style.safetensors", FIRST)
    pipeline.load_lora_weights(tmp_path, "one", 0.8)
    expected = with_changes((FIRST, 0.8))
    assert max_error(output(pipeline.transformer), expected) < 2e-6
    write(tmp_path / "other.safetensors", SECOND)
    with pytest.raises(CheckpointError, match=r"other.safetensors.*weight_name"):
        pipeline.load_lora_weights(tmp_path)


def test_the_only_lora_need_not_be_named(pipeline: LensPipeline, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"which LoRA to save of \['one', 'two'\]"):
        pipeline.save_lora_weights(tmp_path / "saved")
    pipeline.delete_adapters("one")
    pipeline.save_lora_weights(tmp_path / "saved")
    again = tiny_pipeline()
    again.load_lora_weights(tmp_path / "saved")
    assert max_error(output(again.transformer), with_changes((SECOND, 1.0))) < 2e-6


def test_loras_that_came_in_inference_mode_can_be_changed_outside(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    with torch.inference_mode():
        with_loras(pipeline, tmp_path)
        pipeline.disable_lora()
    pipeline.enable_lora()
    assert is_as(pipeline, 0.8, 0.4)
