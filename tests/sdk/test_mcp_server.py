"""The MCP tools, called by the official client."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from lens_reasoner import GeneratedImage
from lens_sdk import AsyncLens, read_record
from lens_sdk.local import LocalLensGenerator
from lens_sdk.mcp_server import mcp_server
from lens_sdk.runtime import LensRuntime

REQUEST = "two red apples left of a blue cup"
DETAILED = f"{REQUEST}, the apples on the left side and the cup on the right, " * 2
SMALL = {"width": 64, "height": 48, "seed": 3}
TOOLS = ["create_image", "generate_image", "judge_image"]


@pytest.fixture
def client(nano_runtime: LensRuntime, tmp_path: Path) -> Client:
    lens = AsyncLens(LocalLensGenerator(nano_runtime), base_url="", folder=None)
    return Client(mcp_server(lens, tmp_path / "pictures"))


def parts(result: mcp_types.CallToolResult) -> tuple[list[bytes], Any]:
    """Pictures, and the JSON that goes with them."""
    assert not result.is_error, result.content
    images = [p for p in result.content if isinstance(p, mcp_types.ImageContent)]
    assert {image.mime_type for image in images} <= {"image/png"}
    [text] = [p.text for p in result.content if isinstance(p, mcp_types.TextContent)]
    return [base64.b64decode(image.data) for image in images], json.loads(text)


async def error_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return "".join(p.text for p in result.content if isinstance(p, mcp_types.TextContent))


async def test_tools_draw_work_and_judge(client: Client, tmp_path: Path) -> None:
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == TOOLS
        assert tools["judge_image"].annotations.read_only_hint
        for tool in tools.values():
            assert tool.description
            assert "ctx" not in tool.input_schema["properties"]

        images, told = parts(
            await client.call_tool("generate_image", {"prompt": REQUEST, "n": 2, **SMALL})
        )
        assert told["seeds"] == [3, 4]
        for data, path in zip(images, told["paths"], strict=True):
            assert GeneratedImage.load(path).data == data
            assert Path(path).parent == tmp_path / "pictures"

        seen: list[str] = []

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            seen.append(str(message))

        [best], told = parts(
            await client.call_tool(
                "create_image",
                {"request": DETAILED, "n": 1, "rounds": 1, **SMALL},
                progress_callback=on_progress,
            )
        )
        assert "an image is ready" in seen
        assert told["score"] == 0.0
        assert "Are the red apples left of the blue cup?" in told["not_met"]
        assert GeneratedImage.load(told["path"]).data == best
        assert read_record(told["path"])["verdict"]["judge"] == "nano-detector"

        _, judged = parts(
            await client.call_tool("judge_image", {"request": REQUEST, "path": told["path"]})
        )
        assert judged["score"] == 0.0
        sent = base64.b64encode(best).decode()
        _, again = parts(
            await client.call_tool("judge_image", {"request": REQUEST, "image_base64": sent})
        )
        assert again == judged


async def test_pictures_that_cannot_be_saved_are_handed_out(client: Client, tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("in the way", encoding="utf-8")
    async with client:
        asked = {"prompt": REQUEST, "n": 1, **SMALL}
        images, told = parts(await client.call_tool("generate_image", asked))
    assert len(images) == 1
    assert told["paths"][0].startswith("not saved")


async def test_mistakes_are_told_to_the_model(client: Client, tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"x")
    async with client:
        assert "multiples of 16" in await error_of(
            client, "generate_image", prompt="x", width=65, height=64
        )
        assert "give both or neither" in await error_of(
            client, "generate_image", prompt="x", width=64
        )
        assert "empty" in await error_of(client, "create_image", request=" ")
        for path in (str(outside), "../secret.png", "/etc/passwd"):
            told = await error_of(client, "judge_image", request=REQUEST, path=path)
            assert "There is no image" in told
        assert "Give either" in await error_of(client, "judge_image", request=REQUEST)
        assert "not base64" in await error_of(
            client, "judge_image", request=REQUEST, image_base64="*"
        )


async def test_the_command_speaks_over_standard_input(nano_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "p.png"
    picture.parent.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 64), "white").save(picture)
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "lens_sdk", "mcp", "--model", str(nano_folder), "--out", "pictures"],
        cwd=tmp_path,
        env={**os.environ, "LENS_BASE_URL": ""},
    )
    async with Client(command) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == TOOLS
        _, told = parts(
            await client.call_tool("judge_image", {"request": REQUEST, "path": str(picture)})
        )
    assert told["score"] == 0.0
