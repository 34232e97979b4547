"""The order in which weights come and go, what it takes at most, and real sizes counted by hand."""

import pytest
import torch

from lens_core.memory.dry_run import Work
from lens_core.memory.footprint import footprint_of
from lens_core.memory.layout import layout_of
from lens_core.memory.placed import PlacedComponent
from lens_core.memory.placements import Placements
from lens_core.memory.plan import PLANS, MemoryPlan
from lens_core.memory.predict import predict
from lens_core.memory.published import published_model
from memory_probes import Late, Unpaced
from mid_size import mid_pipeline, mid_transformer


@torch.no_grad()
def streamed(transfer: Late) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Velocity plainly and streamed, and the bytes that streaming may take."""
    model = mid_transformer()
    tokens, features = torch.randn(1, 16, 16), [torch.randn(1, 3, 128) for _ in range(4)]

    def run() -> torch.Tensor:
        return model(tokens, features, None, torch.tensor([0.5]), [(1, 4, 4)]).sample

    plain = run()
    placed = PlacedComponent(layout_of(model), "stream", transfer)
    placed.load()
    found = run()
    found = run()
    placed.remove()
    return plain, found, footprint_of(model).working("stream")


def test_streaming_never_holds_more_than_was_predicted() -> None:
    transfer = Late()
    plain, found, allowed = streamed(transfer)
    assert torch.equal(found, plain)
    assert 0.95 * allowed < transfer.peak <= allowed
    # Without waiting, the host would have asked for all blocks before the first is done.
    unpaced = Unpaced()
    streamed(unpaced)
    assert unpaced.peak > 2 * allowed


def test_a_part_comes_when_the_one_before_has_left() -> None:
    pipeline, transfer = mid_pipeline(), Late()
    parts = {
        name: (getattr(pipeline, name), "offload")
        for name in ("text_encoder", "transformer", "vae")
    }
    placements = Placements(torch.device("cpu"), transfer)
    placements.place(parts)  # type: ignore[arg-type]
    for name in ("text_encoder", "transformer", "vae", "transformer"):
        placements.enter(name)
    placements.clear()
    largest = max(footprint_of(part).working("offload") for part, _ in parts.values())
    assert transfer.peak <= largest
    assert transfer.live > 0


DIM, HIDDEN, LAYERS, WIDTH = 1536, 4096, 48, 2880
TOKENS = 512


def _denoiser() -> tuple[int, int, int]:
    """Parameters of a block without modulations, of its modulations, and outside the blocks."""
    stream = 4 * DIM * DIM + 4 * DIM + 3 * DIM * HIDDEN + 2 * DIM + 2 * 64
    modulations = 2 * (6 * DIM * DIM + 6 * DIM)
    embedders = 129 * DIM + 4 * WIDTH * DIM + DIM + 4 * WIDTH + 257 * DIM + DIM * DIM + DIM
    last = 2 * DIM * DIM + 2 * DIM + 128 * DIM + 128
    return 2 * stream, modulations, embedders + last


def _encoder() -> tuple[int, int, int]:
    """Bytes of a layer with packed experts, outside the layers, and of the head."""
    expert = 3 * WIDTH * WIDTH * 17 // 32 + 2 * 3 * WIDTH
    heads, shared = 4096, 2 * 512
    attention = (WIDTH + 1) * (heads + shared) + (heads + 1) * WIDTH + 64
    router, norms = 32 * (WIDTH + 1), 2 * WIDTH
    layer = 32 * expert + 2 * (attention + router + norms)
    words = 2 * 201088 * WIDTH
    return layer, words + 2 * WIDTH, words


@pytest.mark.parametrize("side", [1024, 1440])
def test_predictions_agree_with_a_count_by_hand(side: int) -> None:
    model = published_model()
    block, modulations, outside = _denoiser()
    assert LAYERS * (block + modulations) + outside == 4_104_225_152
    decoder = 2 * sum(p.numel() for p in model.vae.parameters())
    image_tokens = (side // 16) ** 2
    for plan in PLANS.values():
        found = predict(model, plan, Work(side, side)).stages
        weights = _weights(plan, decoder)
        computing = {stage: found[stage] - weights[stage] for stage in found}
        table = 51 * LAYERS * 2 * 6 * DIM * 2 if plan.modulation_table else 0
        # One expert unpacked at least; attention's scores and a few copies of the text at most.
        assert 2 * 2 * WIDTH * WIDTH < computing["encode"] < 0.35 * 2**30, plan.name
        # An MLP keeps three tensors of its hidden width, besides the streams.
        hidden = 2 * (image_tokens + TOKENS) * HIDDEN
        assert 2 * hidden < computing["denoise"] - table < 6 * hidden, plan.name
        if plan.vae_tile is None:
            # The widest layer at full size, coming in, in between and going out.
            widest = 2 * 256 * side * side
            assert 2 * widest < computing["decode"] - table < 4 * widest, plan.name


def _weights(plan: MemoryPlan, decoder: int) -> dict[str, int]:
    """Bytes of weights on the device in each stage."""
    block, modulations, outside = _denoiser()
    layer, words, head = _encoder()
    matrix = 1 if plan.transformer_weights == "fp8" else 2
    large = 2 * (4 * DIM * DIM + 3 * DIM * HIDDEN)
    scales = 4 * 2 * (5 * DIM + 2 * HIDDEN) if plan.transformer_weights == "fp8" else 0
    one = matrix * large + scales + 2 * (block - large)
    one += 0 if plan.modulation_table else 2 * modulations
    encoder = {
        "resident": 24 * layer + words + head,
        "offload": 24 * layer + words,
        "stream": 2 * layer + words,
    }
    denoiser = {
        "resident": LAYERS * one + 2 * outside,
        "offload": LAYERS * one + 2 * outside,
        "stream": 2 * one + 2 * outside,
    }
    places = {"encode": plan.text_encoder, "denoise": plan.transformer, "decode": plan.vae}
    sizes = {
        "encode": encoder[plan.text_encoder],
        "denoise": denoiser[plan.transformer],
        "decode": decoder,
    }
    return {
        stage: sum(
            size for other, size in sizes.items() if other == stage or places[other] == "resident"
        )
        for stage in sizes
    }
