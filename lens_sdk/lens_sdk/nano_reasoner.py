"""The offline reasoner: the nano model's own text encoder expands brief requests."""

from __future__ import annotations

import random
import threading
import time
import zlib
from dataclasses import dataclass

from lens_core.chat import DEFAULT_DATE
from lens_core.errors import ComponentError
from lens_core.nano.chat import rewrite_chat
from lens_core.nano.requests import parse_request
from lens_reasoner import GeneratorError, ImageRequest, Rewrite, Usage
from lens_sdk.drafting import Draft, write_draft
from lens_sdk.nano_caption import sentences
from lens_sdk.nano_faithful import Faithfulness
from lens_sdk.nano_words import foreign_words
from lens_sdk.runtime import LensRuntime

DENSE_WORDS = 25
"""Requests of at least this many words are detailed enough and are not rewritten."""

FREE_DRAFTS = 8
"""Number of drafts that the model writes entirely by itself."""

LED_DRAFTS = 16
"""Number of further drafts that are given a first sentence naming what was asked for."""

TEMPERATURE = 0.7
"""Temperature of all drafts; greedy sampling would always choose the same background."""

PATIENCE = 3
"""Number of drafts from one beginning before its last sentence is dropped too."""

MAX_NEW_TOKENS = 160
"""Maximum number of tokens of a draft; the longest captions have about 100."""


@dataclass(frozen=True)
class _Outcome:
    """A prompt, its author, and the tokens read and written for it."""

    prompt: str
    author: str
    read: int = 0
    written: int = 0


class NanoReasoner:
    """Expands requests about the nano world into dense captions.

    A small model omits and invents things, so every draft is parsed and checked against the
    request: it must state the objects, counts, colours and relation, and nothing else. The
    sentences before the first mistake are kept, and the model continues from there. If no draft
    passes, the request itself is the prompt. `Rewrite.model` says which it was.
    """

    def __init__(self, runtime: LensRuntime, *, seed: int = 0) -> None:
        """Use the text encoder of `runtime`.

        Args:
            runtime: The model; loaded on the first request.
            seed: Seed of the drafts; the same request gets the same drafts.
        """
        self._runtime = runtime
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        """Identifies the weights and the seed of the drafts."""
        return f"nano-reasoner {self._runtime.fingerprint} seed {self._seed}"

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """See `Reasoner.rewrite`.

        Raises:
            GeneratorError: The model cannot be loaded or has no language model head.
        """
        started = time.perf_counter()
        abandoned = threading.Event()
        try:
            outcome = await self._runtime.write(lambda: self._decide(request.text, abandoned))
        finally:
            abandoned.set()
        return Rewrite(
            request=request.text,
            prompt=outcome.prompt,
            model=outcome.author,
            usage=Usage(
                input_tokens=outcome.read, output_tokens=outcome.written, cached_tokens=0, usd=0.0
            ),
            seconds=time.perf_counter() - started,
        )

    def _decide(self, text: str, abandoned: threading.Event) -> _Outcome:
        if len(text.split()) >= DENSE_WORDS:
            return _Outcome(text, "none: the request is already detailed")
        if parse_request(text) is None:
            return _Outcome(text, "none: the request is outside the nano world")
        if unknown := foreign_words(text):
            return _Outcome(text, f"none: outside the nano world is {', '.join(unknown)}")
        try:
            return self._expand(text, abandoned)
        except ComponentError as error:
            raise GeneratorError(
                f"{self._runtime.model.name!r} cannot rewrite: {error}.",
                hint="Choose another reasoner, or none.",
            ) from error

    def _expand(self, text: str, abandoned: threading.Event) -> _Outcome:
        name, chat = self._runtime.model.name, rewrite_chat(text, DEFAULT_DATE)
        check = Faithfulness(text)
        seed = self._seed + zlib.crc32(text.encode())
        led_by = check.first_sentence(random.Random(seed))
        beginning, tries, read, written = "", 0, 0, 0
        for number in range(FREE_DRAFTS + LED_DRAFTS):
            if abandoned.is_set():
                break
            if number >= FREE_DRAFTS and not beginning.startswith(led_by):
                beginning, tries = led_by, 0
            # Locked for one draft at a time, so that images can be generated in between.
            with self._runtime.exclusive() as pipeline:
                draft = write_draft(
                    pipeline,
                    chat,
                    beginning=beginning,
                    temperature=TEMPERATURE,
                    seed=seed + number,
                    max_new_tokens=MAX_NEW_TOKENS,
                )
            read, written = read + draft.tokens_read, written + draft.tokens_written
            if draft.complete and not check.fault(draft.text):
                return _Outcome(draft.text, f"{name} (draft {number + 1})", read, written)
            beginning, tries = _next_beginning(check, draft, beginning, tries)
        author = f"none: no draft by {name} says all that was asked for and nothing else"
        return _Outcome(text, author, read, written)


def _next_beginning(
    check: Faithfulness, draft: Draft, beginning: str, tries: int
) -> tuple[str, int]:
    """Return what to keep of a faulty draft, and how often that has been tried."""
    good = check.good_start(draft.text)
    if len(good) > len(beginning) and not (draft.complete and good == draft.text):
        return good, 0
    if tries + 1 < PATIENCE:
        return beginning, tries + 1
    return " ".join(sentences(beginning)[:-1]), 0
