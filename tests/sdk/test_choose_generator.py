"""Generators by a word, in Python and on the command line."""

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_reasoner import (
    DiffusersGenerator,
    ImageServer,
    MissingKeyError,
    OpenAIImages,
    UnsupportedSettingWarning,
)
from lens_sdk import (
    LocalLensGenerator,
    UnknownModelError,
    build_loop,
    choose_generator,
    generate,
    read_record,
)
from lens_sdk.cli import app


@pytest.fixture
def image_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that draws JPEG pictures of the size asked for; its /v1 address."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            size = tuple(int(edge) for edge in asked.get("size", "64x64").split("x"))
            buffer = io.BytesIO()
            Image.new("RGB", size, (asked.get("seed", 0) % 256, 9, 9)).save(buffer, "JPEG")
            entry = {"b64_json": base64.b64encode(buffer.getvalue()).decode()}
            usage = {
                "input_tokens": 10,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
                "output_tokens": 100,
            }
            body = {"created": 1, "data": [entry] * asked["n"], "usage": usage}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_words_mean_generators(
    tiny_folder: Path, qwen_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    found = {
        "openai": (OpenAIImages, "gpt-image-2"),
        "openai:gpt-image-2.6-flare": (OpenAIImages, "gpt-image-2.6-flare"),
        "vllm-omni:http://gpu:8000/v1#Qwen/Qwen-Image": (ImageServer, "Qwen/Qwen-Image"),
        "server:https://host/v1#flux": (ImageServer, "flux"),
        "diffusers:Qwen/Qwen-Image": (DiffusersGenerator, "Qwen/Qwen-Image"),
        "qwen-image": (DiffusersGenerator, "Qwen/Qwen-Image"),
        f"diffusers:{qwen_folder}": (DiffusersGenerator, "tiny-qwen"),
        str(qwen_folder): (DiffusersGenerator, "tiny-qwen"),
        str(tiny_folder): (LocalLensGenerator, "tiny"),
    }
    for word, (kind, name) in found.items():
        generator = choose_generator(word)
        assert (type(generator), generator.name) == (kind, name)
    assert choose_generator("sglang:http://x/v1#m").capabilities.steps
    assert not choose_generator("server:http://x/v1#m").capabilities.steps
    assert choose_generator("openai", on_unsupported="warn").capabilities.on_unsupported == "warn"


@pytest.mark.parametrize(
    "word", ["opnai", "server:gpu:8000", "server:http://x/v1", "sglang:#m", "diffusers:", "gpt-x"]
)
def test_words_that_mean_nothing_list_the_choices(word: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        choose_generator(word)
    assert "diffusers:ID_OR_FOLDER" in caught.value.hint
    assert "#MODEL" in caught.value.hint


def test_openai_needs_a_key() -> None:
    with pytest.raises(MissingKeyError, match="gpt-image-2"):
        build_loop("openai", reasoner=None, judge=None)


def test_a_diffusers_pipeline_by_name(qwen_folder: Path) -> None:
    result = generate(
        "a cup",
        model=f"diffusers:{qwen_folder}",
        reasoner=None,
        judge=None,
        width=64,
        height=32,
        num_inference_steps=2,
        seed=3,
    )
    assert result.best is not None
    assert result.best.image.image.size == (64, 32)


def test_the_command_draws_with_a_diffusers_folder(
    qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--size", "64x32", "--steps", "2", "--seed", "3", "--no-reason", "--no-judge"]
    done = CliRunner().invoke(
        app, ["generate", "a cup", "-m", f"diffusers:{qwen_folder}", *options]
    )
    assert done.exit_code == 0, done.output
    record = read_record(tmp_path / "lens-out" / "a-cup-3.png")
    assert record["image"]["settings"]["guidance_scale"] == 4.0
    assert record["model"] is None


def test_the_command_draws_with_a_server_and_keeps_its_bytes(
    image_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    word = f"vllm-omni:{image_server}#some-model"
    plain = ["--no-reason", "--no-judge", "--n", "2", "--all", "--json"]
    done = CliRunner().invoke(
        app, ["generate", "a cup", "-m", word, "--seed", "7", "--out", "cup.png", *plain]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["path"] == "cup.jpg"
    assert report["candidates"][1]["path"] == "cup-8.jpg"
    assert read_record(tmp_path / "cup.jpg")["image"]["seed"] == 7
    # The server says what it used, but nobody told us its prices.
    assert report["usage"]["output_tokens"] == 200
    assert report["usage"]["usd"] is None


def test_what_the_model_lacks_is_refused_or_left_out(
    image_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["generate", "a cup", "-m", f"server:{image_server}#m", "--no-reason", "--no-judge"]
    done = CliRunner().invoke(app, [*command, "--steps", "4"])
    assert done.exit_code == 1
    assert "num_inference_steps=4" in done.output
    with pytest.warns(UnsupportedSettingWarning):
        done = CliRunner().invoke(app, [*command, "--steps", "4", "--drop-unsupported"])
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "lens-out").glob("*.jpg")
    settings = read_record(path)["image"]["settings"]
    assert settings["dropped"] == {"num_inference_steps": 4}
    # Told in a line of its own, without the code it comes from.
    shell = [sys.executable, "-m", "lens_sdk", *command, "--steps", "4", "--drop-unsupported"]
    shown = subprocess.run(shell, capture_output=True, text=True, check=True).stderr
    assert "Warning: num_inference_steps=4 is not supported" in shown
    assert ".py" not in shown
