"""One settings object for the command line and the clients.

Values come from arguments, then the environment, then `lens.toml` of the project, then `lens.toml`
of the user, then the defaults below. Keys are never in a file: a setting names the environment
variable that holds them.
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
    """Stands for an argument that was not given, where None means something of its own."""

    FROM_SETTINGS = "from settings"

    def __repr__(self) -> str:
        return self.name


FROM_SETTINGS: Literal[FromSettings.FROM_SETTINGS] = FromSettings.FROM_SETTINGS
"""The value of the settings is used."""

T = TypeVar("T")


def given_or(argument: T | FromSettings, setting: T) -> T:
    """An argument, or the value of the settings where none was given."""
    return setting if isinstance(argument, FromSettings) else argument


def _none_is_no_limit(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


Limit = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_none_is_no_limit)]
"""Seconds; None is no limit."""


def _json_text(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class TimeoutSettings(Value):
    """Seconds that calls to a Lens server may take; "none" is no limit."""

    connect: Limit = Field(default=5.0, description="Seconds to connect.")
    first_byte: Limit = Field(
        default=600.0, description="Seconds to the first byte of an answer, including generation."
    )
    silence: Limit = Field(default=60.0, description="Seconds between two events of a run.")
    total: Limit = Field(default=None, description="Seconds for a whole call, including retries.")


class Settings(Value):
    """Defaults for the command line and the clients.

    Each field's description says what it means; `lens config` shows where its value comes from.
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
        """The settings that hold here and now.

        Args:
            **arguments: Values by field that outrank all others; None counts as not given.

        Raises:
            SettingsError: A value that cannot be used, with its source; a file that cannot be read.
        """
        from lens_sdk.settings_sources import load_settings

        return load_settings(**arguments).settings

    @property
    def provider(self) -> ChatOptions:
        """Server, key, prices and fields for language models, as `OpenAIChat` takes them.

        Raises:
            PriceTableError: The prices cannot be read.
        """
        options = ChatOptions(
            # Where the variable that is named holds none, OpenAI's own key is not sent instead.
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
        """The system prompt of a reasoner that is chosen by name; others have their own or none."""
        return self.system_prompt if isinstance(reasoner, str) and reasoner != "none" else None

    def key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The Lens server's key, if there is one."""
        return environ.get(self.api_key_env) or None
