"""Starting a server: addresses, keys, the command."""

import pickle
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_reasoner import GENERAL_PROMPT
from lens_reasoner.parts import fingerprint
from lens_sdk.cli import app
from lens_sdk.server.admission import Admission
from lens_sdk.server.config import ServerChoices, UnsafeAddressError, check_address
from lens_sdk.server.drawing import BatchingLensGenerator
from lens_sdk.server.errors import ApiError
from lens_sdk.server.guard import ApiKeys, KeyFileError

KEY = "a-key-of-more-than-16-characters"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gpu.example"])
def test_others_need_keys(host: str) -> None:
    with pytest.raises(UnsafeAddressError, match="API keys"):
        check_address(host, ApiKeys())
    check_address(host, ApiKeys([KEY]))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_machine_needs_none(host: str) -> None:
    check_address(host, ApiKeys())


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "short\n", f"{KEY}\nshort\n"])
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyFileError, match="key"):
        ApiKeys.read(tmp_path / "keys")


def test_each_key_is_a_caller_of_its_own() -> None:
    keys = ApiKeys(["a" * 20, "b" * 20])
    callers = {keys.caller("a" * 20), keys.caller("b" * 20)}
    assert len(callers - {None}) == 2
    assert keys.caller("") is None
    assert keys.caller("a" * 19) is None


def test_the_command_refuses_before_it_loads_anything() -> None:
    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert done.exit_code == 1
    assert "--api-key-file" in done.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replicas", "2"], "--ray"),
        (["--gpus-per-replica", "0.5"], "--ray"),
        (["--speed", "light"], "light"),
        (["--memory", "huge"], "huge"),
        (["--model", "server:http://127.0.0.1:1/v1#x", "--memory", "8gb"], "--memory"),
        (["--model", "server:http://127.0.0.1:1/v1#x", "--speed", "fast"], "--speed"),
    ],
)
def test_plans_and_replicas_that_cannot_be_are_refused(options: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["serve", *options], env={"COLUMNS": "200"})
    assert done.exit_code != 0
    assert told in done.output


def test_without_ray_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["serve", "--ray", "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert 'pip install "lens-sdk[ray]"' in done.output


def test_choices_travel_to_other_processes(tmp_path: Path) -> None:
    choices = ServerChoices(
        memory="12gb",
        speed="exact",
        folder=tmp_path,
        keys=ApiKeys([KEY]),
        system_prompt=GENERAL_PROMPT,
    )
    config = pickle.loads(pickle.dumps(choices.config))()
    generator = config.parts.generator
    assert isinstance(generator, BatchingLensGenerator)
    assert not generator.runtime.loaded
    assert (generator.runtime._memory, generator.runtime._speed) == ("12gb", "exact")
    assert config.keys.caller(KEY) is not None
    assert config.folder == tmp_path
    assert GENERAL_PROMPT.label in (fingerprint(config.parts.reasoner) or "")


def test_the_wait_follows_from_the_work_and_how_fast_it_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("lens_sdk.server.admission.time.monotonic", lambda: now[0])
    admission = Admission(4)
    room = admission.take(2, 1000)
    now[0] += 10
    room.leave(finished=True)
    assert admission.rate == 100
    now[0] += 50
    first = admission.take(4, 4000)
    with pytest.raises(ApiError) as caught:
        admission.check(2)
    # Half of what is there has to leave: 2000 of 4000 pixel steps, at 100 a second.
    assert caught.value.retry_after == pytest.approx(20)
    assert caught.value.headers == {"retry-after": "20"}
    with pytest.raises(ApiError) as later:
        admission.check(2)
    # Whoever asks next comes after those two.
    assert later.value.retry_after == pytest.approx(40)
    first.leave(finished=False)
    admission.take(4, 1)
