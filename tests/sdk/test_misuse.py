"""What people give by mistake in Python is refused in words that help."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

import lens_sdk
from lens_reasoner import AgentLoop, ImageFileError, LoopConfigError, PassThrough
from lens_sdk import AsyncLens, build_loop
from lens_sdk.local import LocalLensGenerator
from lens_sdk.nano_judge import NanoJudge

NANO = Path(lens_sdk.__file__).parents[2] / "core" / "lens_core" / "weights" / "lens-nano"


def _draw(prompt: str, seed: int) -> Any:
    raise AssertionError("it is never called")


def test_a_folder_may_be_a_path() -> None:
    loop = build_loop(NANO, reasoner=None, judge=None)
    assert isinstance(loop._parts.generator, LocalLensGenerator)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"model": _draw}, "FunctionGenerator"),
        ({"model": object()}, "no method 'generate'"),
        ({"reasoner": _draw, "judge": None}, "no method 'rewrite'"),
        ({"reasoner": None, "judge": NanoJudge}, "is the class NanoJudge"),
        ({"reasoner": None, "judge": PassThrough()}, "no method 'judge'"),
    ],
)
def test_what_is_no_part_is_refused_at_once(parts: dict[str, Any], told: str) -> None:
    """A function for a generator ended in a missing key of a language model."""
    with pytest.raises(LoopConfigError) as caught:
        build_loop(**parts)
    assert told in str(caught.value)


def test_a_loop_needs_a_generator() -> None:
    with pytest.raises(LoopConfigError, match="None is not a generator"):
        AgentLoop(generator=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("request_", [None, ["two red apples"], 7])
def test_what_is_no_request_is_refused(request_: Any) -> None:
    with pytest.raises(ValidationError, match="text"):
        lens_sdk.generate(request_, reasoner=None, judge=None)


async def test_a_picture_that_cannot_be_judged_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:800])
    async with AsyncLens(judge="nano", reasoner=None, folder=None, cache=None) as lens:
        for path, told in ((cut, "damaged"), (tmp_path / "none.png", "cannot be read")):
            with pytest.raises(ImageFileError) as caught:
                await lens.judge(path, "a red apple")
            assert str(path) in str(caught.value)
            assert told in str(caught.value)
