"""Batches on the command line, and all that they ask behind one address."""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_sdk.cli import app
from reasoner.conftest import Call, LoopbackServer, Reply

REQUESTS = ["two red apples", "a blue cup", "three green trees"]


def lens(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["batch", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stdout, " ".join(result.stderr.split())


def table(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "requests.txt"
    path.write_text("\n\n".join(REQUESTS), encoding="utf-8")
    return path


class World:
    """Rewriter, judge and painter behind one address, told what to refuse and when to do what."""

    def __init__(self, server: LoopbackServer) -> None:
        self.server = server
        self.down: dict[str, int] = {}
        self.at: Callable[[int], object] = lambda number: None
        server.answer = self._answer

    @property
    def asked(self) -> Counter[str]:
        """How often each thing was asked for."""
        return Counter(call.raw.decode() for call in self.server.calls)

    def _answer(self, call: Call) -> Reply:
        self.at(len(self.server.calls))
        server = self.server
        if call.path.endswith("/images/generations"):
            if "bomb" in call.body["prompt"]:
                return server.error(400, "safety system", code="moderation_blocked")
            return server.raw(json.dumps({"created": 1, "data": [self._picture(call)]}).encode())
        schema = json.dumps(call.body["response_format"])
        role = next((one for one in ("verdicts", "findings", "criteria") if one in schema), "")
        if role in self.down:
            return server.error(self.down[role], "no", retry_after_ms="5")
        asked = call.body["messages"][1]["content"]
        data: dict[str, Any]
        if role == "verdicts":
            data = {"verdicts": [{"id": 1, "evidence": "there", "answer": "yes"}]}
        elif role == "findings":
            data = {"findings": [{"id": 1, "evidence": "there", "status": "stated"}]}
        elif role == "criteria":
            line = {"name": "all", "kind": "other", "question": "Is it all there?", "source": ""}
            data = {"criteria": [line]}
        else:
            text = json.loads(asked)["request"]
            data = {"decision": "rewrite", "prompt": text, "reason": "", "category": "none"}
            if "poison" in text:
                data = {"decision": "refuse", "prompt": "", "reason": "No.", "category": "illegal"}
        return server.text("chat", json.dumps(data), model=call.body["model"])

    def _picture(self, call: Call) -> dict[str, str]:
        buffer = io.BytesIO()
        colour = (len(call.body["prompt"]), call.body["seed"] % 256, 0)
        Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
        return {"b64_json": base64.b64encode(buffer.getvalue()).decode()}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = LoopbackServer()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    yield World(server)
    server.close()


@pytest.fixture
def served(world: World, file: Path) -> list[str]:
    """The command, with everything behind the address."""
    return [
        *(str(file), "--out", "out", "--model", f"vllm-omni:{world.server.url}#painter"),
        *("--reasoner", "openai:writer", "--judge", "openai:judge", "--seed", "1"),
        *("--rounds", "1", "--n", "1"),
    ]


CALLS = 5
"""Of each request: rewrite, criteria, check of the prompt, picture, verdict."""
