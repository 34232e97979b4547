"""Uses the text encoder of a loaded Lens model as the chat model that it also is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from lens_core.errors import ComponentError, ParameterError
from lens_reasoner import ChatError, ChatReply, GeneratorError, Message
from lens_reasoner.chat import ImagePart
from lens_reasoner.errors import ChatFault, TextOnlyError
from lens_reasoner.structured import ask_checked
from lens_reasoner.sync import run_sync
from lens_reasoner.types import Usage
from lens_sdk.runtime import LensRuntime

if TYPE_CHECKING:
    from lens_core.conversation import Turn
    from lens_core.generation import Reply

Thinking = Literal["none", "low", "medium", "high"]

DEFAULT_MAX_TOKENS = 2048
"""Maximum number of tokens of an answer, including thinking."""


@dataclass(frozen=True)
class _Ask:
    """Everything about one call of the model."""

    turns: tuple[Turn, ...]
    temperature: float
    max_tokens: int
    seed: int
    schema: type[BaseModel] | None


class LocalChat:
    """A `ChatModel` that uses the GPT-OSS text encoder of a Lens model; it adds no weights.

    Writing locks the model, so no images are generated meanwhile. The same seed gives the same
    answer. Cancelling the task stops the writing at the next token.
    """

    def __init__(
        self,
        runtime: LensRuntime,
        *,
        thinking: Thinking | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Use the text encoder of `runtime`.

        Args:
            runtime: The model; loaded on the first call.
            thinking: The reasoning effort; None means "low", and "none" for nano models, which were
                not trained to think.
            temperature: Default sampling temperature; 0 always takes the likeliest token.
            top_p: Nucleus sampling: cumulative probability of the tokens to sample from.
            seed: Default sampling seed.
        """
        self._runtime = runtime
        self._thinking: Thinking = thinking or ("none" if runtime.model.nano else "low")
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed

    @property
    def model(self) -> str:
        """The names of the model and of the part that writes."""
        return f"{self._runtime.model.name} (text encoder)"

    @property
    def fingerprint(self) -> str:
        """Identifies the weights and all settings that affect the answers."""
        settings = f"thinking={self._thinking} temperature={self._temperature:g}"
        return f"{self._runtime.fingerprint} {settings} top_p={self._top_p:g} seed={self._seed}"

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
            ChatError: With fault "unavailable" if the model cannot be loaded or has no language
                model head, "rejected" if the conversation is too long, "truncated" if `max_tokens`
                was too low, "malformed" if there was only thinking, "off_schema" if neither of two
                replies matched the schema.
            TextOnlyError: A message contains an image.
        """

        async def ask(asked: Sequence[Message]) -> ChatReply:
            return await self._ask(
                _Ask(
                    turns=self._turns(asked),
                    temperature=self._temperature if temperature is None else temperature,
                    max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
                    seed=self._seed if seed is None else seed,
                    schema=schema,
                )
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

    async def _ask(self, ask: _Ask) -> ChatReply:
        started = time.perf_counter()
        abandoned = threading.Event()
        try:
            reply = await self._runtime.write(lambda: self._write(ask, abandoned))
        except (ComponentError, GeneratorError) as error:
            raise self._error(
                "unavailable",
                f"{self.model!r} cannot write: {error}.",
                hint="Choose a checkpoint with a language model head, or another chat model.",
            ) from error
        except ParameterError as error:
            raise self._error(
                "rejected", f"{self.model!r} cannot answer this: {error}.", hint="Change the call."
            ) from error
        finally:
            abandoned.set()
        usage = Usage(
            input_tokens=reply.written.tokens_read,
            output_tokens=len(reply.written.token_ids),
            cached_tokens=0,
            usd=0.0,
        )
        self._check_complete(reply, usage)
        return ChatReply(
            text=reply.text,
            parsed=None,
            usage=usage,
            model=self.model,
            seconds=time.perf_counter() - started,
            finish_reason=reply.written.finish_reason,
        )

    def _write(self, ask: _Ask, abandoned: threading.Event) -> Reply:
        """Write the reply; runs in a worker thread."""
        import torch

        from lens_core.conversation import ResponseFormat
        from lens_core.generation import write_reply

        form = None
        if ask.schema is not None:
            form = ResponseFormat(ask.schema.__name__, ask.schema.model_json_schema())
        with self._runtime.exclusive() as pipeline:
            if pipeline.feature_source is None or pipeline.tokenizer is None:
                raise ComponentError("this pipeline has no text encoder or tokenizer to write with")
            with pipeline.lend_text_encoder() as encoder:
                return write_reply(
                    encoder,
                    pipeline.tokenizer,
                    ask.turns,
                    reasoning_effort=None if self._thinking == "none" else self._thinking,
                    response_format=form,
                    max_new_tokens=ask.max_tokens,
                    temperature=ask.temperature,
                    top_p=self._top_p,
                    generator=torch.Generator().manual_seed(ask.seed),
                    cancelled=abandoned.is_set,
                )

    def _turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        from lens_core.conversation import Turn

        for message in messages:
            if any(isinstance(part, ImagePart) for part in message.parts):
                raise TextOnlyError(
                    f"{self.model!r} only reads text, so it cannot judge images.",
                    fault="rejected",
                    model=self.model,
                    hint="Use a vision model or a detector as judge.",
                )
        return tuple(
            Turn("developer" if message.role == "system" else message.role, message.text)
            for message in messages
        )

    def _check_complete(self, reply: Reply, usage: Usage) -> None:
        if reply.written.finish_reason == "length":
            raise self._error(
                "truncated",
                f"The reply of {self.model!r} was cut off after {usage.output_tokens} tokens.",
                usage=usage,
                detail=(reply.text or reply.analysis)[-200:],
                hint="Raise max_tokens; thinking counts towards it.",
            )
        if not reply.text:
            raise self._error(
                "malformed",
                f"{self.model!r} gave an empty reply.",
                usage=usage,
                detail=reply.analysis[-200:],
                hint="Try another seed, or thinking='none'.",
            )

    def _error(
        self,
        fault: ChatFault,
        message: str,
        *,
        usage: Usage | None = None,
        detail: str = "",
        hint: str = "",
    ) -> ChatError:
        return ChatError(
            message, fault=fault, model=self.model, usage=usage, detail=detail, hint=hint
        )
