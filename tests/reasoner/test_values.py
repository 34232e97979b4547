"""Values keep their meaning through JSON and through files; scores and sums are what they say."""

import io
import pickle
import string
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter, ValidationError

from any_values import pictures, refusals, requests, rewrites, rubrics, settings, usages, verdicts
from lens_reasoner import (
    ChatError,
    Criterion,
    CriterionVerdict,
    Event,
    GeneratedImage,
    GenerationSettings,
    ImageFileError,
    ImageRequest,
    JudgeError,
    LoopLimits,
    LoopResult,
    MissingKeyError,
    QuotaError,
    ReasonerError,
    Rewrite,
    Rubric,
    UnsupportedSettingError,
    Usage,
    Verdict,
    fold_events,
)
from lens_reasoner.events import (
    Finished,
    ImageReady,
    Judged,
    RewriteDone,
    RubricDone,
    StageFailed,
    StageFailure,
    Started,
    Step,
)


@given(st.one_of(usages, settings, requests, rewrites, refusals, rubrics, verdicts, pictures()))
def test_every_value_survives_json(value: object) -> None:
    assert type(value).model_validate_json(value.model_dump_json()) == value


@given(pictures())
def test_a_saved_picture_is_found_again_with_everything_in_it(picture: GeneratedImage) -> None:
    # A folder per example, because hypothesis shares one tmp_path among all of them.
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = picture.save(f"{folder}/deep/er/picture.png", record={"request": "日本\nß"})
        again = GeneratedImage.load(path)
        assert again == picture
        assert again.sha256 == picture.sha256
        with Image.open(path) as opened:
            opened.load()
            assert opened.tobytes() == picture.image.tobytes()
            if picture.seed is not None:
                assert f"Seed: {picture.seed}" in opened.text["parameters"]


def test_saving_keeps_chunks_of_others_and_does_not_pile_up(tmp_path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    info.add(b"zzZz", b"of another program")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=info)
    picture = GeneratedImage(
        data=buffer.getvalue(), seed=1, prompt="p", settings=GenerationSettings(), generator="g"
    )
    path = picture.save(tmp_path / "a.png")
    data = GeneratedImage.load(path).save(path).read_bytes()
    assert b"zzZzof another program" in data
    assert data.count(b"lens_sdk\0") == 1
    with Image.open(path) as opened:
        assert opened.text["Author"] == "somebody"


def _encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 16), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def _signed_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(b"caBX", b"provenance")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "written"),
    [
        (_encoded("JPEG"), "a.png", "a.jpg"),
        (_encoded("JPEG"), "a.jpeg", "a.jpeg"),
        (_encoded("WEBP"), "a.v2", "a.v2.webp"),
        (_encoded("GIF"), "a.gif", "a.gif"),
        (_signed_png(), "a.png", "a.png"),
    ],
)
def test_bytes_of_providers_are_saved_as_they_came(tmp_path, data, name, written) -> None:
    picture = GeneratedImage(
        data=data, seed=None, prompt="日本", settings=GenerationSettings(), generator="g"
    )
    path = picture.save(tmp_path / name, record={"request": "r"})
    assert path.name == written
    assert path.read_bytes() == data
    assert GeneratedImage.load(path) == picture
    assert GeneratedImage.model_validate_json(picture.model_dump_json()) == picture
    assert sorted(p.name for p in tmp_path.iterdir()) == [written, f"{written}.json"]
    with Image.open(io.BytesIO(picture.png)) as decoded:
        assert decoded.format == "PNG"
        assert decoded.convert("RGB").tobytes() == picture.image.convert("RGB").tobytes()
    path.write_bytes(_encoded("JPEG") + b"x")
    with pytest.raises(ImageFileError, match="another image"):
        GeneratedImage.load(path)


