"""LoRAs that come, go and change while plans keep other forms of the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_components import max_error
from lens_core import LensPipeline
from lens_core.memory.plan import MemoryPlan
from lens_core.speed import SpeedPlan, accelerate
from lora_files import FIRST, is_as, output, random_pairs, with_changes, with_loras, write
from memory_probes import Cloning
from tiny_components import tiny_pipeline, tiny_transformer

STREAM = MemoryPlan(transformer="stream", modulation_table=True)
PLANS: dict[str, Callable[[LensPipeline], object]] = {
    "table": lambda pipeline: accelerate(pipeline, "exact"),
    "joint": lambda pipeline: accelerate(pipeline, SpeedPlan(fused_mlp=True)),
    "fp8": lambda pipeline: accelerate(pipeline, SpeedPlan(fp8="all")),
    "stream": lambda pipeline: pipeline.apply_memory(STREAM, "cpu", transfer=Cloning()),
    "offload": lambda pipeline: pipeline.apply_memory("16gb", "cpu", transfer=Cloning()),
    "model offload": lambda pipeline: pipeline.enable_model_cpu_offload(device="cpu"),
}


@pytest.mark.parametrize("plan", PLANS)
def test_what_was_made_of_weights_is_made_again(plan: str, tmp_path: Path) -> None:
    """Modulations, joint and 8-bit forms: as if the plan had come after the LoRAs."""

    def fresh() -> LensPipeline:
        pipeline = tiny_pipeline()
        pipeline.transformer.to(torch.bfloat16 if plan == "fp8" else torch.float32)
        pairs = random_pairs(4, 1) | modulation_pairs()
        pipeline.load_lora_weights(write(tmp_path / "all.safetensors", pairs), "one", 0.8)
        return pipeline

    words: dict[str, Callable[[LensPipeline], object]] = {
        "load": lambda pipe: None,
        "disable": lambda pipe: pipe.disable_lora(),
        "enable": lambda pipe: pipe.enable_lora(),
        "fuse": lambda pipe: pipe.fuse_lora(lora_scale=0.5),
        "unfuse": lambda pipe: pipe.unfuse_lora(),
        "bake": lambda pipe: pipe.bake_lora(),
    }
    early = fresh()
    PLANS[plan](early)
    pictures = {}
    for name, word in words.items():
        word(early)
        pictures[name] = drawn(early)
        late = fresh()
        for earlier in words.values():
            earlier(late)
            if earlier is word:
                break
        PLANS[plan](late)
        assert torch.equal(pictures[name], drawn(late)), name
    assert torch.equal(pictures["load"], pictures["enable"])
    assert torch.equal(pictures["load"], pictures["unfuse"])
    for name in ("disable", "fuse"):
        assert max_error(pictures[name], pictures["load"]) > 1e-3, name


def modulation_pairs() -> dict[str, tuple[Tensor, Tensor]]:
    modules = [name for name, _ in tiny_transformer().named_modules() if name.endswith("_mod.1")]
    assert modules
    return random_pairs(2, 5, modules)


def drawn(pipeline: LensPipeline) -> Tensor:
    images: Tensor = pipeline("a red cup", seed=1, output_type="latent").images
    return images


def test_a_compiled_denoiser_takes_loras(tmp_path: Path) -> None:
    """`torch.compile` wraps it, so that its modules have other names."""
    pipeline = tiny_pipeline()
    plain = pipeline.transformer
    pipeline.transformer = torch.compile(plain, backend="eager")
    with_loras(pipeline, tmp_path)
    assert is_as(pipeline, 0.8, 0.4)
    pipeline.load_lora_weights(tmp_path / "1.safetensors", "one", 0.5, hotswap=True)
    pipeline.fuse_lora()
    assert is_as(pipeline, 0.5, 0.4)
    pipeline.unfuse_lora()
    pipeline.save_lora_weights(tmp_path / "saved", "one")
    pipeline.disable_lora()
    assert torch.equal(output(plain), output(tiny_transformer()))
    again = LensPipeline(**pipeline.components | {"transformer": plain})
    assert again.loras == {"one": 0.0, "two": 0.0}
    again.unload_lora_weights()
    again.load_lora_weights(tmp_path / "saved", "one", 0.8)
    assert max_error(output(plain), with_changes((FIRST, 0.8))) < 2e-6


def test_blocks_that_were_compiled_take_loras_as_often_as_they_come(tmp_path: Path) -> None:
    """Each change makes four more variants, and torch gives up at eight."""
    pipeline = tiny_pipeline()
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    plain = drawn(pipeline)
    with_loras(pipeline, tmp_path)
    assert max_error(drawn(pipeline), plain) > 1e-3
    pipeline.disable_lora()
    assert torch.equal(drawn(pipeline), plain)


OTHERS = ["txt_in", *(name for name, _ in tiny_transformer().named_modules() if "_mod.1" in name)]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("plan", [*PLANS, "plain"])
def test_loras_can_change_between_steps(plan: str, reference: bool, tmp_path: Path) -> None:
    """In a callback, when plans have made their forms of the weights, and texts are projected."""
    everything = random_pairs(4, 1) | random_pairs(2, 5, OTHERS)
    path = write(tmp_path / "all.safetensors", everything)
    arguments = {"num_inference_steps": 3, "output_type": "latent", "reference": reference}

    def draw(word: Callable[[LensPipeline], object], planned: bool) -> Tensor:
        pipeline = tiny_pipeline()
        pipeline.transformer.to(torch.bfloat16 if plan == "fp8" else torch.float32)
        pipeline.load_lora_weights(path, "one", 0.8)
        pipeline.disable_lora()
        pipeline.transformer.reuses_branches = planned
        if planned and plan != "plain":
            PLANS[plan](pipeline)

        def change(pipe: LensPipeline, step: int, *_: Any) -> None:
            if step == 0:
                word(pipe)

        changed = pipeline("a cup", seed=1, callback_on_step_end=change, **arguments).images
        # What was changed holds for the next picture, too.
        return torch.cat((changed, pipeline("a cup", seed=1, **arguments).images))

    def fuse(pipe: LensPipeline) -> None:
        pipe.enable_lora()
        pipe.fuse_lora(lora_scale=2.0)

    without = draw(lambda pipe: None, planned=False)
    for word in (
        lambda pipe: pipe.enable_lora(),
        fuse,
        lambda pipe: (fuse(pipe), pipe.bake_lora()),
    ):
        plain, found = draw(word, planned=False), draw(word, planned=True)
        for picture, expected, untouched in zip(found, plain, without, strict=True):
            effect = max_error(expected, untouched)
            assert effect > 1e-2
            assert max_error(picture, expected) < (0.2 * effect if plan == "fp8" else 1e-4)
