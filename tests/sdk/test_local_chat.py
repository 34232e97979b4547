"""The text encoder of a Lens as a chat model: real weights, really trained to answer."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GptOssConfig, PreTrainedTokenizerFast

from lens_core.conversation import ResponseFormat, Turn, encode_conversation
from lens_core.nano.chat import REWRITE_INSTRUCTION
from lens_core.pipeline import LensPipeline
from lens_core.text_encoder import LensTextEncoder
from lens_core.tokenizer import load_packaged_tokenizer
from lens_reasoner import (
    ChatError,
    ChatModel,
    ImagePart,
    Message,
    Usage,
)
from lens_reasoner.errors import TextOnlyError
from lens_reasoner.structured import OffSchema, again, read_json
from lens_sdk.local_chat import LocalChat
from lens_sdk.models import LensModel, resolve_model
from lens_sdk.runtime import LensRuntime
from tiny_components import CONTROL, tiny_pipeline, tiny_text_encoder


class Colour(BaseModel):
    name: Literal["red", "blue"]


SYSTEM = "Name a colour."
FORM = ResponseFormat("Colour", Colour.model_json_schema())
OFF, RIGHT = '{"name": "mauve"}', '{"name": "red"}'
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"


def _second_question(first: str) -> list[Turn]:
    try:
        read_json(OFF, Colour)
    except OffSchema as error:
        asked = again(OFF, str(error), Colour)
    roles = {"assistant": "assistant", "user": "user"}
    return [Turn("developer", SYSTEM), Turn("user", first)] + [
        Turn(roles[message.role], message.text) for message in asked
    ]


def _lessons() -> list[tuple[list[Turn], ResponseFormat | None, str]]:
    """Conversations and what the model learns to write after them."""
    system = Turn("developer", SYSTEM)
    return [
        ([system, Turn("user", "sky")], FORM, f"{THOUGHT}{FINAL}{RIGHT}<|return|>"),
        ([system, Turn("user", "sea")], FORM, f"{THOUGHT}{FINAL}{OFF}<|return|>"),
        (_second_question("sea"), FORM, f"{FINAL}{RIGHT}<|return|>"),
        ([system, Turn("user", "mud")], FORM, f"{THOUGHT}{FINAL}{OFF}<|return|>"),
        (_second_question("mud"), FORM, f"{FINAL}{OFF}<|return|>"),
        ([system, Turn("user", "sky")], None, f"{THOUGHT}{FINAL}Blue, I think.<|return|>"),
        ([system, Turn("user", "void")], None, f"{THOUGHT.split('<|start|>')[0]}<|return|>"),
    ]


LESSONS = _lessons()


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One that knows these texts, so that conversations are short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|return|>", pad_token="<|endoftext|>"
    )


def _row(
    tokenizer: PreTrainedTokenizerFast, turns: list[Turn], form: ResponseFormat | None, answer: str
) -> tuple[list[int], list[int]]:
    asked = encode_conversation(tokenizer, turns, response_format=form)
    answered = tokenizer.encode(answer, add_special_tokens=False)
    return asked + answered, [-100] * len(asked) + answered


@pytest.fixture(scope="session")
def taught() -> LensPipeline:
    """A small GPT-OSS that has learnt a handful of answers by heart."""
    torch.manual_seed(0)
    plain = load_packaged_tokenizer()
    texts = [
        plain.decode(encode_conversation(plain, turns, response_format=form)) + answer
        for turns, form, answer in LESSONS
    ]
    tokenizer, pipeline = _tokenizer(texts), tiny_pipeline()
    rows = [_row(tokenizer, *lesson) for lesson in LESSONS]
    longest = max(len(row) for row, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([label + [-100] * (longest - len(label)) for _, label in rows])
    config = GptOssConfig(
        vocab_size=900,
        hidden_size=48,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=128,
    )
    model = LensTextEncoder(config).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        each = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none")
        # Greedy decoding says every answer once its least likely token is all but certain.
        if each.max() < 0.1:
            break
        optimiser.zero_grad()
        each.sum().div(labels[:, 1:].ge(0).sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimiser.step()
    assert each.max() < 0.1
    pipeline.text_encoder = model.eval()
    pipeline.tokenizer = tokenizer
    return pipeline


@pytest.fixture
def chat(taught: LensPipeline, tmp_path: Path) -> LocalChat:
    model = LensModel(name="taught", folder=tmp_path, nano=False)
    return LocalChat(LensRuntime.of_pipeline(model, taught), temperature=0)


def _messages(text: str) -> list[Message]:
    return [Message.system(SYSTEM), Message.user(text)]


async def test_it_thinks_first_and_answers_in_the_final_channel(chat: LocalChat) -> None:
    assert isinstance(chat, ChatModel)
    reply = await chat.complete(_messages("sky"))
    assert (reply.text, reply.parsed, reply.finish_reason) == ("Blue, I think.", None, "stop")
    assert reply.model == chat.model == "taught (text encoder)"
    assert reply.usage.input_tokens > 20
    assert 5 < reply.usage.output_tokens < 30
    assert reply.usage.usd == 0
    assert reply.seconds > 0


async def test_a_reply_of_the_asked_form_is_parsed(chat: LocalChat) -> None:
    reply = await chat.complete(_messages("sky"), schema=Colour)
    assert reply.parsed_as(Colour).name == "red"
    assert reply.reask == Usage.zero()


async def test_a_reply_off_the_form_is_asked_for_once_more(chat: LocalChat) -> None:
    reply = await chat.complete(_messages("sea"), schema=Colour)
    assert reply.parsed_as(Colour).name == "red"
    assert 0 < reply.reask.output_tokens < reply.usage.output_tokens
    assert 0 < reply.reask.input_tokens < reply.usage.input_tokens


async def test_two_replies_off_the_form_are_an_error(chat: LocalChat) -> None:
    with pytest.raises(ChatError, match="Colour") as caught:
        await chat.complete(_messages("mud"), schema=Colour)
    assert caught.value.fault == "off_schema"
    assert "mauve" in caught.value.detail
    assert caught.value.usage.output_tokens > 10


async def test_only_thinking_and_running_out_of_tokens_are_errors(chat: LocalChat) -> None:
    with pytest.raises(ChatError, match="empty") as caught:
        await chat.complete(_messages("void"))
    assert (caught.value.fault, caught.value.detail) == ("malformed", "Hm.")
    with pytest.raises(ChatError, match="cut off after 3") as caught:
        await chat.complete(_messages("sky"), max_tokens=3)
    assert caught.value.fault == "truncated"
    assert caught.value.usage.output_tokens == 3


def _weights(pipeline: LensPipeline) -> tuple[int, set[int]]:
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    return sum(t.numel() for t in tensors), {t.data_ptr() for t in tensors}


async def test_it_adds_no_weights_to_the_pipeline(chat: LocalChat, taught: LensPipeline) -> None:
    gc.collect()
    everywhere = sum(type(thing) is nn.Parameter for thing in gc.get_objects())
    before = _weights(taught)
    await chat.complete(_messages("sky"))
    gc.collect()
    assert _weights(taught) == before
    assert sum(type(thing) is nn.Parameter for thing in gc.get_objects()) == everywhere


@pytest.fixture(scope="module")
def nano() -> LensRuntime:
    return LensRuntime(resolve_model())


async def test_the_shipped_model_rewrites_when_asked_as_it_was_trained(nano: LensRuntime) -> None:
    messages = [
        Message.system(REWRITE_INSTRUCTION),
        Message.user("two red apples left of a blue cup"),
    ]
    chat = LocalChat(nano, temperature=0.7, seed=1)
    first, again = [await chat.complete(messages) for _ in range(2)]
    assert len(first.text.split()) > 15
    assert "<|" not in first.text
    assert again.text == first.text
    assert (await chat.complete(messages, seed=2)).text != first.text
    cold = [await chat.complete(messages, temperature=0, seed=seed) for seed in (1, 2)]
    assert cold[0].text == cold[1].text


async def test_a_cancelled_task_stops_the_writing_at_the_next_token(
    chat: LocalChat, taught: LensPipeline
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    passes = []

    def wait(*_: object) -> None:
        passes.append(1)
        reading.set()
        go_on.wait(10)

    hook = taught.text_encoder.register_forward_pre_hook(wait)
    try:
        task = asyncio.create_task(chat.complete(_messages("sky")))
        assert await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        with chat._runtime.exclusive():
            assert len(passes) == 1
    finally:
        hook.remove()


async def test_nothing_else_uses_the_model_meanwhile(chat: LocalChat) -> None:
    with chat._runtime.exclusive():
        task = asyncio.create_task(chat.complete(_messages("sky")))
        await asyncio.sleep(0.2)
        assert not task.done()
    assert (await task).text == "Blue, I think."


def test_plain_code_can_ask(chat: LocalChat) -> None:
    assert chat.complete_sync(_messages("sky"), schema=Colour).parsed_as(Colour).name == "red"


def test_a_cache_tells_its_settings_apart(nano: LensRuntime) -> None:
    settings: list[dict[str, Any]] = [{}, {"thinking": "high"}, {"temperature": 0.5}, {"seed": 1}]
    assert len({LocalChat(nano, **given).fingerprint for given in settings}) == 4


async def test_pictures_are_refused(chat: LocalChat) -> None:
    with pytest.raises(TextOnlyError, match="image"):
        await chat.complete([Message.user("What is it?", ImagePart(b"png"))])


async def test_models_that_cannot_write_are_one_typed_error(tmp_path: Path) -> None:
    model = LensModel(name="mute", folder=tmp_path / "absent", nano=False)
    tiny, headless = tiny_pipeline(), tiny_text_encoder(has_lm_head=False)
    rest = (tiny.vae, tiny.tokenizer, tiny.scheduler)
    mute = LensPipeline(tiny.transformer, headless, *rest)
    nothing = LensPipeline(tiny.transformer, None, tiny.vae, None, tiny.scheduler)
    runtimes = [LensRuntime.of_pipeline(model, pipeline) for pipeline in (mute, nothing)]
    for runtime in [*runtimes, LensRuntime(model)]:
        with pytest.raises(ChatError, match="mute") as caught:
            await LocalChat(runtime).complete(_messages("sky"))
        assert caught.value.fault == "unavailable"


async def test_a_conversation_beyond_the_models_length_is_refused(
    chat: LocalChat, taught: LensPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taught.text_encoder.config, "max_position_embeddings", 10)
    with pytest.raises(ChatError, match="tokens") as caught:
        await chat.complete(_messages("sky"))
    assert caught.value.fault == "rejected"
