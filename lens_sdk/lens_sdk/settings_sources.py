"""Loads settings and tracks where each value comes from."""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lens_reasoner.text_files import read_text
from lens_sdk.errors import SettingsError
from lens_sdk.settings import Settings, TimeoutSettings

FILE_NAME = "lens.toml"
"""Name of the settings file."""

VARIABLES: dict[str, str] = {
    **{name: f"LENS_{name.upper()}" for name in Settings.model_fields if name != "timeouts"},
    "openai_base_url": "OPENAI_BASE_URL",
    **{f"timeouts.{name}": f"LENS_TIMEOUT_{name.upper()}" for name in TimeoutSettings.model_fields},
}
"""The environment variable of each setting, by its dotted name."""

_PATHS = frozenset({"system_prompt", "prices", "runs", "cache"})
_FORM = (
    "It must be a TOML file; put a path with backslashes in single quotes, as in "
    "runs = 'D:\\tries\\runs'."
)
_PROJECT_MARKS = (".git", "pyproject.toml")


@dataclass(frozen=True)
class Source:
    """Where a value comes from.

    Attributes:
        kind: The kind of source.
        place: The variable or the file; empty for other kinds.
    """

    kind: Literal["argument", "environment", "file", "default"]
    place: str = ""

    def __str__(self) -> str:
        """Describe the source."""
        return self.place or self.kind


@dataclass(frozen=True)
class LoadedSettings:
    """Settings and their sources.

    Attributes:
        settings: The values.
        sources: The source of each value, by dotted name.
        files: The files that were read, highest precedence first.
    """

    settings: Settings
    sources: Mapping[str, Source]
    files: tuple[Path, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The settings as JSON values, by dotted name."""
        return _flat(self.settings.model_dump(mode="json"))


def load_settings(
    *, folder: Path | None = None, environ: Mapping[str, str] | None = None, **arguments: Any
) -> LoadedSettings:
    """Read the settings from all sources.

    Args:
        folder: Where to start looking for the project's file; by default the current folder.
        environ: The environment; by default that of this process.
        **arguments: Values that override all others; None counts as not given.

    Raises:
        SettingsError: A value is invalid or a file cannot be read; the message says where.
    """
    environ = os.environ if environ is None else environ
    known: dict[str, tuple[Any, Source]] = {}
    files = [path for path in settings_files(folder, environ) if path.is_file()]
    for path in reversed(files):
        known.update(_from_file(path))
    for name, variable in VARIABLES.items():
        if value := environ.get(variable, "").strip():
            known[name] = value, Source("environment", variable)
    for name, value in _flat(arguments).items():
        _check_name(name, "The argument")
        if value is not None:
            known[name] = value, Source("argument")
    sources = {name: known[name][1] if name in known else Source("default") for name in VARIABLES}
    return LoadedSettings(_validated(known), sources, tuple(files))


def settings_files(
    folder: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Paths where settings files may be, highest precedence first; they need not exist.

    The project's file is the nearest one between `folder` and the folder that holds `.git` or
    `pyproject.toml`. Outside a project, only `folder` itself is searched.
    """
    start = (folder or Path.cwd()).resolve()
    above = [start, *start.parents]
    root = next((at for at in above if any((at / mark).exists() for mark in _PROJECT_MARKS)), start)
    inside = above[: above.index(root) + 1]
    project = next((at for at in inside if (at / FILE_NAME).is_file()), start)
    return project / FILE_NAME, _user_folder(environ or os.environ) / FILE_NAME


def _user_folder(environ: Mapping[str, str]) -> Path:
    if sys.platform == "win32" and environ.get("APPDATA"):
        return Path(environ["APPDATA"]) / "lens"
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "lens"


def _from_file(path: Path) -> dict[str, tuple[Any, Source]]:
    try:
        data = tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The settings in {path} cannot be read: {error}.", hint=_FORM
        ) from error
    found: dict[str, tuple[Any, Source]] = {}
    for name, value in _flat(data).items():
        _check_name(name, str(path))
        if value == "":
            continue
        if isinstance(value, str) and any(mark in value for mark in "\t\n\r\f\b"):
            # A backslash escape in a double-quoted string became this character.
            raise SettingsError(f"{path}: {name} = {value!r} cannot be used.", hint=_FORM)
        if name in _PATHS and isinstance(value, str):
            # Relative to the file, so that it means the same in every folder of a project.
            value = str(path.parent / Path(value).expanduser())
        found[name] = value, Source("file", str(path))
    return found


def _check_name(name: str, where: str) -> None:
    if name in VARIABLES:
        return
    if name.rpartition(".")[2].endswith("api_key"):
        raise SettingsError(
            f"{where} holds {name}, and keys do not belong in files.",
            hint="Put the key into an environment variable and name that: "
            'api_key_env = "LENS_API_KEY".',
        )
    near = difflib.get_close_matches(name, VARIABLES, n=1)
    raise SettingsError(
        f"{where}: there is no setting {name!r}.",
        hint=f"Did you mean {near[0]}?" if near else f"There are: {', '.join(VARIABLES)}.",
    )


def _validated(known: Mapping[str, tuple[Any, Source]]) -> Settings:
    nested: dict[str, Any] = {}
    for name, (value, _) in known.items():
        outer, _, inner = name.rpartition(".")
        (nested.setdefault(outer, {}) if outer else nested)[inner] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        name = next((name for name in known if f"{where}.".startswith(f"{name}.")), where)
        source = known[name][1] if name in known else Source("argument")
        raise SettingsError(
            f"{name} = {first['input']!r} ({source}) cannot be used: {first['msg']}.",
            hint="See what is set where: lens config.",
        ) from error


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten tables into dotted names, except tables that are the value of a setting."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and name not in VARIABLES:
            flat.update({f"{name}.{inner}": deeper for inner, deeper in value.items()})
        else:
            flat[name] = value
    return flat