def test_pictures_of_the_first_version_are_still_read() -> None:
    picture = GeneratedImage.from_pil(
        Image.new("RGB", (2, 2)), prompt="p", seed=1, settings=GenerationSettings(), generator="g"
    )
    old = picture.model_dump(mode="json", exclude={"usage"})
    old["png"] = old.pop("data")
    assert GeneratedImage.model_validate(old) == picture


def test_files_without_our_metadata_are_refused(tmp_path) -> None:
    foreign = tmp_path / "foreign.png"
    Image.new("RGB", (2, 2)).save(foreign)
    with pytest.raises(ImageFileError, match="lens_sdk"):
        GeneratedImage.load(foreign)
    jpeg = tmp_path / "photo.png"
    Image.new("RGB", (2, 2)).save(jpeg, "JPEG")
    with pytest.raises(ImageFileError, match="not a PNG"):
        GeneratedImage.load(jpeg)
    cut = tmp_path / "cut.png"
    cut.write_bytes(foreign.read_bytes()[:-6])
    with pytest.raises(ImageFileError, match="ends early"):
        GeneratedImage.load(cut)
    with pytest.raises(ValidationError, match="not a PNG"):
        GeneratedImage(
            data=b"<html>", seed=1, prompt="", settings=GenerationSettings(), generator=""
        )


@given(usages, usages, usages)
def test_sums_of_usage(one: Usage, two: Usage, three: Usage) -> None:
    assert one + Usage.zero() == one
    assert one + two == two + one
    total = Usage.total([one, two, three])
    for name in Usage.model_fields:
        parts = [getattr(usage, name) for usage in (one, two, three)]
        if None in parts:
            assert getattr(total, name) is None
        else:
            assert getattr(total, name) == pytest.approx(sum(parts))


def _verdict(*answers: tuple[str, float]) -> Verdict:
    return Verdict(
        image_sha256="0",
        judge="j",
        verdicts=tuple(
            CriterionVerdict(criterion=str(i), answer=answer, weight=weight)
            for i, (answer, weight) in enumerate(answers)
        ),
    )


def test_scores_by_hand() -> None:
    mixed = _verdict(("yes", 3), ("no", 1), ("cannot_tell", 4))
    assert (mixed.score, mixed.coverage, mixed.all_satisfied) == (0.75, 0.5, False)
    unknown = _verdict(("cannot_tell", 1))
    assert (unknown.score, unknown.coverage, unknown.all_satisfied) == (None, 0.0, False)
    assert _verdict().score is None
    assert not _verdict().all_satisfied
    assert _verdict(("yes", 1), ("cannot_tell", 1)).score == 1.0
    assert not _verdict(("yes", 1), ("cannot_tell", 1)).all_satisfied


