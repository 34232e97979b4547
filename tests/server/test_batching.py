"""Pictures drawn in a batch that others join and leave are those drawn alone."""

import asyncio
import io
import threading
import time
from collections.abc import Coroutine
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lens_core.errors import NonFiniteError
from lens_reasoner import GeneratedImage, GenerationSettings, GeneratorError, StepProgress
from lens_sdk.local import LocalLensGenerator
from lens_sdk.models import resolve_model
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.drawing import BatchingLensGenerator

QUICK = GenerationSettings(num_inference_steps=5, width=64, height=64)
CASES = (
    ("two red apples left of a blue cup", 3, QUICK),
    ("a green star", 4, QUICK.model_copy(update={"guidance_scale": 1.0})),
    (
        "a yellow ball on a grey background, in the upper left corner",
        5,
        QUICK.model_copy(update={"negative_prompt": "a cup", "num_inference_steps": 7}),
    ),
    ("a green star", 6, QUICK.model_copy(update={"width": 96, "height": 64})),
    ("a green star", 4, QUICK.model_copy(update={"extra": {"guidance_interval": [0.5, 0.95]}})),
    ("a green star", 4, QUICK.model_copy(update={"extra": {"solver": "dpmpp_2m", "shift": 3}})),
)


def pixels(image: GeneratedImage) -> np.ndarray:
    return np.asarray(image.image, dtype=int)


async def draw(generator: LocalLensGenerator, case: tuple, **kwargs: object) -> GeneratedImage:
    prompt, seed, settings = case
    return (await generator.generate(prompt, seeds=[seed], settings=settings, **kwargs))[0]


async def test_pictures_that_join_between_steps_are_those_drawn_alone(runtime: LensRuntime) -> None:
    alone = LocalLensGenerator(runtime)
    singles = [await draw(alone, case) for case in CASES]
    generator = BatchingLensGenerator(runtime)
    joined = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_step(progress: StepProgress) -> None:
        if progress.step == 2:
            loop.call_soon_threadsafe(joined.set)

    first = asyncio.create_task(draw(generator, CASES[0], on_step=on_step))
    await joined.wait()
    batched = await asyncio.gather(first, *(draw(generator, case) for case in CASES[1:]))
    assert generator.scheduler.largest_batch >= 2
    for case, single, image in zip(CASES, singles, batched, strict=True):
        assert (image.prompt, image.seed) == case[:2]
        assert image.settings == single.settings
        assert np.abs(pixels(single) - pixels(image)).max() <= 1
    generator.close()


