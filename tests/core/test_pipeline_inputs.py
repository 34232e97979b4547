"""How the pipeline is called: seeds, batches, outputs, callbacks, and refusals that say why."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from golden_components import max_error
from lens_core import (
    ComponentError,
    InvalidSizeError,
    LensPipeline,
    NonFiniteError,
    ParameterError,
    PrecisionError,
    PromptError,
)
from lens_core.loading import LensDefaults
from lens_core.sampling import default_scheduler
from tiny_components import (
    tiny_pipeline,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vae,
)

PROMPTS = ["a red cup", "two small green apples under a very large yellow star", "a blue hat"]


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def latents_of(pipeline: LensPipeline, prompt: Any = "a red cup", **arguments: Any) -> Tensor:
    arguments.setdefault("generator", torch.Generator().manual_seed(0))
    return pipeline(prompt, output_type="latent", **arguments).images


def test_defaults_are_the_checkpoints_own(pipeline: LensPipeline) -> None:
    image = pipeline("a red cup", generator=seeds(0)).images[0]
    assert image.size == (48, 64)
    assert (pipeline.num_timesteps, pipeline.guidance_scale) == (2, 3.0)
    explicit = latents_of(pipeline, height=64, width=48, num_inference_steps=2, guidance_scale=3.0)
    assert torch.equal(latents_of(pipeline), explicit)
    assert latents_of(pipeline, height=32).shape == (1, 6, 16)


def test_a_seeded_picture_does_not_depend_on_its_batch(pipeline: LensPipeline) -> None:
    together = latents_of(pipeline, PROMPTS, generator=seeds(1, 2, 3))
    for index, prompt in enumerate(PROMPTS):
        alone = latents_of(pipeline, prompt, generator=seeds(index + 1))
        assert max_error(alone, together[index : index + 1]) < 1e-5
    assert max_error(together[:1], together[1:2]) > 0.1


def test_numbers_of_numpy_are_seeds_too(pipeline: LensPipeline) -> None:
    drawn = np.random.default_rng(0).integers(0, 100, 2)
    plain = [int(seed) for seed in drawn]
    expected = latents_of(pipeline, PROMPTS[:2], generator=None, seed=plain)
    assert torch.equal(latents_of(pipeline, PROMPTS[:2], generator=None, seed=[*drawn]), expected)
    first = latents_of(pipeline, generator=None, seed=drawn[0])
    assert torch.equal(first, latents_of(pipeline, generator=None, seed=plain[0]))


def test_several_pictures_of_a_prompt_stand_together(pipeline: LensPipeline) -> None:
    pair = latents_of(pipeline, PROMPTS[:2], num_images_per_prompt=2, generator=seeds(1, 2, 3, 4))
    alone = latents_of(pipeline, PROMPTS[1], generator=seeds(3))
    assert max_error(pair[2:3], alone) < 1e-5


def test_prompt_seed_and_guidance_matter(pipeline: LensPipeline) -> None:
    base = latents_of(pipeline)
    assert torch.equal(base, latents_of(pipeline))
    assert max_error(base, latents_of(pipeline, "a blue hat")) > 1e-3
    assert max_error(base, latents_of(pipeline, guidance_scale=1.0)) > 1e-3
    assert max_error(base, latents_of(pipeline, generator=seeds(5))) > 1e-1


def test_output_types_agree(pipeline: LensPipeline) -> None:
    def images(kind: str) -> Any:
        return pipeline("a red cup", generator=seeds(0), output_type=kind).images

    pixels, arrays, latents = images("pt"), images("np"), images("latent")
    assert pixels.shape == (1, 3, 64, 48)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    np.testing.assert_array_equal(arrays, pixels.permute(0, 2, 3, 1).numpy())
    assert torch.equal(pipeline.decode(latents, 64, 48), pixels)
    for whole in (pipeline.decode, pipeline.preview):
        with pytest.raises(ParameterError, match="12 tokens do not make a grid of 4x4"):
            whole(latents, 64, 64)
    picture = images("pil")[0]
    assert isinstance(picture, Image.Image)
    np.testing.assert_array_equal(np.asarray(picture), np.round(arrays[0] * 255))
    truncated = pipeline("a red cup", generator=seeds(0), reference=True).images[0]
    difference = np.asarray(picture).astype(int) - np.asarray(truncated)
    assert difference.min() >= -1
    assert difference.max() == 1
    assert pipeline("a red cup", output_type="latent", return_dict=False)[0].shape == (1, 12, 16)


def test_a_mixed_batch_of_negative_prompts(pipeline: LensPipeline) -> None:
    mixed = latents_of(pipeline, PROMPTS[:2], negative_prompt=["", "blurry"], generator=seeds(1, 2))
    first = latents_of(pipeline, PROMPTS[0], generator=seeds(1))
    second = latents_of(pipeline, PROMPTS[1], negative_prompt="blurry", generator=seeds(2))
    assert max_error(mixed, torch.cat((first, second))) < 1e-5
    assert max_error(second, latents_of(pipeline, PROMPTS[1], generator=seeds(2))) > 1e-4


def test_without_guidance_only_one_branch_is_run(pipeline: LensPipeline) -> None:
    calls = []
    hook = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        latents_of(pipeline, guidance_scale=1.0)
        assert len(calls) == 2
        latents_of(pipeline, guidance_scale=2.0)
        assert len(calls) == 2 + 4
    finally:
        hook.remove()
    with pytest.warns(UserWarning, match="no effect at guidance_scale 1"):
        latents_of(pipeline, guidance_scale=1, negative_prompt="blurry")
    embeds, mask = pipeline.encode_prompt("blurry")
    given = {"negative_prompt_embeds": embeds, "negative_prompt_embeds_mask": mask}
    with pytest.warns(UserWarning, match="no effect at guidance_scale 1"):
        latents_of(pipeline, guidance_scale=1, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents_of(pipeline, guidance_scale=1)


def test_features_stand_in_for_the_prompt(pipeline: LensPipeline) -> None:
    embeds, mask = pipeline.encode_prompt(PROMPTS)
    assert embeds.shape[:2] == (2, 3)
    assert mask.shape == embeds.shape[1:3]
    generators = seeds(1, 2, 3)
    given = latents_of(
        pipeline, None, prompt_embeds=embeds, prompt_embeds_mask=mask, generator=generators
    )
    assert max_error(given, latents_of(pipeline, PROMPTS, generator=seeds(1, 2, 3))) < 1e-6


def test_a_pipeline_without_text_encoder_takes_features_only(pipeline: LensPipeline) -> None:
    lean = LensPipeline(pipeline.transformer, None, pipeline.vae, None, default_scheduler())
    lean.set_progress_bar_config(disable=True)
    embeds, mask = pipeline.encode_prompt("a red cup")
    arguments = {"height": 64, "width": 48, "num_inference_steps": 2, "guidance_scale": 3.0}
    found = latents_of(lean, None, prompt_embeds=embeds, prompt_embeds_mask=mask, **arguments)
    assert max_error(found, latents_of(pipeline)) < 1e-6
    with pytest.raises(ComponentError, match="no text encoder"):
        latents_of(lean, **arguments)


def test_a_callback_sees_and_changes_latents_and_can_stop(pipeline: LensPipeline) -> None:
    seen = []

    def stop(pipe: LensPipeline, step: int, time: Tensor, tensors: dict[str, Any]) -> Any:
        seen.append((step, float(time)))
        pipe.interrupt = True
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not latents_of(pipeline, callback_on_step_end=stop).any()
    assert seen == [(0, 1000.0)]
    assert latents_of(pipeline).any()


def test_components_can_be_offloaded(pipeline: LensPipeline) -> None:
    offloaded = tiny_pipeline()
    offloaded.enable_model_cpu_offload(device="cpu")
    assert torch.equal(latents_of(offloaded), latents_of(pipeline))


def test_another_scheduler_put_in_later_is_refused() -> None:
    """It would draw something else without a word."""
    pipeline = tiny_pipeline()
    config = pipeline.scheduler.config
    for other, message in (
        (FlowMatchEulerDiscreteScheduler(), "use_dynamic_shifting=False"),
        (FlowMatchEulerDiscreteScheduler.from_config(config, shift_terminal=0.1), "shift_terminal"),
        (EulerDiscreteScheduler(), "EulerDiscreteScheduler is not"),
    ):
        pipeline.scheduler = other
        with pytest.raises(ComponentError, match=message):
            latents_of(pipeline)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    assert torch.equal(latents_of(pipeline), latents_of(tiny_pipeline()))


def test_a_pipeline_made_from_another_is_run_as_that_is() -> None:
    pipeline = tiny_pipeline()
    pipeline.transformer.bfloat16()
    again = LensPipeline.from_pipe(pipeline)
    assert again.defaults == pipeline.defaults
    assert again.transformer is pipeline.transformer
    assert again.transformer.dtype == torch.bfloat16
    assert torch.equal(latents_of(again), latents_of(pipeline))
    assert again.preview_map is not None
    changed = LensPipeline.from_pipe(pipeline, text_encoder=None, defaults=LensDefaults())
    assert changed.text_encoder is None
    assert changed.defaults == LensDefaults()
    assert LensPipeline.from_pipe(pipeline, torch_dtype=torch.float32).dtype == torch.float32
    pipeline.apply_memory("resident", "cpu")
    with pytest.raises(ParameterError, match="memory plan 'resident'"):
        LensPipeline.from_pipe(pipeline)


def test_offload_hooks_run_before_features() -> None:
    moved = []

    class Hook:
        def pre_forward(self, module: Any) -> None:
            moved.append(module)

    encoder = tiny_text_encoder()
    encoder._hf_hook = Hook()
    encoder.features(torch.zeros(1, 2, dtype=torch.long), None, [0])
    assert moved == [encoder]


BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompt": ""}, PromptError, "prompt 0 is empty"),
    ({"prompt": ["a", "  "]}, PromptError, "prompt 1 is empty"),
    ({"prompt": []}, PromptError, "at least one string"),
    ({"prompt": 5}, PromptError, "5"),
    ({"prompt": ["a", None]}, PromptError, "prompt 1 is None"),
    ({"prompt": None}, PromptError, "no prompt"),
    ({"prompt": "\ud800"}, PromptError, "Unicode"),
    ({"negative_prompt": ["a", "b"]}, PromptError, "list of 1"),
    ({"negative_prompt": [3]}, PromptError, "negative_prompt 0 is 3"),
    ({"height": 50}, InvalidSizeError, "height 50"),
    ({"height": 16}, InvalidSizeError, "aspect ratio"),
    ({"num_inference_steps": 0}, ParameterError, "num_inference_steps 0"),
    ({"num_inference_steps": 2.5}, ParameterError, "num_inference_steps 2.5"),
    ({"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, ParameterError, "3 and 2 sigmas"),
    ({"sigmas": [0.5, 1.0]}, ParameterError, "fall from at most 1"),
    ({"sigmas": [1.0, 0.0]}, ParameterError, "stay above 0"),
    ({"sigmas": []}, ParameterError, "sigmas"),
    ({"sigmas": "high"}, ParameterError, "must be a list of numbers"),
    ({"guidance_scale": 0.5}, ParameterError, "guidance_scale 0.5"),
    ({"guidance_scale": float("nan")}, ParameterError, "guidance_scale nan"),
    ({"num_images_per_prompt": 0}, ParameterError, "num_images_per_prompt 0"),
    ({"output_type": "jpg"}, ParameterError, "output_type 'jpg'"),
    ({"generator": seeds(1, 2)}, ParameterError, "list of 2"),
    ({"latents": torch.zeros(1, 11, 16)}, ParameterError, r"\(1, 12, 16\)"),
    ({"latents": torch.full((1, 12, 16), torch.nan)}, NonFiniteError, "given to the pipeline"),
    ({"latents": torch.zeros(1, 12, 16).half()}, PrecisionError, "latents is in float16"),
    ({"date": "today"}, ParameterError, "date 'today'"),
    ({"max_sequence_length": 513}, ParameterError, "at most 512"),
    ({"callback_on_step_end": 3}, ParameterError, "function"),
    ({"callback_on_step_end_tensor_inputs": ["noise"]}, ParameterError, "noise"),
    ({"prompt_embeds": torch.zeros(2, 1, 3, 16)}, ParameterError, "not both"),
    ({"prompt_embeds_mask": torch.ones(1, 3)}, ParameterError, "without prompt_embeds"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_a_bad_call_names_the_value(
    pipeline: LensPipeline, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline(**{"prompt": "a red cup"} | arguments)


ONES = torch.ones(1, 3)
HOLE = torch.tensor([[1, 0, 1]])
BAD_FEATURES: list[tuple[Tensor, Tensor | None, type[Exception], str]] = [
    (torch.zeros(2, 1, 3, 16), None, ParameterError, "needs prompt_embeds_mask"),
    (torch.zeros(3, 1, 3, 16), ONES, ParameterError, r"\(3, 1, 3, 16\)"),
    (torch.zeros(2, 1, 3, 8), ONES, ParameterError, "tokens, 16"),
    (torch.zeros(1, 3, 16), ONES, ParameterError, r"\(1, 3, 16\)"),
    (torch.zeros(2, 1, 4, 16), ONES, ParameterError, r"\(1, 3\)"),
    (torch.zeros(2, 1, 3, 16), HOLE, ParameterError, "padding on the right"),
    (torch.zeros(2, 1, 3, 16).half(), ONES, PrecisionError, "float16"),
    (torch.full((2, 1, 3, 16), torch.inf), ONES, NonFiniteError, "prompt_embeds"),
]


@pytest.mark.parametrize(("embeds", "mask", "error", "message"), BAD_FEATURES)
def test_bad_features_name_the_shape(
    pipeline: LensPipeline,
    embeds: Tensor,
    mask: Tensor | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        pipeline(prompt_embeds=embeds, prompt_embeds_mask=mask)


def test_latents_that_explode_name_the_step(pipeline: LensPipeline) -> None:
    def spoil(_: LensPipeline, step: int, __: Tensor, tensors: dict[str, Any]) -> Any:
        return {"latents": tensors["latents"] / (0 if step == 1 else 1)}

    with pytest.raises(NonFiniteError, match="step 2 of 3"):
        latents_of(pipeline, num_inference_steps=3, callback_on_step_end=spoil)


def test_float16_components_are_refused(pipeline: LensPipeline) -> None:
    parts = [pipeline.text_encoder, pipeline.vae, pipeline.tokenizer, pipeline.scheduler]
    with pytest.raises(PrecisionError, match="transformer is in float16"):
        LensPipeline(tiny_transformer().half(), *parts)
    for dtype, message in ((torch.float16, "float16"), (torch.float8_e4m3fn, "memory='6gb'")):
        later = tiny_pipeline()
        later.to(dtype)
        with pytest.raises(PrecisionError, match=message):
            later("a red cup")


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_float16_autocast_is_refused_and_bfloat16_is_not(pipeline: LensPipeline) -> None:
    read: list[object] = []
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda *_: read.append(_))
    with torch.autocast("cpu", torch.float16):
        with pytest.raises(PrecisionError, match=r"torch\.autocast\('cpu'\) is in float16"):
            pipeline("a red cup")
        with pytest.raises(PrecisionError, match="autocast"):
            pipeline.transformer(torch.zeros(1, 4, 16), None, None, torch.ones(1), [(1, 2, 2)])
    hook.remove()
    assert not read
    with torch.autocast("cpu", torch.bfloat16):
        pipeline("a red cup", num_inference_steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_encoder": lambda: tiny_text_encoder(layers=1)}, r"\(0, 1\).*only 1"),
        ({"transformer": lambda: tiny_transformer(enc_hidden_dim=24)}, "16 wide.*24"),
        ({"vae": lambda: tiny_vae(latent_channels=8)}, "= 32 channels.*16"),
        ({"scheduler": lambda: object()}, "scheduler object"),
    ],
)
def test_components_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    parts = {
        "transformer": tiny_transformer,
        "text_encoder": tiny_text_encoder,
        "vae": tiny_vae,
        "tokenizer": tiny_tokenizer,
        "scheduler": default_scheduler,
    }
    built = {name: build() for name, build in (parts | changes).items()}
    with pytest.raises(ComponentError, match=message):
        LensPipeline(**built)
