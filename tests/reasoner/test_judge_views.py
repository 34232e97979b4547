"""What a judge is shown of a picture, and what that costs."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_reasoner import (
    OPENAI_PRICES,
    Criterion,
    GeneratedImage,
    GenerationSettings,
    PerCriterion,
    Rubric,
    RubricJudge,
    View,
)
from lens_reasoner.judging.view import image_cost, image_tokens
from scripted_chat import ScriptedChat

RUBRIC = Rubric(request="r", criteria=(Criterion(name="c", kind="object", question="Red?"),))


def _picture(width: int, height: int, color="red", mode: str = "RGB") -> GeneratedImage:
    return GeneratedImage.from_pil(
        Image.new(mode, (width, height), color),
        prompt="p",
        seed=1,
        settings=GenerationSettings(),
        generator="g",
    )


def _seeing() -> ScriptedChat:
    return ScriptedChat(lambda _: {"verdicts": [{"id": 1, "evidence": "e", "answer": "yes"}]})


async def test_pictures_are_shown_as_large_as_said() -> None:
    big = _picture(400, 200)
    chat = _seeing()
    verdict = await RubricJudge(chat, max_side=100, detail="low").judge(big, RUBRIC)
    assert verdict.view == View(width=100, height=50, detail="low")
    (part,) = chat.calls[0].images
    assert Image.open(io.BytesIO(part.data)).size == (100, 50)
    assert part.detail == "low"
    whole = await RubricJudge(chat, max_side=400).judge(big, RUBRIC)
    assert chat.calls[1].images[0].data == big.data
    assert whole.view == View(width=400, height=200, detail="high")
    assert whole.image_sha256 == verdict.image_sha256 == big.sha256


async def test_what_is_transparent_is_shown_white_when_scaled() -> None:
    picture = _picture(64, 64, (0, 0, 0, 0), "RGBA")
    chat = _seeing()
    await RubricJudge(chat, max_side=8).judge(picture, RUBRIC)
    shown = Image.open(io.BytesIO(chat.calls[0].images[0].data))
    assert (shown.mode, shown.getpixel((4, 4))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4.1-mini", (1024, 1024), "high", 1659),  # 1024 patches x 1.62
        ("gpt-4.1-mini-2025-04-14", (1440, 1440), "high", 2464),  # scaled down to 39 x 39 patches
        ("gpt-4.1-mini", (33, 1), "high", 3),
        ("gpt-4.1-mini", (1024, 1024), "low", None),
        ("gpt-4.1", (1024, 1024), "high", 765),  # 2 x 2 tiles after scaling to 768
        ("gpt-4.1", (2048, 4096), "high", 1105),  # 2 x 3 tiles
        ("gpt-4.1", (4000, 4000), "low", 85),
        ("gpt-4.1", (512, 512), "high", 255),
        ("gpt-4.1", (512, 512), "auto", None),
        ("some-vlm", (512, 512), "high", None),
    ],
)
def test_tokens_of_a_picture(model, size, detail, tokens) -> None:
    view = View(width=size[0], height=size[1], detail=detail)
    assert image_tokens(model, view) == tokens
    cost = image_cost(model, view)
    if tokens is None:
        assert (cost.tokens, cost.usd) == (None, None)
    else:
        price = OPENAI_PRICES.prices[model.removesuffix("-2025-04-14")]
        assert cost.usd == pytest.approx(tokens * price.input / 1e6)


@given(st.integers(1, 8000), st.integers(1, 8000))
def test_no_picture_costs_more_than_the_most(width, height) -> None:
    tokens = image_tokens("gpt-4.1-mini", View(width=width, height=height, detail="high"))
    assert tokens is not None
    assert 1 <= tokens <= round(1536 * 1.62)
    tiled = image_tokens("gpt-4.1", View(width=width, height=height, detail="high"))
    assert tiled is not None
    assert 85 + 170 <= tiled <= 85 + 170 * 8


def test_estimates_count_every_sending() -> None:
    big = _picture(1024, 1024)
    chat = ScriptedChat(lambda _: {}, model="gpt-4.1-mini")
    assert RubricJudge(chat).estimate_cost(big, criteria=8).tokens == 1659
    each = RubricJudge(mode=PerCriterion(chat)).estimate_cost(big, criteria=8)
    assert each.tokens == 8 * 1659
    assert each.usd == pytest.approx(8 * 1659 * 0.4e-6)
    small = RubricJudge(chat, max_side=512).estimate_cost(big)
    assert small.tokens == round(256 * 1.62)
    unknown = RubricJudge(ScriptedChat(lambda _: {})).estimate_cost(big)
    assert (unknown.tokens, unknown.usd) == (None, None)
