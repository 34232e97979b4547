"""Any values of the loop, for properties that all of them have."""

from hypothesis import strategies as st
from PIL import Image

from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    GenerationSettings,
    ImageRequest,
    Refused,
    Rewrite,
    Rubric,
    Usage,
    Verdict,
)

words = st.text(min_size=1, max_size=12)
seconds = st.floats(0, 1e6)
tokens = st.none() | st.integers(0, 2**40)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cached_tokens=tokens,
    usd=st.none() | st.floats(0, 1e6),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, json_values, max_size=3)
sizes = st.none() | st.integers(1, 4096)
settings = st.builds(
    GenerationSettings,
    width=sizes,
    height=sizes,
    num_inference_steps=st.none() | st.integers(1, 200),
    guidance_scale=st.none() | st.floats(0, 50),
    negative_prompt=st.text(max_size=8),
    extra=objects,
    dropped=objects,
)
seeds = st.integers(0, 2**53 - 1)


@st.composite
def pictures(draw: st.DrawFn) -> GeneratedImage:
    mode = draw(st.sampled_from(["RGB", "RGBA", "L"]))
    width, height = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    channels = len(Image.new(mode, (1, 1)).getbands())
    data = draw(st.binary(min_size=width * height * channels, max_size=width * height * channels))
    return GeneratedImage.from_pil(
        Image.frombytes(mode, (width, height), data),
        prompt=draw(st.text(max_size=30)),
        seed=draw(st.none() | seeds),
        settings=draw(settings),
        generator=draw(words),
        timings=draw(st.dictionaries(words, seconds, max_size=2)),
    ).model_copy(update={"usage": draw(usages)})


criteria = st.builds(
    Criterion,
    name=words,
    kind=st.sampled_from(["object", "count", "color", "structure"]),
    question=words,
    source=st.text(max_size=8),
    weight=st.floats(1e-3, 100),
    expected=objects,
)
rubrics = st.builds(
    Rubric,
    request=words,
    criteria=st.lists(criteria, min_size=1, max_size=4, unique_by=lambda c: c.name).map(tuple),
    author=words,
    usage=usages,
    seconds=seconds,
)
answers = st.builds(
    CriterionVerdict,
    criterion=words,
    answer=st.sampled_from(["yes", "no", "cannot_tell"]),
    evidence=st.text(max_size=8),
    weight=st.floats(1e-3, 100),
    probability=st.none() | st.floats(0, 1),
)
verdicts = st.builds(
    Verdict,
    image_sha256=words,
    verdicts=st.lists(answers, max_size=5).map(tuple),
    judge=words,
    seconds=seconds,
    usage=usages,
)
requests = st.builds(
    ImageRequest,
    text=words.filter(str.strip),
    negative_prompt=st.text(max_size=8),
    aspect_ratio=st.none() | st.sampled_from(["1:1", "3:4", "16:9"]),
    seed=st.none() | seeds,
    num_inference_steps=st.none() | st.integers(1, 99),
    guidance_scale=st.none() | st.floats(0, 30),
    num_images=st.integers(1, 9),
)
rewrites = st.builds(
    Rewrite,
    request=words,
    prompt=words,
    model=words,
    system_prompt_version=words,
    usage=usages,
    seconds=seconds,
)
refusals = st.builds(
    Refused, reason=words, category=st.sampled_from(["hate", "other"]), usage=usages
)
