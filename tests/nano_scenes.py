"""Scenes of the nano world, always the same."""

import numpy as np

from lens_core.nano import Scene, sample_scene


def scenes(count: int, seed: int = 7) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]
