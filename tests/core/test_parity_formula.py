"""What the golden data does not vary, against the formulas of the model's description."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from golden_components import GOLDEN, embedding, max_error, read_json
from lens_by_formula import Formula, even_levels, prompt_ids, shifted, velocity
from lens_core import LensPipeline
from lens_core.tokenizer import packaged_tokenizer_json
from lens_core.transformer import LensTransformer2DModel

TOLERANCE = 1e-4
LONG = "a shelf with " + ", ".join(f"{i} jars of colour {i * 7}" for i in range(90))
PROMPTS = ["a red cube", "一只橘猫坐在蓝色椅子上, under a neon sign reading 'OPEN'", "Ω"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(packaged_tokenizer_json())


@pytest.fixture(scope="module")
def formula() -> Formula:
    config = read_json("text_encoder_config/config.json")
    encoder = {k: v.double() for k, v in load_file(GOLDEN / "text_encoder.safetensors").items()}
    encoder["model.embed_tokens.weight"] = embedding(config["vocab_size"], config["hidden_size"])
    denoiser = {k: v.double() for k, v in load_file(GOLDEN / "transformer.safetensors").items()}
    return Formula(denoiser, read_json("transformer_config.json"), encoder, config)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


CALLS: dict[str, dict[str, Any]] = {
    "odd tokens, two pictures each, blank among negatives": {
        "prompt": PROMPTS,
        "negative_prompt": ["blurry", " ", "low quality, an extra finger"],
        "height": 48,
        "width": 80,
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
        "num_images_per_prompt": 2,
    },
    "one step, barely guided": {
        "prompt": PROMPTS[:2],
        "height": 128,
        "width": 64,
        "num_inference_steps": 1,
        "guidance_scale": 1.01,
        "date": "2031-12-31",
    },
    "no guidance, seven steps": {
        "prompt": PROMPTS[1],
        "height": 80,
        "width": 48,
        "num_inference_steps": 7,
        "guidance_scale": 1.0,
    },
    "noise levels of the caller's": {
        "prompt": PROMPTS[0],
        "height": 48,
        "width": 64,
        "sigmas": [0.98, 0.9, 0.31, 0.05],
        "guidance_scale": 2.0,
    },
    "cut at the limit": {
        "prompt": [LONG, PROMPTS[0]],
        "height": 32,
        "width": 48,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "date": "2025-01-01",
    },
    "cut before the limit, one token": {
        "prompt": PROMPTS[:2],
        "negative_prompt": LONG,
        "height": 16,
        "width": 16,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "max_sequence_length": 124,
    },
}


@pytest.mark.filterwarnings("ignore:the prompt has")
@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_call_follows_the_formulas(
    golden_pipeline: LensPipeline, formula: Formula, tokenizer: Tokenizer, name: str
) -> None:
    call = {"negative_prompt": "", "date": "2026-05-23", "max_sequence_length": 512} | CALLS[name]
    prompts = [call["prompt"]] if isinstance(call["prompt"], str) else call["prompt"]
    negatives = call["negative_prompt"]
    negatives = [negatives] * len(prompts) if isinstance(negatives, str) else negatives
    times, grid = call.get("num_images_per_prompt", 1), (call["height"] // 16, call["width"] // 16)
    start = noise(len(prompts) * times, grid[0] * grid[1], 128)
    found = golden_pipeline(**call, latents=start, output_type="latent").images
    levels = call.get("sigmas") or even_levels(call["num_inference_steps"])

    def read(text: str) -> list[Tensor]:
        return formula.features(
            prompt_ids(tokenizer, text, call["date"], call["max_sequence_length"])
        )

    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        cond, uncond = read(prompt), read(negative) if negative.strip() else None
        for index in range(row * times, (row + 1) * times):
            expected = formula.drawn(
                start[index], grid, cond, uncond, call["guidance_scale"], levels
            )
            assert max_error(found[index], expected) < TOLERANCE, f"picture {index}"


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_the_reference_repeats_what_the_published_code_does_with_texts(
    golden_pipeline: LensPipeline, formula: Formula, tokenizer: Tokenizer
) -> None:
    """It cuts the end of a row, whatever stands there, and reads a blank text beside another."""
    negatives = ["", "blurry"]
    start = noise(2, 6, 128)
    found = golden_pipeline(
        [LONG, PROMPTS[0]],
        negative_prompt=negatives,
        height=32,
        width=48,
        num_inference_steps=1,
        guidance_scale=4.0,
        latents=start,
        output_type="latent",
        reference=True,
    ).images
    date = "2026-05-23"
    for row, prompt in enumerate((LONG, PROMPTS[0])):
        cond = formula.features(prompt_ids(tokenizer, prompt, date, 10_000)[:512])
        uncond = formula.features(prompt_ids(tokenizer, negatives[row], date))
        expected = formula.drawn(start[row], (2, 3), cond, uncond, 4.0, [1.0])
        assert max_error(found[row], expected) < TOLERANCE


def test_time_is_rounded_twice_in_the_reference_and_never_by_default(
    golden_checkpoint: Path,
) -> None:
    half = LensPipeline.from_pretrained(
        golden_checkpoint, torch_dtype=torch.bfloat16, text_encoder=None, tokenizer=None
    )
    half.set_progress_bar_config(disable=True)
    seen: list[Tensor] = []
    half.transformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["timestep"][:1]), with_kwargs=True
    )
    features = noise(4, 1, 3, 32)
    for reference in (True, False):
        half(
            prompt_embeds=features,
            prompt_embeds_mask=torch.ones(1, 3),
            height=64,
            width=64,
            num_inference_steps=3,
            guidance_scale=1.0,
            output_type="latent",
            reference=reference,
        )
    sigmas = torch.tensor(shifted(even_levels(3), 16)[:3], dtype=torch.float32)
    rounded = (sigmas * 1000).bfloat16() / 1000
    assert torch.equal(torch.cat(seen[:3]), rounded)
    assert torch.cat(seen[3:]).dtype == torch.float32
    assert max_error(torch.cat(seen[3:]), sigmas) < 2e-7


@pytest.mark.parametrize(
    ("heads", "axes", "layers", "text_layers", "channels"),
    [(3, (4, 8, 12), 3, 1, 8), (1, (2, 20, 10), 1, 5, 16), (5, (12, 2, 2), 4, 3, 4)],
)
def test_denoisers_of_other_shapes_follow_the_formulas(
    heads: int, axes: tuple[int, int, int], layers: int, text_layers: int, channels: int
) -> None:
    torch.manual_seed(heads)
    model = LensTransformer2DModel(
        in_channels=4 * channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        inner_dim=heads * sum(axes),
        enc_hidden_dim=20,
        axes_dims_rope=axes,
        selected_layer_index=range(text_layers),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name and weight.ndim == 1 else 0.0, 0.2)
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    grid, times = (5, 8), [0.03, 0.97]
    image, features = noise(2, 40, 4 * channels), noise(text_layers, 2, 11, 20)
    with torch.no_grad():
        found = model(image, list(features), None, torch.tensor(times), [(1, *grid)]).sample
        for row, time in enumerate(times):
            expected = velocity(
                weights, model.config, image[row].double(), features[:, row].double(), time, grid
            )
            assert max_error(found[row], expected) < TOLERANCE * float(expected.abs().max())


def test_image_to_image_enters_the_whole_schedule(
    golden_pipeline: LensPipeline, formula: Formula, tokenizer: Tokenizer
) -> None:
    picture = Image.fromarray(torch.randint(0, 256, (64, 48, 3), dtype=torch.uint8).numpy())
    start = noise(2, 12, 128)
    found = golden_pipeline(
        PROMPTS[0],
        image=picture,
        strength=0.5,
        num_images_per_prompt=2,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=start,
        output_type="latent",
    ).images
    vae = golden_pipeline.vae
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        grid = vae.encode(pixels).latent_dist.mode()[0].double()
    tokens = torch.stack(
        [
            grid[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            for row in range(4)
            for column in range(3)
        ]
    )
    tokens = (tokens - vae.bn.running_mean) / (vae.bn.running_var.double() + 1e-4).sqrt()
    sigma = shifted(even_levels(4), 12)[2]
    cond = formula.features(prompt_ids(tokenizer, PROMPTS[0], "2026-05-23"))
    for index in range(2):
        entered = (1 - sigma) * tokens + sigma * start[index].double()
        expected = formula.drawn(entered, (4, 3), cond, None, 5.0, even_levels(4), begin=2)
        assert max_error(found[index], expected) < TOLERANCE
