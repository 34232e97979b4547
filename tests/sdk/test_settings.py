"""Settings: four sources, one object, no secrets."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_reasoner import MissingKeyError, OpenAIChat
from lens_reasoner.openai_connection import OpenAIConnection
from lens_sdk import Lens, Settings, SettingsError
from lens_sdk.cli import app
from lens_sdk.client.parts import choose_parts
from lens_sdk.generators import choose_generator
from lens_sdk.settings_sources import VARIABLES, load_settings, settings_files

SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder inside, and a user's folder of settings elsewhere."""
    for variable in (*VARIABLES.values(), "LENS_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "lens").mkdir(parents=True)
    inside = tmp_path / "project" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(inside)
    return tmp_path / "project"


def test_arguments_outrank_the_environment_and_files(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "home" / "lens" / "lens.toml"
    user.write_text(
        'model = "user"\nreasoner = "user"\njudge = "user"\nrubric = "openai:r"\n'
        "[timeouts]\nconnect = 1\ntotal = 9\n"
    )
    ours = project / "lens.toml"
    ours.write_text('model = "ours"\nreasoner = "ours"\njudge = "ours"\nruns = "kept"\n')
    monkeypatch.setenv("LENS_MODEL", "variable")
    monkeypatch.setenv("LENS_REASONER", "variable")
    monkeypatch.setenv("LENS_TIMEOUT_TOTAL", "none")
    loaded = load_settings(model="argument", judge=None)
    assert {name: str(source) for name, source in loaded.sources.items()} | {
        "model": "argument",
        "reasoner": "LENS_REASONER",
        "judge": str(ours),
        "rubric": str(user),
        "timeouts.connect": str(user),
        "timeouts.total": "LENS_TIMEOUT_TOTAL",
        "base_url": "default",
    } == {name: str(source) for name, source in loaded.sources.items()}
    settings = loaded.settings
    assert (settings.model, settings.reasoner, settings.judge) == ("argument", "variable", "ours")
    assert (settings.timeouts.connect, settings.timeouts.total) == (1.0, None)
    assert settings.runs == project / "kept"


def test_a_file_above_the_project_does_not_count(project: Path) -> None:
    (project.parent / "lens.toml").write_text('base_url = "http://evil.example"\n')
    assert Settings.load().base_url is None
    assert project.parent / "lens.toml" not in settings_files()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('modell = "x"', "Did you mean model"),
        (f'api_key = "{SECRET}"', "keys do not belong in files"),
        ("max_retries = -1", "max_retries = -1 (.*lens.toml) cannot be used"),
        ('timeouts.total = "soon"', "timeouts.total = 'soon'"),
        ("model = [", "cannot be read"),
        ('model = "C:\\Users\\me"', "cannot be read.*single quotes"),
        ('runs = "D:\\tries\\runs"', "runs = 'D:.*single quotes"),
        ("openai_extra_body = 5", "openai_extra_body = 5 (.*lens.toml) cannot be used"),
        ("[openai_extra_body]\nday = 2026-11-23", "openai_extra_body.*lens.toml"),
    ],
)
def test_mistakes_name_the_file_and_the_rule(project: Path, text: str, words: str) -> None:
    (project / "lens.toml").write_text(text)
    with pytest.raises(SettingsError, match=words.replace("(.*", r"\(.*").replace("l)", r"l\)")):
        Settings.load()
    shown = CliRunner().invoke(app, ["config"])
    assert shown.exit_code == 1
    assert SECRET not in shown.output


def test_an_unknown_argument_is_told() -> None:
    with pytest.raises(SettingsError, match="reasoner"):
        Settings.load(reasonner="x")


def test_the_command_shows_values_and_sources_but_no_secrets(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "lens.toml").write_text(
        'api_key_env = "MY_KEY"\nmodel = "server:http://me:hidden-word@host/v1#m"\n'
    )
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("LENS_BASE_URL", "https://user:hidden-word@host:8000")
    text = CliRunner().invoke(app, ["config"])
    data = CliRunner().invoke(app, ["config", "--json"])
    assert (text.exit_code, data.exit_code) == (0, 0)
    for shown in (text.output, data.output):
        assert SECRET not in shown
        assert "hidden-word" not in shown
    assert "MY_KEY (set)" in text.output
    told = json.loads(data.stdout)
    assert told["keys"] == {"MY_KEY": True, "OPENAI_API_KEY": True}
    assert told["settings"]["base_url"] == {
        "value": "https://***@host:8000",
        "source": "environment",
        "place": "LENS_BASE_URL",
    }
    assert told["settings"]["model"]["value"] == "server:http://***@host/v1#m"


