"""The examples run as they are."""

import contextlib
import hashlib
import json
import re
import runpy
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from lens_prompt_opt import PromptCard
from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    LLMReasoner,
    StepCallback,
    StepProgress,
)
from lens_sdk import AsyncLens, read_record
from loopback_lens import until
from reasoner.conftest import Call, LoopbackServer, Reply
from scripted_chat import Asked, ScriptedChat

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example's `main` in a folder of its own; what it printed."""
    monkeypatch.chdir(tmp_path)

    def begin(name: str, *arguments: str) -> str:
        runpy.run_path(str(EXAMPLES / name))["main"](*arguments)
        return capsys.readouterr().out

    return begin


def test_quickstart(run: Run, nano_folder: Path) -> None:
    assert "position:apple left of cup" in run("quickstart.py", str(nano_folder))
    assert Path("quickstart.png").is_file()


def test_refine(run: Run, nano_folder: Path) -> None:
    output = run("refine.py", "four purple fish", str(nano_folder))
    for told in ("round 1: score", "round 3: score", "not met: ", "max rounds, 6 images"):
        assert told in output
    assert "Cost:    $0.0000" in output
    row = Image.open("refine.png")
    told = json.loads(row.text["lens_sdk"])["comparison"]  # type: ignore[attr-defined]
    assert [one["label"] for one in told] == ["round 1", "round 2", "round 3"]


def test_own_generator(run: Run) -> None:
    assert "Score: 0.0" in run("own_generator.py")
    assert Path("stripes.png").is_file()


def test_qwen_image(run: Run, qwen_folder: Path) -> None:
    output = run("qwen_image.py", str(qwen_folder), "64x32", "2")
    assert "Drawn by: tiny-qwen | seed: 1" in output
    assert '"guidance_scale":4.0,"negative_prompt":"blurred letters"' in output
    assert Path("qwen_image.png").is_file()


def test_own_server(run: Run, no_proxy: None) -> None:
    output = run("own_server.py")
    assert "Prompt: A red apple, seen from above on a wooden table in soft morning light." in output
    assert "Tokens: 500 in, 30 out" in output


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the surroundings would not find the loopback."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


ADDED = "Letters are painted one by one."


def language_model(server: LoopbackServer) -> Callable[[Call], Reply]:
    """Rewrites, names failures, suggests an edit, writes criteria, judges by a picture's bytes."""

    def answer(call: Call) -> Reply:
        system, user = (message["content"] for message in call.body["messages"][:2])
        schema = json.dumps(call.body["response_format"])
        data: dict[str, Any]
        if '"verdicts"' in schema:
            picture = user[1]["image_url"]["url"]
            met = hashlib.sha256(picture.encode()).digest()[0] % 2
            line = {"id": 1, "evidence": "letters", "answer": "yes" if met else "no"}
            data = {"verdicts": [line]}
        elif '"alternatives"' in schema:
            edit = {
                "section": "Text rendering",
                "kind": "replace",
                "text": ADDED,
                "failure_mode": "wrong letters",
                "criterion_kinds": ["text"],
                "reason": "letters are left out",
            }
            data = {"analysis": "letters", "alternatives": [{"edits": [edit]}]}
        elif '"mode"' in schema:
            numbers = [item["number"] for item in json.loads(user)["items"]]
            data = {"items": [{"number": one, "mode": "wrong letters"} for one in numbers]}
        elif '"criteria"' in schema:
            request = json.loads(user)["request"]
            line = {"name": "all", "kind": "other", "question": "Is it all there?"}
            data = {"criteria": [{**line, "source": request}]}
        else:
            told = f"{json.loads(user)['request']}, {'letter by letter' * (ADDED in system)}"
            data = {"decision": "rewrite", "prompt": told, "reason": "", "category": "none"}
        return server.text("chat", json.dumps(data), model=call.body["model"])

    return answer


