"""What users of diffusers expect: single files, loading, callbacks that change guidance, copies."""

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.callbacks import PipelineCallback, SDCFGCutoffCallback
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from PIL import Image
from torch import Tensor
from transformers import GptOssForCausalLM

from fake_hub import serve
from golden_components import max_error
from lens_core import (
    CheckpointError,
    ComponentError,
    LensPipeline,
    LensTextEncoder,
    LensTransformer2DModel,
    ParameterError,
    PrecisionError,
)
from lens_core.checkpoints.convert import Target, convert
from lens_core.checkpoints.hub import Hub
from lens_core.loading import LensDefaults
from lens_core.memory.plan import MemoryPlan
from lens_core.speed import SpeedPlan, accelerate
from tiny_components import tiny_pipeline, tiny_transformer

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline: LensPipeline) -> Path:
    path = tmp_path_factory.mktemp("saved") / "lens"
    pipeline.save_pretrained(path)
    return path


def latents_of(pipeline: LensPipeline, **arguments: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"seed": 1, "num_inference_steps": 4} | arguments
    latents: Tensor = pipeline("a red cup", output_type="latent", **arguments).images
    return latents


class TestSingleFiles:
    def test_the_other_parts_come_from_a_model(
        self, pipeline: LensPipeline, folder: Path, tmp_path: Path
    ) -> None:
        plain = shutil.copy(folder / WEIGHTS, tmp_path / "denoiser.safetensors")
        found = LensPipeline.from_single_file(plain, config=folder, torch_dtype=torch.float32)
        assert found.defaults == pipeline.defaults
        assert torch.equal(latents_of(found), latents_of(pipeline))
        half = LensPipeline.from_single_file(plain, config=str(folder), text_encoder=None)
        assert {half.transformer.dtype, half.vae.dtype} == {torch.bfloat16}
        assert half.text_encoder is None

    def test_the_other_parts_are_given(self, folder: Path, tmp_path: Path) -> None:
        pipeline = tiny_pipeline()
        expected = latents_of(pipeline)
        convert(folder / "transformer", Target(tmp_path / "d.gguf", torch.float32), "gguf")
        found = LensPipeline.from_single_file(
            tmp_path / "d.gguf",
            text_encoder=pipeline.text_encoder,
            vae=pipeline.vae,
            tokenizer=pipeline.tokenizer,
            defaults=LensDefaults(height=64, width=48, guidance_scale=3.0),
            dtype=torch.float32,
            memory="16gb",
            device="cpu",
        )
        assert max_error(latents_of(found), expected) < 5e-3  # Matrices are in 8 bits.
        for few in ({}, {"vae": pipeline.vae}, {"config": folder, "transformer": 1}):
            with pytest.raises(ParameterError, match="config='lens-turbo'"):
                LensPipeline.from_single_file(tmp_path / "d.gguf", **few)

    @pytest.mark.parametrize("style", ["{endpoint}/{name}/blob/{commit}/{file}", "{name}/{file}"])
    def test_a_file_on_the_hub(
        self, pipeline: LensPipeline, folder: Path, tmp_path: Path, style: str
    ) -> None:
        commit, name = "1" * 40, "someone/lens-files"
        place = tmp_path / "hub" / name / commit / "split"
        place.mkdir(parents=True)
        shutil.copy(folder / WEIGHTS, place / "d.safetensors")
        with serve(tmp_path / "hub") as served:
            link = style.format(
                endpoint=served.endpoint, name=name, commit=commit, file="split/d.safetensors"
            )
            hub = Hub(served.endpoint, tmp_path / "cache")
            model = LensTransformer2DModel.from_single_file(
                link, config=folder, torch_dtype=torch.float32, hub=hub
            )
            with pytest.raises(CheckpointError, match="no-such"):
                LensTransformer2DModel.from_single_file("some/no-such/d.gguf", hub=hub)
        given = LensPipeline.from_pretrained(folder, transformer=model)
        assert torch.equal(latents_of(given), latents_of(pipeline))

    def test_what_is_no_denoiser_is_refused(self, folder: Path, tmp_path: Path) -> None:
        vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
        for wrong, message in (
            (vae, "does not fit its config"),
            (folder, "is a folder"),
            (tmp_path / "no.safetensors", "no.safetensors"),
        ):
            with pytest.raises(CheckpointError, match=message):
                LensPipeline.from_single_file(wrong, config=folder)
        with pytest.raises(CheckpointError, match="not a Lens denoiser"):
            LensTransformer2DModel.from_single_file(vae)
        with pytest.raises(PrecisionError, match="float16"):
            LensTransformer2DModel.from_single_file(folder / WEIGHTS, dtype=torch.float16)


