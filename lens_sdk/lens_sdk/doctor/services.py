"""Checks whether servers are available, which costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lens_reasoner import ChatError, OpenAIChat
from lens_reasoner.openai_chat import ChatOptions
from lens_sdk.doctor.check import Check
from lens_sdk.settings import Settings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SECONDS = 10.0
"""How long to wait for a server's answer."""


def server(settings: Settings) -> Check:
    """Check that the Lens server answers and is ready."""
    import httpx

    root = str(settings.base_url).rstrip("/").removesuffix("/v1")
    key = settings.key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    shown = httpx.URL(root).copy_with(userinfo=b"")
    try:
        ready = httpx.get(f"{root}/readyz", timeout=SECONDS)
        known = httpx.get(f"{root}/v1/models", headers=headers, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check("server", "error", f"{shown}: {error}", "Is it running? lens serve")
    if known.status_code == 401:
        hint = f"Set {settings.api_key_env} to one of its keys."
        return Check("server", "error", f"{shown} does not take the key", hint)
    if ready.status_code != 200:
        return Check("server", "warning", f"{shown} is there but not ready", "Try again later.")
    return Check("server", "ok", f"{shown} is ready")


def served_models(used: Mapping[str, str], provider: ChatOptions) -> Iterator[Check]:
    """Check that the provider accepts the key and has the models."""
    for role, model in used.items():
        yield asyncio.run(_served(role, model, provider))


async def _served(role: str, model: str, provider: ChatOptions) -> Check:
    import openai

    name = f"{role} online"
    try:
        async with OpenAIChat(model, **provider) as chat:
            told = await _described(await chat._connection.pool.client(), model)
    except openai.NotFoundError:
        return Check(name, "error", f"{model} is not there", f'Set {role} = "openai:NAME".')
    except openai.AuthenticationError:
        return Check(name, "error", "the key is not taken", "Set another key.")
    except (openai.OpenAIError, ChatError) as error:
        return Check(name, "warning", f"cannot be asked: {type(error).__name__}")
    ends = getattr(told, "shutdown_date", None)
    return Check(
        name,
        "warning" if ends else "ok",
        f"{model} ends on {ends}" if ends else f"{model} is there",
        f'Set {role} = "openai:NAME".' if ends else "",
    )


async def _described(client: AsyncOpenAI, model: str) -> object:
    """Return the provider's description of a model; many servers only have a list of models."""
    import openai

    try:
        return await client.models.retrieve(model, timeout=SECONDS)
    except openai.NotFoundError:
        async for known in client.models.list(timeout=SECONDS):
            if known.id == model:
                return known
        raise