def test_qwen_optimised(
    run: Run, qwen_folder: Path, no_proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LoopbackServer()
    server.answer = language_model(server)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    try:
        output = run("qwen_optimised.py", str(qwen_folder), "120", "32x32", "1")
    finally:
        server.close()
    folder = Path("runs/qwen-prompt")
    assert len(list((folder / "pictures").iterdir())) > 20
    assert any('"alternatives"' in json.dumps(call.body) for call in server.calls)
    # The last rewrite, of the picture after the study, was told the prompt that was found.
    found = PromptCard.load(folder / "prompt.json").system_prompt
    rewrites = [call for call in server.calls if '"decision"' in json.dumps(call.body)]
    system = rewrites[-1].body["messages"][0]["content"]
    assert all(section.text in system for section in found.sections)
    assert 'Prompt: a library with a sign that says "QUIET"' in output
    assert GeneratedImage.load("qwen_optimised.png").generator == "tiny-qwen"


class Painter(BlockingGenerator):
    """Draws in many steps, and counts them."""

    name = "painter"
    capabilities = Capabilities(seed=True, steps=True, native_size=(16, 16))

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        for step in range(500 if "slowly" in prompt else 2):
            self.steps += 1
            on_step(StepProgress(step=step + 1, total=500))
            time.sleep(0.01)
        return [
            GeneratedImage.from_pil(
                Image.new("RGB", (16, 16), "red"),
                prompt=prompt,
                seed=seed,
                settings=settings,
                generator=self.name,
            )
            for seed in seeds
        ]


def _rewrites(asked: Asked) -> dict[str, str]:
    request = asked.data["request"]
    if "bomb" in request:
        return {"decision": "refuse", "prompt": "", "reason": "Not that.", "category": "violence"}
    return {"decision": "rewrite", "prompt": f"{request}, bright", "reason": "", "category": "none"}


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def test_fastapi_app(tmp_path: Path, no_proxy: None) -> None:
    painter = Painter()
    lens = AsyncLens(painter, reasoner=LLMReasoner(ScriptedChat(_rewrites)), judge=None)
    app = runpy.run_path(str(EXAMPLES / "fastapi_app.py"))["build_app"](lens, tmp_path / "files")
    with served(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        until(lambda: _listens(client))

        def ask(text: str, key: str | None = None, **how: Any) -> httpx.Response:
            headers = {} if key is None else {"Idempotency-Key": key}
            return client.post("/pictures", json={"text": text}, headers=headers, **how)

        first, again = ask("a red square", "a"), ask("a red square", "a")
        assert (first.status_code, painter.steps) == (200, 2)
        assert first.json() == again.json()
        assert first.json()["prompt"] == "a red square, bright"
        (tmp_path / "got.png").write_bytes(client.get(first.json()["url"]).content)
        assert read_record(tmp_path / "got.png")["request"]["text"] == "a red square"
        assert ask("another", "a").status_code == 409
        refused = ask("a bomb")
        assert (refused.status_code, refused.json()["detail"]) == (422, "Not that.")
        assert ask("").status_code == 422

        with pytest.raises(httpx.ReadTimeout):
            ask("slowly, a red square", "b", timeout=0.5)
        time.sleep(0.5)
        stopped = painter.steps
        assert 2 < stopped < 300
        time.sleep(0.2)
        assert painter.steps == stopped


def _listens(client: httpx.Client) -> bool:
    try:
        return client.get("/docs").status_code == 200
    except httpx.ConnectError:
        return False


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in here
        assert f"`python examples/{path.name}" in listed


def test_the_readme_tells_code_that_runs(
    tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lens_sdk.models.packaged_folder", lambda name: nano_folder)
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "apples.png").is_file()


def test_the_readme_shows_options_that_exist() -> None:
    from typer.main import get_command

    from lens_sdk.cli import app

    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    ours = re.sub(r"python benchmarks/[^`]*", "", readme)
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?![\w.])", ours))
    shown -= {"-c", "-e", "-m", "--no-deps"}
    top = get_command(app).commands.values()  # type: ignore[attr-defined]
    nested = (one for group in top for one in getattr(group, "commands", {}).values())
    known = {
        option
        for command in (*top, *nested)
        for parameter in command.params
        for option in parameter.opts
    }
    assert shown - {"--help"} <= known