async def test_a_checkpoint_with_levels_of_its_own_is_batched_on_them(
    runtime: LensRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ("a green star", 4, QUICK.model_copy(update={"num_inference_steps": 3}))
    even = await draw(LocalLensGenerator(runtime), case)
    own = replace(runtime.load().defaults, num_inference_steps=3, sigmas=(1.0, 0.3, 0.1))
    monkeypatch.setattr(runtime.load(), "defaults", own)
    generator = BatchingLensGenerator(runtime)
    batched = await draw(generator, case)
    generator.close()
    single = await draw(LocalLensGenerator(runtime), case)
    assert np.abs(pixels(single) - pixels(batched)).max() <= 1
    assert np.abs(pixels(single) - pixels(even)).max() > 8


@pytest.fixture(scope="module")
def tabulated() -> LensRuntime:
    """The packaged model under a plan that keeps a modulation table."""
    runtime = LensRuntime(resolve_model())
    runtime.plan_memory("12gb")
    assert runtime.load().transformer.keeps_modulation_table
    return runtime


async def test_a_modulation_table_serves_pictures_at_different_steps(
    runtime: LensRuntime, tabulated: LensRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps, numbers of steps and sizes differ; the table has the times of all of them."""
    singles = [await draw(LocalLensGenerator(runtime), case) for case in CASES]
    generator = BatchingLensGenerator(tabulated)
    joined = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_step(progress: StepProgress) -> None:
        loop.call_soon_threadsafe(joined.set)

    first = asyncio.create_task(draw(generator, CASES[0], on_step=on_step))
    await joined.wait()
    batched = await asyncio.gather(first, *(draw(generator, case) for case in CASES[1:]))
    assert generator.scheduler.largest_batch >= 2
    for single, image in zip(singles, batched, strict=True):
        assert np.abs(pixels(single) - pixels(image)).max() <= 1
    table = tabulated.load().transformer.modulation_table
    assert table is not None
    assert len(table.timesteps) > 7
    # A call of the pipeline itself replaces the table, which must not go unnoticed.
    short = QUICK.model_copy(update={"num_inference_steps": 2})
    await draw(LocalLensGenerator(tabulated), ("a cup", 1, short))
    monkeypatch.setattr("lens_sdk.server.batching.MOST_TABULATED", 1)
    again = await draw(generator, CASES[2])
    assert len(tabulated.load().transformer.modulation_table.timesteps) == 7
    assert np.abs(pixels(singles[2]) - pixels(again)).max() <= 1
    generator.close()


async def test_changed_pictures_share_steps_with_others(runtime: LensRuntime) -> None:
    before = Image.new("RGB", (64, 64), (250, 240, 230))
    before.paste((200, 30, 30), (40, 0, 64, 64))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 24, 64))
    files = [io.BytesIO(), io.BytesIO()]
    before.save(files[0], "PNG")
    mask.save(files[1], "PNG")
    picture, cover = (file.getvalue() for file in files)
    alone, together = LocalLensGenerator(runtime), BatchingLensGenerator(runtime)

    def work(generator: LocalLensGenerator) -> list[Coroutine[None, None, GeneratedImage]]:
        whole, part = generator.editing(picture), generator.editing(picture, mask=cover)
        return [draw(part, CASES[0]), draw(whole, CASES[2]), draw(generator, CASES[1])]

    singles = [await one for one in work(alone)]
    batched = await asyncio.gather(*work(together))
    assert together.scheduler.largest_batch == 3
    for single, image in zip(singles, batched, strict=True):
        assert image.settings == single.settings
        assert np.abs(pixels(single) - pixels(image)).max() <= 1
    kept = np.asarray(before)[:, 40:]
    assert np.array_equal(pixels(batched[0])[:, 40:], kept)
    assert not np.array_equal(pixels(batched[1])[:, 40:], kept)
    together.close()


async def test_a_cancelled_picture_leaves_between_steps(runtime: LensRuntime) -> None:
    generator = BatchingLensGenerator(runtime)
    seen: list[int] = []
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_step(progress: StepProgress) -> None:
        seen.append(progress.step)
        loop.call_soon_threadsafe(begun.set)

    long = QUICK.model_copy(update={"num_inference_steps": 200})
    task = asyncio.create_task(draw(generator, ("a red ball", 1, long), on_step=on_step))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other = await draw(generator, CASES[0])
    assert other.seed == CASES[0][1]
    assert len(seen) < 50
    assert generator.scheduler.in_work == generator.scheduler.waiting == 0
    generator.close()


async def test_a_full_batch_lets_others_wait(runtime: LensRuntime) -> None:
    generator = BatchingLensGenerator(runtime, most_pictures=2)
    images = await asyncio.gather(*(draw(generator, CASES[i % 2]) for i in range(5)))
    assert generator.scheduler.largest_batch == 2
    assert [image.seed for image in images] == [3, 4, 3, 4, 3]
    generator.close()


async def test_previews_come_before_the_picture(runtime: LensRuntime) -> None:
    generator = BatchingLensGenerator(runtime)
    sizes: list[tuple[int, int]] = []
    images = await generator.generate_with_previews(
        "a red ball",
        seeds=[1, 2],
        settings=QUICK,
        on_preview=lambda preview, index: sizes.append((index, preview.enlarged().width)),
        previews=2,
    )
    assert sorted(sizes) == [(0, 64), (0, 64), (1, 64), (1, 64)]
    assert len(images) == 2
    generator.close()


async def test_what_fails_in_one_picture_spares_the_others(
    runtime: LensRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lens_sdk.server.batching import RowSampler
    from lens_sdk.server.rows import Row

    real = RowSampler.picture

    def picture(self: RowSampler, row: Row) -> object:
        if row.schedule.guidance_scale == 1:
            raise NonFiniteError("broken")
        return real(self, row)

    monkeypatch.setattr(RowSampler, "picture", picture)
    generator = BatchingLensGenerator(runtime)
    good, bad = await asyncio.gather(
        draw(generator, CASES[0]), draw(generator, CASES[1]), return_exceptions=True
    )
    assert isinstance(good, GeneratedImage)
    assert isinstance(bad, GeneratorError)
    generator.close()


async def test_closing_fails_what_is_left(runtime: LensRuntime) -> None:
    generator = BatchingLensGenerator(runtime)
    long = QUICK.model_copy(update={"num_inference_steps": 500})
    task = asyncio.create_task(draw(generator, ("a red ball", 1, long)))
    while not generator.scheduler.in_work:
        await asyncio.sleep(0.01)
    threading.Thread(target=generator.close).start()
    started = time.monotonic()
    with pytest.raises(GeneratorError, match="shut down"):
        await task
    assert time.monotonic() - started < 30
