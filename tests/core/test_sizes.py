"""Sizes, the schedule that depends on them, and the layout of tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from golden_components import case, max_error, read_json
from lens_core import CheckpointError, ComponentError, InvalidSizeError, ParameterError
from lens_core.checkpoints.size_rules import read_size_rules
from lens_core.latents import (
    decode_tokens,
    denormalise,
    encode_pixels,
    normalise,
    pack_tokens,
    unpack_tokens,
)
from lens_core.sampling import check_scheduler, compute_mu, default_scheduler, guide, make_sigmas
from lens_core.sizes import (
    BUCKETS,
    MAX_AREA,
    SizeRules,
    base_of,
    nearest_size,
    read_size,
    resolve_size,
    validate_size,
)
from tiny_components import tiny_pipeline, tiny_vae


def test_named_buckets() -> None:
    assert resolve_size("16:9") == (768, 1376)
    assert resolve_size("9:16", 1440) == (1936, 1088)
    assert resolve_size() == (1024, 1024)
    for table in BUCKETS.values():
        for ratio, (height, width) in table.items():
            validate_size(height, width)
            flipped = ":".join(reversed(ratio.split(":")))
            assert table[flipped] == (width, height)


def test_every_bucket_has_a_name() -> None:
    assert {base: len(table) for base, table in BUCKETS.items()} == dict.fromkeys(BUCKETS, 9)
    assert sum(len(BUCKETS[base]) for base in (512, 768, 1024)) == 27
    for base, table in BUCKETS.items():
        for ratio, size in table.items():
            assert read_size(f"{ratio}@{base}") == read_size(ratio, base) == size
            assert read_size(f"{size[1]}x{size[0]}") == size
            assert base_of(*size) in range(base - 32, base + 48)


@pytest.mark.parametrize(
    "name", ["", "big", "16:9@", "16x9x3", "16/9", "3:1", "1000x1024", "9999x16"]
)
def test_a_name_that_is_no_size_is_refused(name: str) -> None:
    with pytest.raises(InvalidSizeError):
        read_size(name)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=5000), st.integers(min_value=1, max_value=5000))
def test_every_picture_has_a_nearest_size(height: int, width: int) -> None:
    high, wide = nearest_size(height, width)
    validate_size(high, wide)
    if height % 16 == width % 16 == 0 and max(height, width) <= 2 * min(height, width):
        assert height * width > MAX_AREA or (high, wide) == (height, width)


@settings(deadline=None)
@given(
    st.integers(min_value=50, max_value=200).map(lambda n: n / 100),
    st.integers(min_value=4, max_value=90).map(lambda n: 16 * n),
)
def test_every_ratio_and_base_gives_a_valid_size(ratio: float, base: int) -> None:
    height, width = resolve_size(f"{ratio}:1", base)
    validate_size(height, width)
    assert abs(height * width / base**2 - 1) < 0.4


def test_ratios_without_a_bucket_fit_the_largest_base_and_equal_ones_share_theirs() -> None:
    assert resolve_size("5:4", 1440) == (1280, 1616)
    assert resolve_size("6:5", 1440) == (1312, 1568)
    assert resolve_size("3:5", 1440) == (1856, 1104)
    assert resolve_size("1920:1080", 1440) == resolve_size("16:9", 1440)
    assert resolve_size("0.5:1") == (1472, 736)


def test_small_bases() -> None:
    assert resolve_size("1:1", 128) == (128, 128)
    assert resolve_size("4:3", 128) == (112, 144)
    assert resolve_size("2:1", 128) == (96, 176)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (1000, 1024, "height 1000 must be a multiple of 16; the nearest is 992"),
        (1024, 1023, "width 1023 must be a multiple of 16; the nearest is 1024"),
        (0, 1024, "height 0 must be a positive whole number"),
        (1024, -16, "width -16"),
        (1024.0, 1024, "height 1024.0"),
        (True, 16, "height True"),
        (512, 1040, "2.03"),
        (1456, 1440, str(1456 * 1440)),
        (2080, 1056, str(MAX_AREA)),
    ],
)
def test_impossible_sizes_name_value_and_rule(height: int, width: int, message: str) -> None:
    with pytest.raises(InvalidSizeError, match=message):
        validate_size(height, width)


@pytest.mark.parametrize("ratio", ["3:1", "1:3", "square", "1", "0:1", "1:0", "nan:1", ""])
def test_impossible_ratios_are_named(ratio: str) -> None:
    with pytest.raises(InvalidSizeError, match="aspect ratio"):
        resolve_size(ratio)


def test_a_checkpoints_sizes_are_known_from_its_settings(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    vae = tmp_path / "vae"
    assert read_size_rules(tmp_path, vae) == pipeline.size_rules == SizeRules(64, 48, 16)
    assert pipeline.size_rules.fitting(50, 70) == pipeline.fitting_size(50, 70) == (48, 64)
    config = json.loads((vae / "config.json").read_text())
    shallow = json.dumps(config | {"block_out_channels": [8, 8, 8]})
    for metadata, multiple in ((None, 16), ({"lens_config": shallow}, 8)):
        save_file({"x": torch.zeros(1)}, tmp_path / "vae.safetensors", metadata)
        rules = read_size_rules("lens-turbo", tmp_path / "vae.safetensors")
        assert rules == SizeRules(1024, 1024, multiple)
    for wrong in ({"patch_size": 2}, {"patch_size": []}, {"block_out_channels": 4}):
        (vae / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(CheckpointError, match=r"vae: not the configuration of a FLUX\.2"):
            read_size_rules(tmp_path, vae)
    (vae / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        read_size_rules(tmp_path, vae)


def test_sizes_are_known_without_torch() -> None:
    code = "import lens_core.checkpoints.size_rules, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mu_is_that_of_the_published_code() -> None:
    table = read_json("cases.json")["mu"]
    for key, expected in table.items():
        tokens, steps = map(int, key.split("_"))
        assert compute_mu(tokens, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["lens", "negative", "turbo"])
def test_sigmas_are_those_of_the_published_code(name: str) -> None:
    golden = case("pipeline", name)
    tokens, steps = golden["latents_in"].shape[1], len(golden["timesteps"])
    assert max_error(make_sigmas(steps, compute_mu(tokens, steps)), golden["sigmas"]) < 1e-7


def test_sigmas_of_lens_turbo() -> None:
    square = make_sigmas(4, compute_mu(4096, 4)).tolist()
    assert square == pytest.approx([1, 0.9674, 0.9081, 0.7672, 0], abs=5e-5)
    large = make_sigmas(4, compute_mu(8100, 4)).tolist()
    assert large == pytest.approx([1, 0.9491, 0.8615, 0.6746, 0], abs=5e-5)
    assert make_sigmas(1, 2.0).tolist() == [1, 0]
    with pytest.raises(ParameterError, match="num_inference_steps 0"):
        make_sigmas(0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dynamic_shifting": False},
        {"time_shift_type": "linear"},
        {"shift_terminal": 0.02},
        {"use_karras_sigmas": True},
        {"num_train_timesteps": 500},
    ],
)
def test_a_scheduler_with_other_sigmas_is_refused(changes: dict[str, object]) -> None:
    scheduler = default_scheduler()
    check_scheduler(scheduler)
    with pytest.raises(ComponentError, match=next(iter(changes))):
        check_scheduler(type(scheduler).from_config(scheduler.config, **changes))


def test_guidance_keeps_the_length_of_every_token() -> None:
    cond, uncond = torch.randn(2, 2, 5, 8)
    guided = guide(cond, uncond, 5.0)
    plain = uncond + 5.0 * (cond - uncond)
    assert max_error(guided.norm(dim=-1), cond.norm(dim=-1)) < 1e-5
    assert torch.allclose(torch.cosine_similarity(guided, plain, dim=-1), torch.ones(2, 5))
    assert max_error(guide(cond, uncond, 1.0), cond) < 1e-5
    assert guide(torch.zeros_like(cond), torch.zeros_like(cond), 5.0).isfinite().all()


def test_tokens_are_patches_in_channel_row_column_order() -> None:
    grid = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    tokens = pack_tokens(grid)
    assert tokens.shape == (2, 2 * 3, 3 * 4)
    assert tokens[1, 4].tolist() == grid[1, :, 2:4, 2:4].flatten().tolist()
    assert torch.equal(unpack_tokens(tokens, 2, 3), grid)
    with pytest.raises(ParameterError, match="6 tokens"):
        unpack_tokens(tokens, 3, 3)
    with pytest.raises(ParameterError, match="5x6"):
        pack_tokens(torch.zeros(1, 1, 5, 6))


@torch.no_grad()
def test_normalisation_uses_the_batch_norm_statistics() -> None:
    vae = tiny_vae()
    grid = torch.randn(2, 4, 8, 6)
    tokens = pack_tokens(grid)
    patches = grid.reshape(2, 4, 4, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 16, 4, 3)
    vae.bn.eps = vae.config.batch_norm_eps
    expected = vae.bn(patches).flatten(2).transpose(1, 2)
    assert vae.config.batch_norm_eps == 1e-4
    assert max_error(normalise(tokens, vae), expected) < 1e-6
    assert max_error(denormalise(normalise(tokens, vae), vae), tokens) < 1e-5


@torch.no_grad()
def test_encoding_is_the_mode_and_decoding_its_counterpart() -> None:
    vae = tiny_vae()
    pixels = torch.rand(1, 3, 64, 48) * 2 - 1
    tokens = encode_pixels(pixels, vae)
    assert tokens.shape == (1, 12, 16)
    mode = vae.encode(pixels).latent_dist.mode()
    assert max_error(decode_tokens(tokens, vae, 4, 3), vae.decode(mode).sample) < 1e-4
