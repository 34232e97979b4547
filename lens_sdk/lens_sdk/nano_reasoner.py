"""The offline reasoner: the nano model's own text encoder expands brief requests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from lens_core.chat import DEFAULT_DATE
from lens_core.errors import ComponentError
from lens_core.nano.chat import rewrite_chat
from lens_core.nano.requests import parse_request
from lens_reasoner import GeneratorError, ImageRequest, Rewrite, Usage
from lens_sdk.drafting import write_drafts
from lens_sdk.nano_caption import unfaithful
from lens_sdk.nano_words import foreign_words
from lens_sdk.runtime import LensRuntime

DENSE_WORDS = 25
"""Requests of this many words describe their picture already and are left alone."""

TEMPERATURES = (0.0, 0.4, 0.6, 0.6, 0.8, 0.8, 1.0, 1.0)
"""Drafts are written in this order until one is faithful; 0 is greedy."""

MAX_NEW_TOKENS = 224
"""Most tokens of a draft; the longest captions have about 130."""


@dataclass(frozen=True)
class _Outcome:
    """A prompt, who wrote it, and the tokens read and written on the way."""

    prompt: str
    author: str
    read: int = 0
    written: int = 0


class NanoReasoner:
    """Expands requests about the nano world into dense captions.

    A small model drops and invents things, so every draft is read back and held against the
    request: objects, counts, colours and relation must be there and nothing else. If no draft
    passes, the user's own words are drawn. `Rewrite.model` says which it was.
    """

    def __init__(self, runtime: LensRuntime, *, seed: int = 0) -> None:
        """Write with the text encoder of `runtime`.

        Args:
            runtime: The model; loaded when the first request comes.
            seed: Seed of the sampled drafts.
        """
        self._runtime = runtime
        self._seed = seed

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """See `Reasoner.rewrite`.

        Raises:
            GeneratorError: The model cannot be loaded or has no head to write with.
        """
        started = time.perf_counter()
        outcome = await asyncio.to_thread(self._decide, request.text)
        return Rewrite(
            request=request.text,
            prompt=outcome.prompt,
            model=outcome.author,
            usage=Usage(
                input_tokens=outcome.read, output_tokens=outcome.written, cached_tokens=0, usd=0.0
            ),
            seconds=time.perf_counter() - started,
        )

    def _decide(self, text: str) -> _Outcome:
        if len(text.split()) >= DENSE_WORDS:
            return _Outcome(text, "none: the request is already detailed")
        if parse_request(text) is None:
            return _Outcome(text, "none: the request is outside the nano world")
        if unknown := foreign_words(text):
            return _Outcome(text, f"none: outside the nano world is {', '.join(unknown)}")
        try:
            return self._expand(text)
        except ComponentError as error:
            raise GeneratorError(
                f"{self._runtime.model.name!r} cannot rewrite: {error}.",
                hint="Choose another reasoner, or none.",
            ) from error

    def _expand(self, text: str) -> _Outcome:
        name, fault, read, written = self._runtime.model.name, "", 0, 0
        with self._runtime.exclusive() as pipeline:
            drafts = write_drafts(
                pipeline,
                rewrite_chat(text, DEFAULT_DATE),
                max_new_tokens=MAX_NEW_TOKENS,
                temperatures=TEMPERATURES,
                seed=self._seed,
            )
            for number, (draft, tokens_in, tokens_out) in enumerate(drafts, start=1):
                read, written = read + tokens_in, written + tokens_out
                fault = unfaithful(draft, text)
                if not fault:
                    return _Outcome(draft, f"{name} (draft {number})", read, written)
        author = f"none: of {len(TEMPERATURES)} drafts by {name}, the last says {fault}"
        return _Outcome(text, author, read, written)
