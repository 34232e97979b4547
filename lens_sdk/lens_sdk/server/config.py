"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lens_reasoner import Generator
from lens_reasoner.openai_connection import ConnectionOptions
from lens_reasoner.parts import LoopParts
from lens_sdk.client.parts import choose_parts
from lens_sdk.errors import SdkError
from lens_sdk.generators import choose_generator
from lens_sdk.models import DEFAULT_MODEL
from lens_sdk.server.drawing import batching
from lens_sdk.server.guard import ApiKeys, is_local
from lens_sdk.server.limits import ServerLimits

DEFAULT_FOLDER = Path("lens-server")


class UnsafeAddressError(SdkError, ValueError):
    """An address that others can reach, without keys."""


@dataclass(frozen=True)
class ServerConfig:
    """A server's parts and bounds.

    Attributes:
        parts: What runs are played with; its generator also draws single pictures.
        folder: Where runs, pictures and answers are kept.
        keys: Who may ask.
        limits: For how much.
    """

    parts: LoopParts
    folder: Path = DEFAULT_FOLDER
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: ServerLimits = field(default_factory=ServerLimits)


def serving_parts(
    model: str | Generator = DEFAULT_MODEL,
    *,
    reasoner: str = "auto",
    judge: str = "auto",
    rubric_writer: str = "auto",
    provider: ConnectionOptions | None = None,
) -> LoopParts:
    """The parts of a server; local Lens models draw for all callers in one batch.

    Args:
        model: See `lens_sdk.build_loop`.
        reasoner: See `lens_sdk.build_loop`.
        judge: See `lens_sdk.build_loop`.
        rubric_writer: See `lens_sdk.build_loop`.
        provider: See `lens_sdk.build_loop`.

    Raises:
        ReasonerError: As `build_loop` does.
    """
    generator = batching(choose_generator(model) if isinstance(model, str) else model)
    return choose_parts(
        generator,
        reasoner=reasoner,
        judge=judge,
        rubric_writer=rubric_writer,
        provider=provider,
    )


def check_address(host: str, keys: ApiKeys) -> None:
    """Refuse to be reachable by others without keys.

    Raises:
        UnsafeAddressError: Naming the address.
    """
    if not keys and not is_local(host):
        raise UnsafeAddressError(
            f"Without API keys the server only listens on this machine, and {host!r} is more.",
            hint="Give --api-key-file, or leave --host at 127.0.0.1.",
        )
