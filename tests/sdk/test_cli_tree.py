"""The whole tree of `lens` commands: help, options that mean the same everywhere, JSON, shells."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from lens_sdk.cli import app, choices

NO_JSON = {
    "serve": "it answers over HTTP until it is ended",
    "mcp": "standard output belongs to the protocol",
}
"""Commands without --json, and why."""

SHORT = {"-h", "-m", "-s", "-n", "-o", "-c", "-p", "-r"}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option"]


def element(option: Any) -> object:
    """The type of one value: an optional or repeatable option takes the same values."""
    annotation = option.type_descriptor.annotation
    inner = [one for one in get_args(annotation) if one is not type(None)]
    return element_of(inner[0]) if inner else annotation


def element_of(annotation: object) -> object:
    return get_args(annotation)[0] if get_args(annotation) else annotation


def test_every_command_explains_itself_with_an_example_that_has_real_options() -> None:
    for path, command in commands():
        assert all(one.help for one in command.params), path
        found = re.findall(rf"^Example: lens ({path} ?.*)$", command.help, re.MULTILINE)
        assert len(found) == 1, f"{path}: one line 'Example: lens {path} ...'"
        assert len(found[0]) <= 66, f"{path}: the example breaks at 80 columns"
        known = {name for one in command.params for name in one.opts}
        used = {word for word in shlex.split(found[0]) if word.startswith("-")}
        assert used <= known, (path, used - known)
        # Brackets would be taken for styles.
        assert "[" not in command.help, path


def test_an_option_means_the_same_everywhere() -> None:
    seen: dict[str, tuple[str, object, frozenset[str]]] = {}
    letters: dict[str, set[str]] = {}
    for path, command in commands():
        for one in options(command):
            shorts = frozenset(name for name in one.opts if not name.startswith("--"))
            for name in (name for name in one.opts if name.startswith("--")):
                other = seen.setdefault(name, (path, element(one), shorts))
                assert (element(one), shorts) == other[1:], f"{name} of {path} and of {other[0]}"
            for letter in shorts:
                letters.setdefault(letter, set()).add(one.name)
    assert set(letters) <= SHORT
    assert letters["-n"] == {"number"}
    assert letters["-s"] == {"seed"}
    assert letters["-o"] <= {"output", "folder"}
    assert letters["-c"] == {"config"}


def test_every_command_has_json_or_a_reason() -> None:
    without = {
        path
        for path, command in commands()
        if not any("--json" in one.opts for one in options(command))
    }
    assert without == set(NO_JSON)
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for path, _ in commands():
        assert f"`lens {path}" in text, f"docs/cli.md does not know lens {path}"


def test_the_choices_of_options_are_those_there_are() -> None:
    from lens_core.bench.run import DTYPES
    from lens_core.data.fitting import Crop
    from lens_core.data.policy import DataPolicy
    from lens_core.data.writing import Format
    from lens_core.memory.plan import AUTO
    from lens_core.memory.plan import PLANS as MEMORY
    from lens_core.training.plan import GPU_MEMORY_GB
    from lens_sdk.nano_benchmark import PromptKind
    from lens_sdk.optimize_parts import STRATEGIES

    known: dict[type, Any] = {
        choices.Memory: [AUTO, *MEMORY],
        choices.Dtype: ["auto", *DTYPES],
        choices.Gpu: GPU_MEMORY_GB,
        choices.Strategy: STRATEGIES,
        choices.Prompts: get_args(PromptKind),
        choices.Format: get_args(Format),
        choices.Crop: get_args(Crop),
        choices.Problem: DataPolicy.model_fields.keys() - {"damaged_shard"},
    }
    for choice, names in known.items():
        assert set(choice) == set(names), choice  # type: ignore[call-overload]


def test_help_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert max(map(len, told.splitlines())) <= 80
    for path in {path.split()[0] for path, _ in commands()}:
        assert re.search(rf"^│ {path} +\S", told, re.MULTILINE), path


def test_completion_is_installed_and_completes_in_bash(tmp_path: Path) -> None:
    """As a user has it: a shell that reads its start file, and presses the tab key."""
    beside = Path(sys.executable).parent
    environ = {
        "PATH": f"{beside}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }

    def run(*words: str) -> str:
        done = subprocess.run(words, env=environ, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run(sys.executable, "-m", "lens_sdk", "--show-completion", "bash")
    assert "_lens_completion" in shown
    run(sys.executable, "-m", "lens_sdk", "--install-completion", "bash")
    pressed = (
        "source ~/.bashrc; COMP_WORDS=(lens generate x --memory 1); COMP_CWORD=4; "
        '_lens_completion lens; echo "${COMPREPLY[@]}"'
    )
    assert run("bash", "-c", pressed).split() == ["16gb", "12gb"]
