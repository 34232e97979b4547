"""Offline rewriting with any GGUF file: a chat model, and a reasoner for very small models."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from lens_reasoner.chat import ChatReply, Message
from lens_reasoner.errors import ChatError
from lens_reasoner.gguf_model import GgufModel, GgufReply
from lens_reasoner.structured import ask_checked
from lens_reasoner.sync import run_sync
from lens_reasoner.types import ImageRequest, Rewrite, Usage

DEFAULT_MAX_TOKENS = 512

DENSE_WORDS = 25
"""Requests with at least this many words are detailed enough and are left alone."""

CONTINUATION_TOKENS = 48
"""Maximum tokens added to the request; very small models drift after one sentence."""

_REPEAT_PENALTY = 1.15

_INSTRUCTION = (
    "Continue the user's words into one sentence that describes the picture: materials, "
    "surroundings, light."
)
_EXAMPLES = (
    (
        "a cat",
        "a cat with thick grey fur and green eyes sits on a wooden window sill, soft morning light "
        "from the left, a blurred garden behind it.",
    ),
    (
        "two red apples left of a blue cup",
        "two red apples left of a blue cup, all three on a pale wooden table against a plain white "
        "wall, soft daylight, seen slightly from above.",
    ),
    (
        'a sign that says "OPEN"',
        'a sign that says "OPEN" in large white letters on a dark green board, hanging on the glass'
        " door of a small shop, evening light.",
    ),
)
_SENTENCE = re.compile(r"[.!?](?=\s|$)")


class GgufChat:
    """A `ChatModel` that runs a GGUF file; text only, so it cannot judge images."""

    def __init__(self, model: GgufModel | str | Path | None = None, *, seed: int = 0) -> None:
        """Choose the model.

        Args:
            model: A model or the path of its file; None means `default_gguf`, a small model.
            seed: Sampling seed for calls that give none.

        Raises:
            ChatError: The file or the runtime is missing; the fault is "unavailable".
        """
        self._gguf = model if isinstance(model, GgufModel) else GgufModel(model)
        self._seed = seed

    @property
    def model(self) -> str:
        """Name of the file, without its suffix."""
        return self._gguf.name

    @property
    def fingerprint(self) -> str:
        """Name and size of the file, and the seed."""
        return f"{self._gguf.identity} seed={self._seed}"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """See `ChatModel.complete`.

        Raises:
            TextOnlyError: A message contains an image.
            ChatError: There is no complete reply that matches `schema`.
        """

        async def ask(asked: Sequence[Message]) -> ChatReply:
            started = time.perf_counter()
            reply = await self._gguf.turns.run(
                lambda: self._gguf.ask(
                    asked,
                    max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
                    temperature=0.0 if temperature is None else temperature,
                    seed=self._seed if seed is None else seed,
                    schema=schema,
                )
            )
            self._check_complete(reply)
            return ChatReply(
                text=reply.text,
                parsed=None,
                usage=reply.usage,
                model=self.model,
                seconds=time.perf_counter() - started,
                finish_reason=reply.finish_reason,
            )

        return await ask_checked(ask, messages, schema, model=self.model)

    def complete_sync(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """Synchronous version of `complete`, which also works in notebooks."""
        return run_sync(
            self.complete(
                messages, schema=schema, temperature=temperature, max_tokens=max_tokens, seed=seed
            )
        )

    def _check_complete(self, reply: GgufReply) -> None:
        if reply.finish_reason == "length":
            raise ChatError(
                f"The reply of {self.model!r} was cut off after {reply.usage.output_tokens} "
                "tokens.",
                fault="truncated",
                model=self.model,
                usage=reply.usage,
                detail=reply.text[-200:],
                hint="Raise max_tokens.",
            )
        if not reply.text.strip():
            raise ChatError(
                f"{self.model!r} gave an empty reply.",
                fault="malformed",
                model=self.model,
                usage=reply.usage,
                hint="Choose another model.",
            )


class GgufReasoner:
    """Continues short requests into one sentence, with a model too small to follow instructions.

    The prompt always begins with the user's own words, so nothing they asked for is lost. It
    refuses nothing: with untrusted requests, put a moderator before it. These models answer
    questions no better than chance, so they cannot judge.
    """

    def __init__(self, model: GgufModel | str | Path | None = None) -> None:
        """Choose the model.

        Args:
            model: A model or the path of its file; None means `default_gguf`, a small model.

        Raises:
            ChatError: The file or the runtime is missing; the fault is "unavailable".
        """
        self._gguf = model if isinstance(model, GgufModel) else GgufModel(model)

    @property
    def fingerprint(self) -> str:
        """The file, and a hash of the instruction, the examples and the sampling settings."""
        shown = f"{_INSTRUCTION}|{_EXAMPLES}|{DENSE_WORDS}|{CONTINUATION_TOKENS}|{_REPEAT_PENALTY}"
        return f"{self._gguf.identity} {hashlib.sha256(shown.encode()).hexdigest()[:8]}"

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """See `Reasoner.rewrite`. Detailed requests and non-Latin scripts are left unchanged.

        Raises:
            ChatError: The file cannot be loaded.
        """
        started = time.perf_counter()
        prompt, author, usage = request.text, "", Usage.zero()
        if len(request.text.split()) >= DENSE_WORDS:
            author = "none: the request is already detailed"
        elif any(letter.isalpha() and ord(letter) > 0x24F for letter in request.text):
            author = f"none: {self._gguf.name} was not trained on this script"
        else:
            beginning = request.text.strip().rstrip(".!,;: ") or request.text.strip()
            reply = await self._gguf.turns.run(
                lambda: self._gguf.ask(
                    _few_shot(beginning),
                    max_tokens=CONTINUATION_TOKENS,
                    temperature=0.0,
                    seed=0,
                    repeat_penalty=_REPEAT_PENALTY,
                )
            )
            prompt, author, usage = _joined(beginning, reply.text), self._gguf.name, reply.usage
        return Rewrite(
            request=request.text,
            prompt=prompt,
            model=author,
            usage=usage,
            seconds=time.perf_counter() - started,
        )


def _few_shot(beginning: str) -> list[Message]:
    """The examples, and the user's words as the beginning of the next answer."""
    shown = [
        message
        for request, answer in _EXAMPLES
        for message in (Message.user(request), Message.assistant(answer))
    ]
    return [
        Message.system(_INSTRUCTION),
        *shown,
        Message.user(beginning),
        Message.assistant(beginning),
    ]


def _joined(beginning: str, written: str) -> str:
    """The user's words and the rest of their sentence, without a truncated end."""
    added = written.removeprefix(beginning).split("\n", maxsplit=1)[0]
    end = _SENTENCE.search(added)
    # If the sentence was truncated, keep its complete clauses.
    kept = added[: end.end()] if end else added.rpartition(",")[0] + "."
    return beginning + kept
