"""An MCP server: image generation, the loop and judging as tools for language models."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field, ValidationError

from lens_reasoner import (
    Candidate,
    Event,
    GeneratedImage,
    LoopLimits,
    LoopResult,
    ReasonerError,
)
from lens_sdk.client.lens import AsyncLens
from lens_sdk.metadata import save_candidate
from lens_sdk.models import package_version

MOST_IMAGES = 8
"""Maximum number of images per call."""

_INSTRUCTIONS = (
    "Generates images. create_image rewrites a request, generates several images, judges them and "
    "revises until the request is met; use it for what has to be right. generate_image draws a "
    "prompt as it is; use it where the prompt is detailed already. judge_image checks an image "
    "against a request. Every image is saved; its path is in the answer."
)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False)
_READS = ToolAnnotations(read_only_hint=True)

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[int, Field(ge=1, le=MOST_IMAGES, description="Number of images.")]
Edge = Annotated[int | None, Field(ge=1, description="Pixels; give width and height or neither.")]
SeedField = Annotated[int | None, Field(ge=0, description="The same seed draws the same again.")]
T = TypeVar("T")


def mcp_server(lens: AsyncLens, folder: Path) -> MCPServer[Any]:
    """Make a server whose tools use a client.

    Args:
        lens: The client that generates, rewrites and judges, locally or on a server.
        folder: Where images are saved; `judge_image` reads only files in it.
    """
    server: MCPServer[Any] = MCPServer(
        "lens", title="Lens", instructions=_INSTRUCTIONS, version=package_version()
    )
    tools = _Tools(lens, folder)
    for tool, hints in (
        (tools.create_image, _ADDS),
        (tools.generate_image, _ADDS),
        (tools.judge_image, _READS),
    ):
        server.tool(annotations=hints, structured_output=False)(tool)
    return server


class _Tools:
    """The tools; language models read their docstrings."""

    def __init__(self, lens: AsyncLens, folder: Path) -> None:
        self._lens = lens
        self._folder = folder

    async def generate_image(
        self,
        prompt: Annotated[Text, Field(description="The prompt, used unchanged.")],
        n: Number = 1,
        width: Edge = None,
        height: Edge = None,
        seed: SeedField = None,
        negative_prompt: Annotated[
            str, Field(description="What the image should not contain.")
        ] = "",
    ) -> list[Any]:
        """Generate images from a prompt, without rewriting or judging."""
        asked = {"width": width, "height": height, "seed": seed, "negative_prompt": negative_prompt}
        images = await _told(self._lens.images.generate(prompt, n=n, **asked))
        paths = [_saved(partial(image.save, self._free(image))) for image in images]
        told = {"paths": paths, "seeds": [image.seed for image in images]}
        return [*(Image(data=i.data, format=_format(i)) for i in images), json.dumps(told)]

    async def create_image(
        self,
        request: Annotated[Text, Field(description="What the image should show, in any words.")],
        ctx: Context[Any, Any],
        n: Annotated[int, Field(ge=1, le=MOST_IMAGES, description="Images per round.")] = 2,
        rounds: Annotated[int, Field(ge=1, le=5, description="Maximum number of rounds.")] = 2,
        width: Edge = None,
        height: Edge = None,
        seed: SeedField = None,
        max_usd: Annotated[
            float | None, Field(gt=0, description="Cost limit in US dollars.")
        ] = None,
        deadline: Annotated[float | None, Field(gt=0, description="Time limit in seconds.")] = None,
    ) -> list[Any]:
        """Work on a request until it is met and return the best image with its verdict.

        Rewrites the request, generates images, judges them criterion by criterion, and revises.
        """
        asked: dict[str, Any] = {
            "width": width,
            "height": height,
            "seed": seed,
            "num_images": n,
        }
        limits = LoopLimits(max_rounds=rounds, max_usd=max_usd, deadline=deadline)

        async def work() -> LoopResult:
            stream = self._lens.stream(request, limits=limits, **asked)
            done = 0
            async with stream:
                async for event in stream:
                    if event.type != "step":
                        done += 1
                        await ctx.report_progress(done, None, _words(event))
            return stream.so_far

        result = await _told(work())
        if result.refused is not None:
            raise ToolError(f"The request was refused: {result.refused.reason}")
        if result.best is None:
            reasons = "; ".join(f.message for f in result.failures) or result.stop_reason
            raise ToolError(f"No image was generated: {reasons}")
        best = result.best
        path = _saved(partial(save_candidate, result, best, self._free(best.image)))
        picture = Image(data=best.image.data, format=_format(best.image))
        return [picture, json.dumps(_summary(result, best, path))]

    async def judge_image(
        self,
        request: Annotated[Text, Field(description="What the image was meant to show.")],
        path: Annotated[str, Field(description="An image that these tools saved.")] = "",
        image_base64: Annotated[str, Field(description="Or a PNG, JPEG or WebP file.")] = "",
    ) -> str:
        """Check an image against a request, criterion by criterion; give path or image_base64."""
        data = self._picture(path, image_base64)
        found = await _told(self._lens.judge(data, request))
        questions = {c.name: c.question for c in found.rubric.criteria}
        told = {
            "score": found.verdict.score,
            "judge": found.verdict.judge,
            "criteria": [
                {
                    "question": questions.get(line.criterion, line.criterion),
                    "answer": line.answer,
                    "evidence": line.evidence,
                }
                for line in found.verdict.verdicts
            ],
        }
        return json.dumps(told)

    def _picture(self, path: str, image_base64: str) -> bytes:
        if bool(path) == bool(image_base64):
            raise ToolError("Give either path or image_base64.")
        if image_base64:
            try:
                return base64.b64decode(image_base64.rpartition("base64,")[2], validate=True)
            except ValueError as error:
                raise ToolError(f"image_base64 is not base64: {error}") from error
        file = Path(path).resolve()
        if not file.is_relative_to(self._folder.resolve()) or not file.is_file():
            raise ToolError(f"There is no image {path!r} among those saved in {self._folder}.")
        return file.read_bytes()

    def _free(self, image: GeneratedImage) -> Path:
        """Return a path in the folder that depends only on the image's content."""
        return self._folder / f"{image.sha256[:16]}.{_format(image)}"