class TestLoading:
    def test_arguments_that_mean_the_same(self, folder: Path, tmp_path: Path) -> None:
        arguments = {"device_map": "cpu", "use_safetensors": True, "low_cpu_mem_usage": True}
        nothing = {"quantization_config": None}
        found = LensPipeline.from_pretrained(str(folder), **arguments, **nothing)
        assert torch.equal(latents_of(found), latents_of(tiny_pipeline()))
        kept = tmp_path / "cache"
        with pytest.raises(CheckpointError, match="someone/lens"):
            LensPipeline.from_pretrained("someone/lens", cache_dir=kept, local_files_only=True)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"device_map": "balanced"}, "memory='auto'"),
            ({"device_map": {"transformer": 0}}, "memory='auto'"),
            ({"device_map": "cuda", "device": "cpu"}, "contradict"),
            ({"quantization_config": {"load_in_4bit": True}}, "memory='6gb'"),
            ({"custom_pipeline": "other"}, "only pipeline"),
            ({"token": "t", "hub": Hub()}, "one or the other"),
            ({"safety_checker": None}, "does not know .'safety_checker'"),
        ],
        ids=str,
    )
    def test_arguments_that_mean_nothing(
        self, folder: Path, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ParameterError, match=message):
            LensPipeline.from_pretrained(folder, **arguments)

    def test_pickles_are_never_read_or_written(
        self, pipeline: LensPipeline, folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(CheckpointError, match="pickle"):
            LensPipeline.from_pretrained(folder, use_safetensors=False)
        with pytest.raises(CheckpointError, match="pickle"):
            pipeline.save_pretrained(tmp_path / "saved", safe_serialization=False)
        assert not (tmp_path / "saved").exists()
        pipeline.save_pretrained(tmp_path / "saved", push_to_hub=False)


def test_methods_of_other_pipelines_are_answered_with_advice(pipeline: LensPipeline) -> None:
    with pytest.raises(ParameterError, match=r"set_adapters.*, prompt_2$"):
        pipeline("a cup", prompt_2="a cat", joint_attention_kwargs={"scale": 0.5})
    assert pipeline("a cup", joint_attention_kwargs=None, num_inference_steps=1).images
    with pytest.raises(AttributeError, match=r"pipeline\.vae\.enable_tiling"):
        pipeline.enable_vae_tiling()
    with pytest.raises(AttributeError, match="no_such_thing"):
        pipeline.no_such_thing()
    with pytest.raises(ComponentError, match="FirstBlockCacheConfig"):
        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


class TestGuidanceInCallbacks:
    def test_it_holds_from_the_next_step_on(self, pipeline: LensPipeline) -> None:
        """The callback of diffusers' documentation that leaves guidance out after some steps."""
        calls: list[int] = []
        hook = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))

        def cut(pipe: LensPipeline, step: int, _: Tensor, tensors: dict[str, Any]) -> Any:
            if step == 1:
                pipe._guidance_scale = 0.0
            return tensors

        halves = latents_of(pipeline, callback_on_step_end=cut)
        assert len(calls) == 2 * 2 + 2
        hook.remove()
        assert pipeline.guidance_scale == 0.0
        between: list[Tensor] = []
        latents_of(pipeline, on_step=lambda step: between.append(step.latents))
        by_hand = between[1]
        for time, sigma in zip(
            pipeline.scheduler.timesteps[2:], pipeline.scheduler.sigmas[3:], strict=True
        ):
            features = pipeline.encode_prompt("a red cup")[0]
            with torch.no_grad():
                velocity = pipeline.transformer(
                    by_hand, list(features), None, time[None] / 1000, [(1, 4, 3)]
                ).sample
            by_hand = by_hand + (sigma - time / 1000) * velocity
        assert max_error(halves, by_hand) < 1e-5

    @pytest.mark.parametrize("reference", [False, True])
    def test_every_picture_begins_with_the_calls_own(
        self, pipeline: LensPipeline, reference: bool
    ) -> None:
        def halve(pipe: LensPipeline, step: int, _: Tensor, __: dict[str, Any]) -> None:
            pipe.guidance_scale = 1.5

        def draw(**arguments: Any) -> Tensor:
            arguments |= {"reference": reference, "seed": [1, 2], "num_images_per_prompt": 2}
            return latents_of(pipeline, batch_size=1, **arguments)

        changed = draw(callback_on_step_end=halve)
        alone = latents_of(pipeline, seed=2, reference=reference, callback_on_step_end=halve)
        assert torch.equal(changed[1:], alone)
        assert max_error(changed, draw()) > 1e-4

    def test_what_cannot_be_is_refused(self, pipeline: LensPipeline) -> None:
        def begin(pipe: LensPipeline, *_: Any) -> None:
            pipe.guidance_scale = 4.0

        with pytest.raises(ParameterError, match="began without guidance"):
            latents_of(pipeline, guidance_scale=1, callback_on_step_end=begin)

        def spoil(pipe: LensPipeline, *_: Any) -> None:
            pipe.guidance_scale = "much"

        with pytest.raises(ParameterError, match="'much'"):
            latents_of(pipeline, callback_on_step_end=spoil)

    def test_callbacks_of_diffusers_say_what_they_read(self, pipeline: LensPipeline) -> None:
        class Watch(PipelineCallback):
            tensor_inputs = ["latents"]  # noqa: RUF012
            seen = 0

            def callback_fn(self, pipe: Any, step: int, time: Any, tensors: Any) -> Any:
                Watch.seen += 1
                return tensors

        latents_of(pipeline, callback_on_step_end=Watch(cutoff_step_ratio=1.0))
        assert Watch.seen == 4
        with pytest.raises(ParameterError, match=r"prompt_embeds.*pipeline\.guidance_scale = 1"):
            latents_of(pipeline, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4))


