"""`lens config`: shows the settings that apply here, and where each comes from."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.table import Table
from rich.text import Text

from lens_sdk.cli.console import JsonOption, out, print_json, reports_errors

if TYPE_CHECKING:
    from lens_sdk.settings_sources import LoadedSettings

_KEYS = ("api_key_env", "openai_api_key_env")


@reports_errors
def config(
    template: Annotated[
        bool, typer.Option("--template", help="Print a lens.toml to start from, and nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the settings for this folder, and where each value comes from.

    Example: lens config --template
    """
    if template and as_json:
        raise typer.BadParameter("--template prints a TOML file; leave --json out")
    if template:
        out.file.write(template_text())
        return
    from lens_sdk.settings_sources import load_settings, settings_files

    loaded = load_settings()
    if as_json:
        print_json(described(loaded))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Setting", "Value", "From"):
        table.add_column(heading, overflow="fold")
    for name, value in shown_values(loaded).items():
        source = loaded.sources[name]
        style = "dim" if source.kind == "default" else ""
        table.add_row(Text(name), Text(value, style=style), Text(str(source), style=style))
    out.print(table)
    for path in settings_files():
        found = "read" if path in loaded.files else "not there"
        out.print(Text(f"{path}: {found}", style="dim"), soft_wrap=True)


def described(loaded: LoadedSettings) -> dict[str, Any]:
    """Return the settings for JSON; for API keys, only whether they are set."""
    return {
        "settings": {
            name: {"value": _public(value), "source": source.kind, "place": source.place or None}
            for (name, value), source in zip(
                loaded.values.items(), map(loaded.sources.__getitem__, loaded.values), strict=True
            )
        },
        "keys": {
            variable: bool(os.environ.get(variable))
            for variable in (loaded.values[name] for name in _KEYS)
        },
        "files": [str(path) for path in loaded.files],
    }


def shown_values(loaded: LoadedSettings) -> dict[str, str]:
    """Return the values as text, by dotted name."""
    shown = {}
    for name, value in loaded.values.items():
        text = "none" if value is None else str(_public(value))
        if isinstance(value, dict):
            text = json.dumps(value)
        if name in _KEYS:
            text += " (set)" if os.environ.get(str(value)) else " (not set)"
        shown[name] = text
    return shown


def template_text() -> str:
    """Return a settings file that explains every setting and sets none."""
    from lens_sdk.settings import Settings, TimeoutSettings
    from lens_sdk.settings_sources import VARIABLES

    lines = ["# Settings of lens-sdk. Arguments and environment variables outrank this file.", ""]
    for section, model in (("", Settings), ("timeouts", TimeoutSettings)):
        if section:
            lines += [f"[{section}]"]
        for name, field in model.model_fields.items():
            if name == "timeouts":
                continue
            dotted = f"{section}.{name}" if section else name
            default = '""' if field.default is None else json.dumps(field.default)
            lines += [f"# {field.description} Variable: {VARIABLES[dotted]}."]
            lines += [f"# {name} = {default}", ""]
    return "\n".join(lines)


def _public(value: Any) -> Any:
    """Return a value without any password in a URL."""
    if not isinstance(value, str) or "://" not in value:
        return value
    head, _, rest = value.partition("://")
    kind, _, scheme = head.rpartition(":")
    parts = urlsplit(f"{scheme}://{rest}")
    if not (parts.username or parts.password):
        return value
    netloc = f"***@{parts.netloc.rpartition('@')[2]}"
    return f"{kind}:" * bool(kind) + urlunsplit(parts._replace(netloc=netloc))
