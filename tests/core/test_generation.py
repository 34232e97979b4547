"""Writing with the text encoder: the nano model's own, and a tiny one with the real tokenizer."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, PreTrainedTokenizerBase

import lens_core
from lens_core.chat import stop_token_ids
from lens_core.conversation import Turn, encode_conversation
from lens_core.errors import ComponentError, ParameterError
from lens_core.generation import Written, write_reply, write_tokens
from lens_core.loading import load_tokenizer
from lens_core.nano.chat import REWRITE_INSTRUCTION
from lens_core.text_encoder import LensTextEncoder
from lens_core.tokenizer import load_packaged_tokenizer
from tiny_components import tiny_text_encoder

Model = tuple[LensTextEncoder, PreTrainedTokenizerBase, list[int]]

SAMPLING = ("do_sample", "temperature", "repetition_penalty", "max_new_tokens")
REWRITING = [
    Turn("developer", REWRITE_INSTRUCTION),
    Turn("user", "two red apples left of a blue cup"),
]
QUESTION = [Turn("developer", "Be brief."), Turn("user", "Name a colour.")]


@pytest.fixture(scope="module")
def tiny() -> LensTextEncoder:
    """Random weights under the vocabulary of GPT-OSS; its window is shorter than a conversation."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=201_088,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=16,
        max_position_embeddings=512,
    )
    model = LensTextEncoder(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def nano() -> tuple[LensTextEncoder, PreTrainedTokenizerBase]:
    folder = Path(lens_core.__file__).parent / "weights" / "lens-nano"
    encoder = LensTextEncoder.from_pretrained(folder / "text_encoder")
    return encoder, load_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module", params=["tiny", "nano"])
def model(request: pytest.FixtureRequest) -> Model:
    """Text encoder, a conversation of more tokens than its window, its tokens."""
    if request.param == "tiny":
        encoder, tokenizer = request.getfixturevalue("tiny"), load_packaged_tokenizer()
        return encoder, tokenizer, encode_conversation(tokenizer, QUESTION)
    encoder, tokenizer = request.getfixturevalue("nano")
    return encoder, tokenizer, encode_conversation(tokenizer, REWRITING, reasoning_effort=None)


def _write(model: Model, **settings: Any) -> Written:
    encoder, _, ids = model
    settings = {"stop_ids": [], "max_new_tokens": 24, **settings}
    return write_tokens(encoder, ids, **settings)


def _sample(model: Model, seed: int, **settings: Any) -> Written:
    return _write(model, temperature=1.0, generator=torch.Generator().manual_seed(seed), **settings)


def test_the_cache_changes_nothing_but_the_time(model: Model) -> None:
    cached, uncached = _write(model), _write(model, use_cache=False)
    assert cached == uncached
    assert len(cached.token_ids) == 24
    assert len(set(cached.token_ids)) > 4
    assert cached.tokens_read == len(model[2])


def test_the_library_writes_the_same(model: Model) -> None:
    encoder, _, ids = model
    row = torch.tensor([ids])
    output = encoder.generate(
        row,
        attention_mask=torch.ones_like(row),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert _write(model).token_ids == tuple(output[0, len(ids) :].tolist())


def test_the_seed_decides_everything(model: Model) -> None:
    state = torch.get_rng_state()
    first = _sample(model, 1)
    assert _sample(model, 1) == first
    assert _sample(model, 1, use_cache=False) == first
    assert _sample(model, 2) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tiny_nucleus_is_the_likeliest_token(model: Model) -> None:
    assert _sample(model, 1, top_p=1e-6) == _write(model)


def test_writing_ends_at_a_stop_token_or_at_the_limit(model: Model) -> None:
    free = _write(model)
    assert free.finish_reason == "length"
    stop = free.token_ids[5]
    stopped = _write(model, stop_ids=[stop])
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def test_writing_ends_when_nobody_waits(model: Model) -> None:
    calls = iter([False, False, True])
    written = _write(model, cancelled=lambda: next(calls))
    assert written.finish_reason == "cancelled"
    assert written.token_ids == _write(model).token_ids[:3]


def _weights(module: nn.Module) -> tuple[int, set[int]]:
    """How many numbers a model holds, and where."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() for t in tensors), {t.data_ptr() for t in tensors}


def test_writing_adds_no_weights(model: Model) -> None:
    encoder, tokenizer, _ = model
    gc.collect()
    everywhere = sum(type(thing) is nn.Parameter for thing in gc.get_objects())
    before = _weights(encoder)
    write_reply(
        encoder, tokenizer, QUESTION, max_new_tokens=8, generator=torch.Generator().manual_seed(0)
    )
    gc.collect()
    assert _weights(encoder) == before
    assert sum(type(thing) is nn.Parameter for thing in gc.get_objects()) == everywhere


def test_stored_settings_do_not_mix_with_those_asked_for(model: Model) -> None:
    """Checkpoints of GPT-OSS come with settings that sample from torch's global generator."""
    encoder = model[0]
    expected = _write(model)
    stored = encoder.generation_config.to_dict()
    encoder.generation_config.update(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, max_new_tokens=2
    )
    try:
        assert _write(model) == expected
    finally:
        encoder.generation_config.update(**{k: stored.get(k) for k in SAMPLING})


def test_the_nano_model_answers_as_it_was_trained(nano) -> None:
    encoder, tokenizer = nano
    reply = write_reply(encoder, tokenizer, REWRITING, reasoning_effort=None, temperature=0)
    assert reply.written.finish_reason == "stop"
    assert reply.written.token_ids[-1] in stop_token_ids(tokenizer, final_prefilled=True)
    assert "<|" not in reply.text
    assert len(reply.text.split()) > 15
    assert "cup" in reply.text


def test_without_a_head_there_is_one_typed_error() -> None:
    with pytest.raises(ComponentError, match="head"):
        write_tokens(tiny_text_encoder(has_lm_head=False), [1, 2], stop_ids=[5], max_new_tokens=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.5}, "-0.5"),
        ({"temperature": float("nan")}, "nan"),
        ({"temperature": 1.0}, "Generator"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_outside_their_range_are_refused(model: Model, settings, message) -> None:
    with pytest.raises(ParameterError, match=message):
        _write(model, **settings)


def test_the_models_length_is_kept(tiny: LensTextEncoder) -> None:
    most = tiny.config.max_position_embeddings
    with pytest.raises(ParameterError, match=f"{most}"):
        write_tokens(tiny, [1] * most, stop_ids=[], max_new_tokens=1)
    written = write_tokens(tiny, [1] * (most - 3), stop_ids=[], max_new_tokens=50)
    assert len(written.token_ids) == 3
    assert written.finish_reason == "length"