def test_the_template_is_a_settings_file_that_changes_nothing(project: Path) -> None:
    text = CliRunner().invoke(app, ["config", "--template"]).stdout
    (project / "lens.toml").write_text(text)
    assert Settings.load() == Settings()
    # With every line switched on, too.
    live = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert live != text
    (project / "lens.toml").write_text(live)
    assert Settings.load() == Settings()
    for variable in VARIABLES.values():
        assert variable in text


def test_settings_reach_the_parts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"date": "2026-11-22", "prices": {"own": {"input": 1, "cached_input": 1, "output": 1}}}
    (project / "prices.json").write_text(json.dumps(prices))
    (project / "lens.toml").write_text(
        'reasoner = "openai:own"\njudge = "openai:own"\nrubric = "nano"\n'
        'openai_base_url = "http://127.0.0.1:9/v1"\nprices = "prices.json"\n'
    )
    settings = Settings.load()
    parts = choose_parts(
        choose_generator("server:http://127.0.0.1:9/v1#m"),
        reasoner=settings.reasoner,
        judge=settings.judge,
        rubric_writer=settings.rubric,
        provider=settings.provider,
    )
    identities = parts.identities()
    assert identities["reasoner"].startswith("own ")
    assert identities["judge"].startswith("own own/")
    assert identities["rubric_writer"].startswith("nano-request-reader")
    connection = parts.reasoner._chat._connection  # type: ignore[union-attr]
    assert connection.base_url == "http://127.0.0.1:9/v1"
    assert "own" in connection.prices.prices
    monkeypatch.setenv("LENS_REASONER", "openai:x")
    (project / "lens.toml").unlink()
    with pytest.raises(MissingKeyError, match="'x'"):
        Lens()


def test_the_documentation_lists_every_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, variable in VARIABLES.items():
        assert f"| `{name}` | `{variable}` |" in text


@pytest.mark.parametrize("place", ["file", "variable"])
def test_fields_of_a_server_reach_every_language_model(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20, "stop": None}
    if place == "file":
        (project / "lens.toml").write_text(
            'openai_base_url = "http://127.0.0.1:9/v1"\n'
            "[openai_extra_body]\ntop_k = 20\nchat_template_kwargs.enable_thinking = false\n"
        )
        del fields["stop"]
    else:
        (project / "lens.toml").write_text('openai_base_url = "http://127.0.0.1:9/v1"\n')
        monkeypatch.setenv("LENS_OPENAI_EXTRA_BODY", json.dumps(fields))
    loaded = load_settings()
    assert loaded.settings.openai_extra_body == fields
    assert loaded.values["openai_extra_body"] == fields
    assert '"top_k": 20' in CliRunner().invoke(app, ["config"]).output

    def identities(settings: Settings) -> dict[str, str]:
        """What caches, records and studies know parts by."""
        generator = choose_generator("server:http://127.0.0.1:9/v1#m")
        names = dict.fromkeys(("reasoner", "judge", "rubric_writer"), "openai:m")
        return choose_parts(generator, **names, provider=settings.provider).identities()

    with_fields = identities(loaded.settings)
    without = identities(loaded.settings.model_copy(update={"openai_extra_body": {}}))
    same = {part for part in with_fields if with_fields[part] == without[part]}
    assert same == {"generator"}
    assert len(with_fields) == 6


def _connection(settings: Settings) -> OpenAIConnection:
    return OpenAIChat("m", **settings.provider)._connection


def test_openais_key_is_not_sent_where_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    there = {"openai_base_url": "https://openrouter.ai/api/v1"}
    usual = _connection(Settings(**there))
    assert usual.key.get_secret_value() == SECRET
    named = Settings(**there, openai_api_key_env="OPENROUTER_API_KEY")
    assert _connection(named).key.get_secret_value() != SECRET
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-0123456789")
    assert _connection(named).key.get_secret_value() == "sk-or-0123456789"
    monkeypatch.delenv("OPENROUTER_API_KEY")
    with pytest.raises(MissingKeyError):
        _connection(Settings(openai_api_key_env="OPENROUTER_API_KEY"))