@given(verdicts)
def test_scores_stay_in_range_and_agree_with_the_answers(verdict: Verdict) -> None:
    given_answers = {v.answer for v in verdict.verdicts}
    assert 0 <= verdict.coverage <= 1
    if given_answers <= {"cannot_tell"}:
        assert verdict.score is None
    else:
        assert 0 <= verdict.score <= 1
        assert (verdict.score == 1) == ("no" not in given_answers)
        assert (verdict.score == 0) == ("yes" not in given_answers)
    assert verdict.all_satisfied == (given_answers == {"yes"})


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"text": " \n"}, "empty"),
        ({"text": "x", "width": 64}, "both or neither"),
        ({"text": "x", "aspect_ratio": "4/3"}, "width:height"),
        ({"text": "x", "aspect_ratio": "0:3"}, "width:height"),
        ({"text": "x", "width": 64, "height": 64, "aspect_ratio": "1:1"}, "one of them"),
        ({"text": "x", "num_images": 0}, "num_images"),
        ({"text": "x", "seed": 2**53}, "seed"),
        ({"text": "x", "guidance_scale": float("nan")}, "guidance_scale"),
        ({"text": "x", "sed": 3}, "sed"),
    ],
)
def test_requests_that_make_no_sense(fields: dict, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ImageRequest(**fields)


@pytest.mark.parametrize(
    ("make", "option", "meant"),
    [
        (partial(ImageRequest.of, "x"), "n", "num_images"),
        (partial(ImageRequest, text="x"), "steps", "num_inference_steps"),
        (partial(ImageRequest.of, ImageRequest(text="x")), "guidence_scale", "guidance_scale"),
        (LoopLimits, "rounds", "max_rounds"),
        (LoopLimits, "max_cost", "max_usd"),
    ],
)
def test_options_by_another_name_are_told_the_right_one(
    make: Callable[..., object], option: str, meant: str
) -> None:
    """Pydantic only said that extra inputs are not permitted."""
    with pytest.raises(ValidationError, match=f"Did you mean {meant}\\?") as caught:
        make(**{option: 3})
    assert [(e["type"], e["loc"]) for e in caught.value.errors()] == [
        ("extra_forbidden", (option,))
    ]
    with pytest.raises(ValidationError, match=r"Options: negative_prompt, .*, extra "):
        ImageRequest.of(ImageRequest(text="x"), quality="low")


def test_values_refuse_what_json_would_lose() -> None:
    with pytest.raises(ValidationError):
        GenerationSettings(extra={"strength": float("inf")})
    criterion = Criterion(name="a", kind="object", question="?")
    with pytest.raises(ValidationError, match="differ"):
        Rubric(request="r", criteria=(criterion, criterion))


@given(requests, rewrites, rubrics, pictures(), verdicts)
def test_a_run_is_the_fold_of_its_events_also_from_json(
    request: ImageRequest,
    rewrite: Rewrite,
    rubric: Rubric,
    picture: GeneratedImage,
    verdict: Verdict,
) -> None:
    failure = StageFailure.of("judge", JudgeError("blind", usage=Usage.zero(), hint="glasses"))
    events = [
        Started(request=request, seed=3),
        RewriteDone(outcome=rewrite),
        RubricDone(rubric=rubric, written=True),
        Step(round=0, index=0, step=1, total=2),
        ImageReady(round=0, index=0, image=picture),
        ImageReady(round=0, index=1, image=picture),
        Judged(index=1, verdict=verdict),
        StageFailed(index=0, failure=failure),
        Finished(stop_reason="max_rounds", best=1, timings={"total": 1.5}),
    ]
    adapter = TypeAdapter(Event)
    again = [adapter.validate_json(adapter.dump_json(event)) for event in events]
    assert again == events
    result = fold_events(again)
    assert LoopResult.model_validate_json(result.model_dump_json()) == result
    spent = [rewrite.usage, rubric.usage, picture.usage, picture.usage, verdict.usage]
    total = Usage.total(spent)
    assert result.usage.model_copy(update={"usd": total.usd}) == total
    assert result.usage.usd == pytest.approx(total.usd)
    assert result.candidates[0].score is None
    assert result.candidates[0].failure == failure
    assert result.best_index == (0 if verdict.score is None and not verdict.coverage else 1)
    cut_short = fold_events(events[:5])
    assert cut_short.stop_reason == "interrupted"
    assert cut_short.best.image == picture


@pytest.mark.parametrize(
    "error",
    [
        ReasonerError("what", hint="do"),
        MissingKeyError("what", hint="do"),
        ChatError("what", fault="html", model="m", usage=Usage(usd=1.0), hint="do"),
        QuotaError("what", fault="quota", status=429, request_id="r", hint="do"),
        JudgeError("what", usage=Usage.zero(), hint="do"),
        UnsupportedSettingError("what", setting="seed", value=3, backend="b", hint="do"),
    ],
)
def test_errors_travel_between_processes(error: ReasonerError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error) == "what do"


def test_the_repr_of_a_picture_shows_no_bytes() -> None:
    picture = GeneratedImage.from_pil(
        Image.new("RGB", (64, 64)), prompt="p", seed=1, settings=GenerationSettings(), generator="g"
    )
    assert len(repr(picture)) < 400
    assert set(repr(picture)) <= set(string.printable)
