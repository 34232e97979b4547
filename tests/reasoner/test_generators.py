"""Settings are honoured or refused; blocking code runs in a thread and can be stopped."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    FunctionGenerator,
    GenerationSettings,
    Generator,
    GeneratorError,
    ImageRequest,
    SizeLimits,
    StepProgress,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
    settings_for,
)

NOTHING = Capabilities()
FREE = Capabilities(
    seed=True,
    negative_prompt=True,
    steps=True,
    guidance=True,
    native_size=(1024, 1024),
    sizes=None,
    multiple_of=16,
    extra=("sampler",),
)
NANO = Capabilities(
    seed=True, native_size=(128, 128), sizes=((128, 128), (112, 144), (144, 112)), max_images=4
)


def _request(**fields) -> ImageRequest:
    return ImageRequest(text="a cup", **fields)


@pytest.mark.parametrize(
    ("capabilities", "fields", "setting"),
    [
        (NOTHING, {"seed": 0}, "seed"),
        (NOTHING, {"num_inference_steps": 4}, "num_inference_steps"),
        (NOTHING, {"guidance_scale": 0.0}, "guidance_scale"),
        (NOTHING, {"negative_prompt": "fog"}, "negative_prompt"),
        (NOTHING, {"width": 64, "height": 64}, "size"),
        (NOTHING, {"aspect_ratio": "1:1"}, "aspect_ratio"),
        (NANO, {"width": 64, "height": 64}, "size"),
        (NANO, {"aspect_ratio": "2:1"}, "aspect_ratio"),
        (FREE, {"width": 1000, "height": 1024}, "size"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(capabilities, fields, setting) -> None:
    with pytest.raises(UnsupportedSettingError, match="'mine'") as caught:
        settings_for(_request(**fields), capabilities, backend="mine")
    assert caught.value.setting == setting
    assert setting in caught.value.hint


LIMITED = FREE.model_copy(
    update={
        "size_limits": SizeLimits(
            longest_edge=2048, fewest_pixels=256 * 256, most_pixels=1024 * 1024, widest_ratio=3
        )
    }
)


@pytest.mark.parametrize(
    ("width", "height", "rule"),
    [
        (2064, 256, "longer than 2048"),
        (128, 128, "65536 to 1048576 pixels"),
        (1040, 1040, "65536 to 1048576 pixels"),
        (1024, 256, "3 times"),
        (1024, 1024, None),
        (768, 256, None),
    ],
)
def test_freely_chosen_sizes_keep_to_their_limits(width, height, rule) -> None:
    request = _request(width=width, height=height)
    if rule is None:
        assert settings_for(request, LIMITED, backend="b").width == width
        return
    with pytest.raises(UnsupportedSettingError, match=rule):
        settings_for(request, LIMITED, backend="b")


def test_a_backend_that_warns_lists_what_it_left_out() -> None:
    request = _request(
        seed=3,
        aspect_ratio="3:1",
        num_inference_steps=7,
        guidance_scale=2.0,
        negative_prompt="fog",
    )
    asked = {"seed": 3, "aspect_ratio": "3:1"}
    asked |= {"num_inference_steps": 7, "guidance_scale": 2.0, "negative_prompt": "fog"}
    with pytest.warns(UnsupportedSettingWarning) as caught:
        settings = settings_for(request, NOTHING, backend="mine", on_unsupported="warn")
    assert settings == GenerationSettings(dropped=asked)
    assert {str(warning.message).partition("=")[0] for warning in caught} == asked.keys()


async def test_what_was_left_out_is_in_the_record_of_the_picture() -> None:
    generator = FunctionGenerator(_solid, on_unsupported="warn")
    asked = GenerationSettings(
        width=64, height=64, num_inference_steps=3, extra={"sampler": "x", "n": 1}
    )
    with pytest.warns(UnsupportedSettingWarning):
        (picture,) = await generator.generate("abc", seeds=[7], settings=asked)
    assert picture.settings == GenerationSettings(
        width=16,
        height=8,
        dropped={"num_inference_steps": 3, "sampler": "x", "n": 1, "size": "64x64"},
    )


def test_what_can_be_honoured_arrives_unchanged() -> None:
    fields = {
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
        "negative_prompt": "fog",
        "width": 512,
        "height": 768,
        "extra": {"sampler": "x"},
    }
    assert settings_for(_request(seed=3, **fields), FREE, backend="b") == GenerationSettings(
        **fields
    )
    assert settings_for(_request(), NOTHING, backend="b") == GenerationSettings()


def test_aspect_ratios_become_sizes() -> None:
    def size(ratio, capabilities):
        settings = settings_for(_request(aspect_ratio=ratio), capabilities, backend="b")
        return settings.width, settings.height

    assert size("3:4", NANO) == (112, 144)
    assert size("4:3", NANO) == (144, 112)
    assert size("1:1", NANO) == (128, 128)
    assert size("16:9", FREE) == (1360, 768)
    wide = FREE.model_copy(update={"preferred_sizes": ((1024, 1024), (1376, 768))})
    assert size("16:9", wide) == (1376, 768)
    assert size("3:2", wide) == (1248, 832)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([8, 16, 64]))
def test_computed_sizes_keep_ratio_area_and_grid(wide: int, high: int, unit: int) -> None:
    capabilities = FREE.model_copy(update={"multiple_of": unit})
    try:
        settings = settings_for(_request(aspect_ratio=f"{wide}:{high}"), capabilities, backend="b")
    except UnsupportedSettingError:
        # Only extreme shapes cannot be met on the grid.
        assert max(wide / high, high / wide) > 3
        return
    width, height = settings.width, settings.height
    assert width % unit == height % unit == 0
    assert 1 / 1.11 < width / height / (wide / high) < 1.11
    assert 0.75 < width * height / 1024**2 < 1.25


def _solid(prompt: str, seed: int) -> Image.Image:
    return Image.new("RGB", (16, 8), (seed % 256, len(prompt), 0))


async def test_a_function_is_a_generator() -> None:
    generator = FunctionGenerator(_solid, name="solid")
    assert isinstance(generator, Generator)
    steps: list[StepProgress] = []
    (picture,) = await generator.generate(
        "abc", seeds=[7], settings=GenerationSettings(), on_step=steps.append
    )
    assert picture.image.getpixel((0, 0)) == (7, 3, 0)
    assert (picture.seed, picture.prompt, picture.generator) == (7, "abc", "solid")
    assert (picture.settings.width, picture.settings.height) == (16, 8)
    assert picture.timings["generate"] > 0
    assert steps == [StepProgress(step=1, total=1)]


async def test_a_function_without_seed_records_none() -> None:
    (picture,) = await FunctionGenerator(_solid, seed=False).generate(
        "abc", seeds=[7], settings=GenerationSettings()
    )
    assert picture.seed is None


async def test_misuse_of_a_generator_is_told() -> None:
    settings = GenerationSettings()
    with pytest.raises(GeneratorError, match="NoneType"):
        await FunctionGenerator(lambda p, s: None).generate("a", seeds=[1], settings=settings)
    with pytest.raises(GeneratorError, match=r"returned bytes.*BytesIO"):
        await FunctionGenerator(lambda p, s: b"PNG").generate("a", seeds=[1], settings=settings)

    async def asynchronous(prompt, seed):
        return _solid(prompt, seed)

    with pytest.raises(GeneratorError, match="async def generate"):
        await FunctionGenerator(asynchronous).generate("a", seeds=[1], settings=settings)
    with pytest.raises(UnsupportedSettingError, match="2 seeds"):
        await FunctionGenerator(_solid).generate("a", seeds=[1, 2], settings=settings)
    with pytest.raises(UnsupportedSettingError, match="0 seeds"):
        await FunctionGenerator(_solid).generate("a", seeds=[], settings=settings)
    with pytest.raises(UnsupportedSettingError, match="steps"):
        await FunctionGenerator(_solid).generate(
            "a", seeds=[1], settings=GenerationSettings(num_inference_steps=3)
        )


class Developer(BlockingGenerator):
    """Draws at once; what it drew can only be encoded while the next call draws."""

    name = "developer"
    capabilities = Capabilities(seed=True)

    def __init__(self) -> None:
        super().__init__()
        self.drawing = threading.Barrier(2)

    def draw(self, prompt, *, seeds, settings, on_step):
        if prompt == "second":
            self.drawing.wait(10)
            return []

        def encode():
            self.drawing.wait(10)
            return []

        return encode


async def test_the_next_call_draws_while_pictures_are_encoded() -> None:
    generator = Developer()
    calls = [
        generator.generate(p, seeds=[0], settings=GenerationSettings()) for p in ("a", "second")
    ]
    assert await asyncio.gather(*calls) == [[], []]


class Stepper(BlockingGenerator):
    """Takes many short steps and tells how many it came to."""

    name = "stepper"
    capabilities = Capabilities(seed=True)

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.done = 0
        self.active = 0
        self.most_active = 0
        self.ended = threading.Event()

    def draw(self, prompt, *, seeds, settings, on_step):
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            for step in range(1, self.steps + 1):
                time.sleep(0.01)
                self.done += 1
                on_step(StepProgress(step=step, total=self.steps))
        finally:
            self.active -= 1
            self.ended.set()
        return []


async def test_cancelling_stops_the_thread_at_its_next_step() -> None:
    generator = Stepper(1000)
    task = asyncio.create_task(generator.generate("a", seeds=[1], settings=GenerationSettings()))
    async with asyncio.timeout(5):
        while generator.done < 3:
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(generator.ended.wait, 5)
    assert generator.done < 200


async def test_one_drawing_at_a_time_while_the_event_loop_goes_on() -> None:
    generator = Stepper(10)
    tasks = [
        asyncio.create_task(generator.generate("a", seeds=[1], settings=GenerationSettings()))
        for _ in range(3)
    ]
    beats = 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.01)
        beats += 1
    assert generator.most_active == 1
    assert generator.done == 30
    assert beats > 5


async def test_calls_that_wait_for_their_turn_hold_up_nobody_else() -> None:
    generator = Stepper(3)
    calls = [
        asyncio.create_task(generator.generate("a", seeds=[1], settings=GenerationSettings()))
        for _ in range(40)
    ]
    while generator.done < 3:
        await asyncio.sleep(0.005)
    # Names of servers are looked up in the same few threads.
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    assert generator.done < 60
    await asyncio.gather(*calls)
    assert (generator.done, generator.most_active) == (120, 1)
