"""The documentation builds without a warning, and the code it shows runs."""

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt.simulation.parts import (
    SimulatedGenerator,
    SimulatedJudge,
    simulated_reasoner,
    simulated_requests,
)
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import World, seed_prompt
from loopback_lens import Running

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
Prepare = Callable[[pytest.FixtureRequest], dict[str, Any]]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference/lens_sdk/index.html").read_text(encoding="utf-8")
    assert 'id="lens_sdk.AgentLoop.stream"' in reference


def _nothing(_: pytest.FixtureRequest) -> dict[str, Any]:
    return {}


def _server(request: pytest.FixtureRequest) -> dict[str, Any]:
    running: Running = request.getfixturevalue("running")
    return {"http://127.0.0.1:8000": running.url}


def _study(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The simulator in place of what charges money."""
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setattr("lens_prompt_opt.study.default_chat", lambda model: None)
    patch.setattr("lens_prompt_opt.study.LLMProposer", lambda chat: SimulatedProposer())
    world = World("documentation")
    lines = (
        {"text": one.text, "rubric": one.rubric and one.rubric.model_dump(mode="json")}
        for one in simulated_requests(world, 40).requests
    )
    Path("requests.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    seed_prompt().save("seed.md")
    return {
        "reasoner": simulated_reasoner(world),
        "generator": SimulatedGenerator(world),
        "judge": SimulatedJudge(world),
    }


def _checkpoint(_: pytest.FixtureRequest) -> dict[str, Any]:
    import lens_core

    return {"source": Path(lens_core.__file__).parent / "weights" / "lens-nano"}


def _checkpoint_and_device(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**_checkpoint(request), "device": "cpu"}


PAGES: dict[str, Prepare] = {
    "errors.md": _nothing,
    "labels.md": _nothing,
    "loop.md": _nothing,
    "memory.md": _checkpoint,
    "prompt_opt.md": _study,
    "providers.md": _nothing,
    "server.md": _server,
    "speed.md": _checkpoint_and_device,
    "tutorial.md": _nothing,
}
"""What a page's code needs: values by name, and replacements of addresses."""

ELSEWHERE = {"pipeline.md"}
"""Pages whose code has a test of its own."""


def _pages_with_code() -> list[str]:
    found = (path for path in DOCS.rglob("*.md") if _BLOCK.search(path.read_text("utf-8")))
    return sorted({path.relative_to(DOCS).as_posix() for path in found} - ELSEWHERE)


@pytest.mark.parametrize("page", _pages_with_code())
def test_the_code_of_a_page_runs(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = PAGES[page](request)
    text = (DOCS / page).read_text(encoding="utf-8")
    for address in [name for name in names if name.startswith("http")]:
        text = text.replace(address, names.pop(address))
    for block in _BLOCK.findall(text):
        code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)
