"""The offline reasoner: faithful drafts are taken, everything else falls back to the user."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_core.chat import encode_chat
from lens_core.generation import Sampler
from lens_core.nano.chat import rewrite_chat
from lens_core.pipeline import LensPipeline
from lens_reasoner import GeneratorError, ImageRequest, Reasoner, Rewrite
from lens_sdk.drafting import Draft, write_draft
from lens_sdk.models import LensModel
from lens_sdk.nano_reasoner import FREE_DRAFTS, LED_DRAFTS, NanoReasoner
from lens_sdk.runtime import LensRuntime

REQUEST = "two red apples left of a blue cup"
GOOD = (
    "On a plain mint background are two small red apples and a large blue cup. The apples are on "
    "the left and in the upper left. The cup is in the lower right."
)


class ScriptedEncoder:
    """Writes given texts one after another, as a language model with a head would."""

    device = torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=4096)
    has_lm_head = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.prompts: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        if input_ids.shape[1] > 1:
            self.prompts.append(input_ids[0].tolist())
            text = self.texts.pop(0) + "<|return|>"
            self.left = self.tokenizer.encode(text, add_special_tokens=False)
        logits = torch.zeros(1, 1, len(self.tokenizer))
        logits[0, 0, self.left.pop(0)] = 1e4
        return SimpleNamespace(logits=logits, past_key_values="what was read")


@pytest.fixture
def long_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_sdk.nano_reasoner.MAX_NEW_TOKENS", 160)


def _scripted(
    model: LensModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[NanoReasoner, ScriptedEncoder]:
    encoder = ScriptedEncoder(tokenizer, texts)
    pipeline: Any = SimpleNamespace(text_encoder=encoder, tokenizer=tokenizer)
    return NanoReasoner(LensRuntime.of_pipeline(model, pipeline)), encoder


async def _rewrite(reasoner: NanoReasoner, text: str) -> Rewrite:
    return await reasoner.rewrite(ImageRequest(text=text))


@pytest.mark.usefixtures("long_drafts")
async def test_the_first_faithful_draft_is_taken(
    nano_model: LensModel, nano_tokenizer: PreTrainedTokenizerFast
) -> None:
    one_apple = GOOD.replace("two small red apples", "a small red apple")
    reasoner, encoder = _scripted(nano_model, nano_tokenizer, [one_apple, GOOD, GOOD])
    rewrite = await _rewrite(reasoner, REQUEST)
    assert rewrite.prompt == GOOD
    assert rewrite.model == "small-nano (draft 2)"
    assert encoder.texts == [GOOD]
    expected = encode_chat(nano_tokenizer, rewrite_chat(REQUEST, "2026-05-23"))
    assert encoder.prompts == [expected, expected]
    assert rewrite.usage.input_tokens == 2 * len(expected)
    assert rewrite.usage.usd == 0


@pytest.mark.usefixtures("long_drafts")
async def test_without_a_faithful_draft_the_users_words_are_drawn(
    nano_model: LensModel, nano_tokenizer: PreTrainedTokenizerFast
) -> None:
    wrong = GOOD.replace("red", "green")
    reasoner, encoder = _scripted(nano_model, nano_tokenizer, [wrong] * (FREE_DRAFTS + LED_DRAFTS))
    rewrite = await _rewrite(reasoner, REQUEST)
    assert rewrite.prompt == REQUEST
    assert rewrite.model.startswith("none: ")
    assert encoder.texts == []
    led = nano_tokenizer.decode(encoder.prompts[-1])
    assert led.endswith("The picture shows a medium blue cup and two medium red apples.")


async def test_a_random_encoder_never_gets_its_way(nano_runtime: LensRuntime) -> None:
    reasoner = NanoReasoner(nano_runtime)
    assert isinstance(reasoner, Reasoner)
    rewrite = await _rewrite(reasoner, REQUEST)
    assert rewrite.prompt == REQUEST
    assert rewrite.usage.output_tokens is not None
    assert rewrite.usage.output_tokens >= FREE_DRAFTS + LED_DRAFTS


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a dragon in the rain", "outside the nano world"),
        ("a dragon next to a red apple", "dragon, next"),
        (" ".join(["a red apple left of a blue cup,"] * 4), "already detailed"),
    ],
)
async def test_what_it_cannot_improve_is_left_alone_unread(
    nano_model: LensModel, text: str, why: str
) -> None:
    runtime = LensRuntime(nano_model)
    rewrite = await _rewrite(NanoReasoner(runtime), text)
    assert rewrite.prompt == text
    assert why in rewrite.model
    assert not runtime.loaded


async def test_a_model_that_cannot_write_is_a_typed_error(
    nano_model: LensModel, nano_tokenizer: PreTrainedTokenizerFast
) -> None:
    pipeline: Any = SimpleNamespace(text_encoder=None, tokenizer=nano_tokenizer)
    reasoner = NanoReasoner(LensRuntime.of_pipeline(nano_model, pipeline))
    with pytest.raises(GeneratorError, match="cannot rewrite"):
        await _rewrite(reasoner, REQUEST)


@pytest.mark.usefixtures("long_drafts")
async def test_what_was_right_is_kept_and_written_on(
    nano_model: LensModel, nano_tokenizer: PreTrainedTokenizerFast
) -> None:
    first, second, third = (f"{part}." for part in GOOD.rstrip(".").split(". "))
    texts = [f"{first} {second} The cup is on the left.", third]
    reasoner, encoder = _scripted(nano_model, nano_tokenizer, texts)
    rewrite = await _rewrite(reasoner, REQUEST)
    assert rewrite.prompt == GOOD
    assert nano_tokenizer.decode(encoder.prompts[1]).endswith(f"{first} {second}")


def test_drafts_depend_on_the_seed_alone(nano_pipeline: LensPipeline) -> None:
    chat = rewrite_chat(REQUEST, "2026-05-23")

    def draft(seed: int, temperature: float = 1.0) -> Draft:
        return write_draft(
            nano_pipeline, chat, temperature=temperature, seed=seed, max_new_tokens=12
        )

    state = torch.get_rng_state()
    first = draft(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert draft(1) == first
    assert draft(2) != first
    assert draft(1, temperature=0) == draft(2, temperature=0)
    assert first.tokens_written <= 12


def test_sampling_follows_the_softmax() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampler = Sampler(0.8, torch.Generator().manual_seed(3))
    picks = Counter(sampler.choose(scores) for _ in range(4000))
    expected = torch.softmax(scores / 0.8, dim=-1)
    for token, share in enumerate(expected.tolist()):
        assert picks[token] / 4000 == pytest.approx(share, abs=0.03)
