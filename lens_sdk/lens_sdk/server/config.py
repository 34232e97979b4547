"""The configuration of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lens_reasoner import Generator, SystemPrompt
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.parts import LoopParts
from lens_sdk.client.parts import choose_parts
from lens_sdk.errors import SdkError
from lens_sdk.generators import choose_generator, plan_memory, plan_speed
from lens_sdk.models import DEFAULT_MODEL
from lens_sdk.server.drawing import batching
from lens_sdk.server.guard import ApiKeys, is_local
from lens_sdk.server.limits import ServerLimits

DEFAULT_FOLDER = Path("lens-server")


class UnsafeAddressError(SdkError, ValueError):
    """The server has no keys, but others could reach its address."""


@dataclass(frozen=True)
class ServerConfig:
    """A server's parts and limits.

    Attributes:
        parts: The parts of the loop; the generator also serves the image endpoints.
        folder: Folder for runs, images and answers.
        keys: API keys the server accepts.
        limits: Limits on requests and on the work in progress.
        studies: Folder of the prompt studies to show; None means "studies" in `folder`.
    """

    parts: LoopParts
    folder: Path = DEFAULT_FOLDER
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: ServerLimits = field(default_factory=ServerLimits)
    studies: Path | None = None

    @property
    def shelf(self) -> Path:
        """Folder of the prompt studies."""
        return self.studies or self.folder / "studies"


@dataclass(frozen=True)
class ServerChoices:
    """How to configure a server, as plain values that can be sent to other processes.

    Attributes:
        model: See `serving_parts`, also for the attributes not listed here.
        folder: Folder for runs, images and answers.
        keys: API keys the server accepts.
        limits: Limits on requests and on the work in progress.
        studies: See `ServerConfig`.
    """

    model: str = DEFAULT_MODEL
    reasoner: str = "auto"
    system_prompt: SystemPrompt | None = None
    judge: str = "auto"
    rubric_writer: str = "auto"
    provider: ChatOptions | None = None
    memory: str | None = None
    feature_cache: Path | None = None
    speed: str | None = None
    folder: Path = DEFAULT_FOLDER
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: ServerLimits = field(default_factory=ServerLimits)
    studies: Path | None = None

    def config(self) -> ServerConfig:
        """Build the server's configuration; no model is loaded yet.

        Raises:
            ReasonerError: As `serving_parts` does.
            ParameterError: The memory or speed plan does not exist.
        """
        parts = serving_parts(
            self.model,
            reasoner=self.reasoner,
            system_prompt=self.system_prompt,
            judge=self.judge,
            rubric_writer=self.rubric_writer,
            provider=self.provider,
            memory=self.memory,
            feature_cache=self.feature_cache,
            speed=self.speed,
        )
        return ServerConfig(parts, self.folder, self.keys, self.limits, self.studies)


def serving_parts(
    model: str | Generator = DEFAULT_MODEL,
    *,
    reasoner: str = "auto",
    system_prompt: SystemPrompt | None = None,
    judge: str = "auto",
    rubric_writer: str = "auto",
    provider: ChatOptions | None = None,
    memory: str | None = None,
    feature_cache: Path | None = None,
    speed: str | None = None,
) -> LoopParts:
    """Assemble a server's parts; a local Lens model serves all callers in one batch.

    Args:
        model: See `lens_sdk.build_loop`.
        reasoner: See `lens_sdk.build_loop`.
        system_prompt: See `lens_sdk.build_loop`.
        judge: See `lens_sdk.build_loop`.
        rubric_writer: See `lens_sdk.build_loop`.
        provider: See `lens_sdk.build_loop`.
        memory: See `lens_sdk.generators.plan_memory`.
        feature_cache: See `lens_sdk.generators.plan_memory`.
        speed: See `lens_sdk.generators.plan_speed`.

    Raises:
        ReasonerError: As `build_loop` does.
        UnknownPartError: A plan is given, but the model does not run on this machine.
        ParameterError: The memory or speed plan does not exist.
    """
    generator = choose_generator(model) if isinstance(model, str) else model
    plan_memory(generator, memory, feature_cache)
    plan_speed(generator, speed)
    return choose_parts(
        batching(generator),
        reasoner=reasoner,
        system_prompt=system_prompt,
        judge=judge,
        rubric_writer=rubric_writer,
        provider=provider,
    )


def check_address(host: str, keys: ApiKeys) -> None:
    """Refuse an address that others can reach if there are no keys.

    Raises:
        UnsafeAddressError: Others could reach the address; the message names it.
    """
    if not keys and not is_local(host):
        raise UnsafeAddressError(
            f"Without API keys the server only listens on this machine, and {host!r} is more.",
            hint="Give --api-key-file, or leave --host at 127.0.0.1.",
        )