def test_copies_draw_the_same_unless_a_plan_moves_weights() -> None:
    pipeline = tiny_pipeline()
    expected = latents_of(pipeline)
    for copied in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        with torch.no_grad():
            copied.transformer.proj_out.weight.zero_()
        assert torch.equal(latents_of(pipeline), expected)
    pipeline.apply_memory(MemoryPlan(transformer="stream", vae="offload"), "cpu")
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ParameterError, match="release_memory"):
            make(pipeline)
    pipeline.release_memory()
    assert torch.equal(latents_of(copy.deepcopy(pipeline)), expected)


def test_an_attention_kernel_is_chosen_for_one_model() -> None:
    pipeline, other = tiny_pipeline(), tiny_transformer()
    before = _AttentionBackendRegistry.get_active_backend()[0]

    def kernels(model: LensTransformer2DModel) -> set[str | None]:
        return {block.attn.backend for block in model.transformer_blocks}

    accelerate(pipeline, SpeedPlan(attention="native"))
    pipeline.transformer.set_attention_backend("_native_math")
    assert kernels(pipeline.transformer) == {"_native_math"}
    assert kernels(other) == {None}
    assert _AttentionBackendRegistry.get_active_backend()[0] == before
    assert max_error(latents_of(pipeline), latents_of(tiny_pipeline())) < 1e-5
    pipeline.transformer.reset_attention_backend()
    assert kernels(pipeline.transformer) == {None}
    for wrong in ("flash", "no-such"):
        with pytest.raises(ComponentError, match=wrong):
            pipeline.transformer.set_attention_backend(wrong)
    assert kernels(pipeline.transformer) == {None}


def test_what_a_pipeline_gives_it_takes_as_pictures(pipeline: LensPipeline) -> None:
    """Tensors and arrays of several pictures, as `pt` and `np` are."""
    drawn = pipeline(["a red cup", "a hat"], seed=1, output_type="pt").images
    mask = torch.ones(2, 1, *drawn.shape[2:])
    mask[:, :, :16] = 0

    def from_these(image: Any, mask_image: Any) -> Tensor:
        arguments = {"image": image, "mask_image": mask_image, "seed": 5, "strength": 0.5}
        return pipeline(["a green cup", "a hat"], output_type="pt", **arguments).images

    expected = from_these([*drawn], [*mask])
    assert torch.equal(from_these(drawn, mask), expected)
    arrays = drawn.permute(0, 2, 3, 1).numpy()
    assert torch.equal(from_these(arrays, mask.numpy()[:, 0, :, :, None]), expected)
    with pytest.raises(ParameterError, match="list of 2 for 1 prompts"):
        pipeline("a hat", image=drawn)


def test_parts_are_loaded_from_their_subfolders(folder: Path) -> None:
    encoder = LensTextEncoder.from_pretrained(folder, subfolder="text_encoder")
    denoiser = LensTransformer2DModel.from_pretrained(folder, subfolder="transformer")
    parts = {"text_encoder": encoder, "transformer": denoiser}
    found = LensPipeline.from_pretrained(folder, **parts)
    assert torch.equal(latents_of(found), latents_of(tiny_pipeline()))


def test_parts_that_cannot_be_are_named(folder: Path) -> None:
    stock = GptOssForCausalLM.from_pretrained(folder / "text_encoder")
    for parts, message in (
        ({"text_encoder": stock}, "LensTextEncoder.from_pretrained"),
        ({"transformer": None, "vae": None}, "transformer None must.*memory='8gb'"),
        ({"vae": str(folder / "vae")}, "from_components"),
    ):
        with pytest.raises(ComponentError, match=message):
            LensPipeline.from_pretrained(folder, **parts)


def test_pictures_come_with_the_autoencoders_own_switches(pipeline: LensPipeline) -> None:
    expected = pipeline("a red cup", seed=1, num_inference_steps=1).images[0]
    pipeline.vae.enable_slicing()
    pipeline.vae.enable_tiling()
    found = pipeline(["a red cup"] * 2, seed=[1, 1], num_inference_steps=1).images
    assert all(isinstance(picture, Image.Image) for picture in found)
    assert found[0].size == expected.size


def test_latents_of_a_callback_may_be_in_another_precision(pipeline: LensPipeline) -> None:
    def rounded(_: LensPipeline, __: int, ___: Tensor, tensors: dict[str, Any]) -> Any:
        return {"latents": tensors["latents"].bfloat16()}

    asked: Any = None
    found = latents_of(
        pipeline, callback_on_step_end=rounded, callback_on_step_end_tensor_inputs=asked
    )
    assert found.dtype == torch.float32
    assert 0 < max_error(found, latents_of(pipeline)) < 0.1
