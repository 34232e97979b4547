"""One settings object for the command line and the clients.

Values come from arguments, then the environment, then the project's `lens.toml`, then the user's
`lens.toml`, then the defaults below. Files never contain API keys: a setting names the environment
variable that holds the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.openai_connection import OFFICIAL_URL, is_official
from lens_reasoner.prices import OPENAI_PRICES, PriceTable
from lens_reasoner.types import JsonObject, Value
from lens_sdk.models import DEFAULT_MODEL

DEFAULT_RUNS = Path("lens-runs")
"""Where the `lens` command records runs if no folder is set."""


class FromSettings(Enum):
    """Default for arguments that were not given, where None has a meaning of its own."""

    FROM_SETTINGS = "from settings"

    def __repr__(self) -> str:
        return self.name


FROM_SETTINGS: Literal[FromSettings.FROM_SETTINGS] = FromSettings.FROM_SETTINGS
"""Use the value from the settings."""

T = TypeVar("T")


def given_or(argument: T | FromSettings, setting: T) -> T:
    """Return the argument, or the setting if no argument was given."""
    return setting if isinstance(argument, FromSettings) else argument


def _none_is_no_limit(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


Limit = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_none_is_no_limit)]
"""In seconds; None means no limit."""


def _json_text(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class TimeoutSettings(Value):
    """Timeouts in seconds for calls to a Lens server; "none" means no limit."""

    connect: Limit = Field(default=5.0, description="Seconds to connect.")
    first_byte: Limit = Field(
        default=600.0, description="Seconds to the first byte of an answer, including generation."
    )
    silence: Limit = Field(default=60.0, description="Seconds between two events of a run.")
    total: Limit = Field(default=None, description="Seconds for a whole call, including retries.")


class Settings(Value):
    """Defaults for the command line and the clients.

    Each field has a description; `lens config` shows where each value comes from.
    """

    model: str = Field(
        default=DEFAULT_MODEL, description="The image model: see --model.", min_length=1
    )
    reasoner: str = Field(
        default="auto",
        description="The reasoner: auto, nano, local, gguf, gguf:FILE, openai, openai:MODEL, none.",
    )
    system_prompt: Path | None = Field(
        default=None,
        description="System prompt for the reasoner: prompt.json from lens optimize, or a .md "
        "file; by default the reasoner's own.",
    )
    judge: str = Field(
        default="auto", description="The judge: auto, nano, openai, openai:MODEL, none."
    )
    rubric: str = Field(
        default="auto",
        description="The rubric writer: auto (matches the judge), nano, openai, openai:MODEL, "
        "none.",
    )
    proposer: str = Field(
        default="auto",
        description="The proposer in a prompt study: auto, library, openai, openai:MODEL.",
    )
    base_url: str | None = Field(
        default=None, description="A Lens server to use instead of this machine."
    )
    api_key_env: str = Field(
        default="LENS_API_KEY",
        description="The environment variable that holds the Lens server's key.",
        min_length=1,
    )
    openai_base_url: str | None = Field(
        default=None, description="An OpenAI-compatible server; by default OpenAI's own."
    )
    openai_api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="The environment variable that holds that server's key.",
        min_length=1,
    )
    openai_extra_body: Annotated[JsonObject, BeforeValidator(_json_text)] = Field(
        default={},
        description="Extra fields for that server, sent with every call to a language model: a "
        "table in a file, JSON in the variable.",
    )
    prices: Path | None = Field(
        default=None, description="A JSON file with token prices, added to the built-in ones."
    )
    runs: Path | None = Field(
        default=None,
        description=f"Folder for recorded runs. By default, the command line uses {DEFAULT_RUNS}, "
        "and the clients record nothing.",
    )
    cache: Path | None = Field(
        default=None, description="Folder for cached results. By default, there is no cache."
    )
    max_retries: int = Field(
        default=2, ge=0, description="How often to retry a failed call to a Lens server."
    )
    timeouts: TimeoutSettings = TimeoutSettings()

    @classmethod
    def load(cls, **arguments: Any) -> Settings:
        """Load the settings that apply in the current folder and environment.

        Args:
            **arguments: Values by field, which override all others; None counts as not given.

        Raises:
            SettingsError: A value is invalid or a file cannot be read; the message says where.
        """
        from lens_sdk.settings_sources import load_settings

        return load_settings(**arguments).settings

    @property
    def provider(self) -> ChatOptions:
        """Server, key, prices and extra fields for language models, as `OpenAIChat` takes them.

        Raises:
            PriceTableError: The prices cannot be read.
        """
        options = ChatOptions(
            # If the named variable is empty, OpenAI's own key must not be sent instead.
            base_url=self.openai_base_url,
            api_key=os.environ.get(self.openai_api_key_env, ""),
            extra_body=self.openai_extra_body,
        )
        if self.prices is not None:
            own = PriceTable.load(self.prices)
            if is_official(self.openai_base_url or OFFICIAL_URL):
                own = OPENAI_PRICES.with_prices(own.prices, date=own.date)
            options["prices"] = own
        return options

    def prompt_for(self, reasoner: object) -> Path | None:
        """The system prompt for a reasoner chosen by name; None for other reasoners."""
        return self.system_prompt if isinstance(reasoner, str) and reasoner != "none" else None

    def key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The API key for the Lens server, if set."""
        return environ.get(self.api_key_env) or None
