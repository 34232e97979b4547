"""Random scenes for the six GenEval tasks and a mixed one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lens_core.errors import ParameterError
from lens_core.nano.geometry import relations
from lens_core.nano.scenes import Background, Scene, SceneObject, pixel_size
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, POSITIONS, SIZES, TASKS

TRAINING_SIZES: tuple[tuple[int, int], ...] = (
    (128, 128),
    (112, 144),
    (144, 112),
    (96, 160),
    (160, 96),
)
"""Widths and heights in pixels, all near 128 x 128 in area."""
TASK_WEIGHTS: dict[str, float] = {
    "single_object": 0.10,
    "two_object": 0.16,
    "counting": 0.22,
    "colors": 0.10,
    "position": 0.18,
    "color_attr": 0.12,
    "mixed": 0.12,
}
"""Shares of the tasks among scenes for which no task is given."""
CLEAR_RELATION = 0.62
"""Minimum strength of a relation used in requests and captions; GenEval's threshold is 0.5."""
GAP = 4
"""Minimum distance in pixels between the boxes of two objects."""
EDGE = 2
"""Minimum distance in pixels between a box and the image's edge."""

Group = tuple[str, str, str, int]
"""Class, colour, size word and count."""


def sample_scene(
    rng: np.random.Generator, task: str | None = None, size: tuple[int, int] | None = None
) -> Scene:
    """Sample a random scene.

    Args:
        rng: Source of every choice; the same state gives the same scene.
        task: One of `TASKS` or "mixed"; None samples one by `TASK_WEIGHTS`.
        size: Width and height in pixels, multiples of 16 and at least 64; None samples one of
            `TRAINING_SIZES`.

    Raises:
        ParameterError: The task is unknown or the size is invalid.
    """
    if task is None:
        task = str(rng.choice(list(TASK_WEIGHTS), p=list(TASK_WEIGHTS.values())))
    if task not in TASK_WEIGHTS:
        raise ParameterError(f"task {task!r} is none of {', '.join((*TASKS, 'mixed'))}")
    if size is None:
        size = TRAINING_SIZES[int(rng.integers(len(TRAINING_SIZES)))]
    if any(side % 16 or side < 64 for side in size):
        raise ParameterError(f"size {size} must be two multiples of 16, each at least 64")
    background = _sample_background(rng)
    while True:
        relation = str(rng.choice(POSITIONS)) if task == "position" else None
        objects = _place(rng, size, _sample_groups(rng, task), relation)
        if objects is not None:
            return Scene(size[0], size[1], background, objects, task)


def _sample_background(rng: np.random.Generator) -> Background:
    first, second = (str(name) for name in rng.choice(list(BACKGROUNDS), 2, replace=False))
    if rng.random() < 0.6:
        return Background(first)
    return Background(first, second, "horizontal" if rng.random() < 0.5 else "vertical")


def _sample_groups(rng: np.random.Generator, task: str) -> list[Group]:
    """Choose the contents of a scene; if it has many objects, later ones are smaller."""
    counts = {"counting": [int(rng.integers(2, 5))], "single_object": [1], "colors": [1]}
    mixed = [[1, 1, 1], [2, 1], [1, 2], [3, 1], [2, 2]]
    if task == "mixed":
        group_counts = mixed[int(rng.choice(len(mixed), p=[0.35, 0.22, 0.22, 0.11, 0.10]))]
    else:
        group_counts = counts.get(task, [1, 1])
    classes = rng.choice(CLASSES, len(group_counts), replace=False)
    distinct = task == "color_attr"
    colors = rng.choice(list(COLORS), len(group_counts), replace=not distinct)
    total = sum(group_counts)
    weights = {1: [0.22, 0.36, 0.42], 2: [0.28, 0.38, 0.34], 3: [0.40, 0.44, 0.16]}
    odds = weights.get(total, [0.50, 0.46, 0.04])
    words = rng.choice(list(SIZES), len(group_counts), p=odds)
    return [
        (str(cls), str(color), str(word), count)
        for cls, color, word, count in zip(classes, colors, words, group_counts, strict=True)
    ]


def _place(
    rng: np.random.Generator, size: tuple[int, int], groups: Sequence[Group], relation: str | None
) -> tuple[SceneObject, ...] | None:
    """Place objects in distinct ninths of the image, or give up after some tries."""
    for _ in range(60):
        objects = _try_place(rng, size, groups)
        if objects is None or not _apart(objects):
            continue
        if relation is None or relation in relations(
            objects[1].box, objects[0].box, CLEAR_RELATION
        ):
            return objects
    return None


def _try_place(
    rng: np.random.Generator, size: tuple[int, int], groups: Sequence[Group]
) -> tuple[SceneObject, ...] | None:
    total = sum(group[3] for group in groups)
    if total == 1:
        regions = rng.choice(9, 1, p=[0.08, 0.08, 0.08, 0.08, 0.36, 0.08, 0.08, 0.08, 0.08])
    else:
        regions = rng.choice(9, total, replace=False)
    scale = math.sqrt(size[0] * size[1]) / 128
    objects: list[SceneObject] = []
    for cls, color, word, count in groups:
        low, high = SIZES[word]
        base = int(rng.integers(low, high + 1))
        for _ in range(count):
            jittered = int(np.clip(base + rng.integers(-1, 2), low, high))
            length = round(jittered * scale)
            centre = _centre(rng, size, int(regions[len(objects)]), pixel_size(cls, length))
            if centre is None:
                return None
            objects.append(SceneObject(cls, color, *centre, length, word))
    return tuple(objects)


def _centre(
    rng: np.random.Generator, size: tuple[int, int], region: int, box: tuple[int, int]
) -> tuple[float, float] | None:
    """Choose a centre well inside a region, such that the box stays inside the image."""
    out: list[float] = []
    for side, index, length in zip(size, (region % 3, region // 3), box, strict=True):
        inner = 0.02 * side
        low = max(side * index / 3 + inner, EDGE + length / 2)
        high = min(side * (index + 1) / 3 - inner, side - EDGE - length / 2)
        first, last = math.ceil(low - length / 2), math.floor(high - length / 2)
        if first > last:
            return None
        out.append(int(rng.integers(first, last + 1)) + length / 2)
    return out[0], out[1]


def _apart(objects: Sequence[SceneObject]) -> bool:
    for i, first in enumerate(objects):
        a = first.box
        for second in objects[:i]:
            b = second.box
            across = max(a[0] - b[2], b[0] - a[2])
            down = max(a[1] - b[3], b[1] - a[3])
            if max(across, down) < GAP:
                return False
    return True