async def _told(work: Awaitable[T]) -> T:
    """Await the result; errors become messages that a language model can act on."""
    try:
        return await work
    except ReasonerError as error:
        raise ToolError(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ToolError(f"{where}: {first['msg']}" if where else str(first["msg"])) from error


def _saved(save: Callable[[], Path]) -> str:
    """Return where an image was saved, or why not: it is returned to the caller either way."""
    try:
        return str(save())
    except OSError as error:
        return f"not saved: {error}"


def _summary(result: LoopResult, best: Candidate, path: str) -> dict[str, Any]:
    questions = {c.name: c.question for c in result.rubric.criteria} if result.rubric else {}
    lines = best.verdict.verdicts if best.verdict is not None else ()
    return {
        "path": path,
        "prompt": best.image.prompt,
        "seed": best.image.seed,
        "score": best.score,
        "not_met": [questions.get(v.criterion, v.criterion) for v in lines if v.answer == "no"],
        "pictures": len(result.candidates),
        "stop_reason": result.stop_reason,
        "notes": [failure.message for failure in result.failures],
        "usd": result.usage.usd,
    }


def _words(event: Event) -> str:
    """Describe an event as a progress message."""
    words: dict[str, Callable[[], str]] = {
        "rewrite_done": lambda: "the prompt is written",
        "rubric_done": lambda: "the criteria are written",
        "image_ready": lambda: "an image is ready",
        "judged": lambda: "an image is judged",
        "revised": lambda: "the prompt is revised",
    }
    return words.get(event.type, lambda: event.type.replace("_", " "))()


def _format(image: GeneratedImage) -> str:
    return image.media_type.partition("/")[2]
