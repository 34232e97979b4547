"""Chances of a training step as a function of numbers, so that nothing has to be remembered."""

import numpy as np
from torch import Generator


def seeded(*words: int) -> Generator:
    """A CPU generator that depends on the words alone, such as (seed, purpose, step, row).

    A step that draws all its chances this way needs no generator state in a checkpoint: a run that
    is killed repeats the step with the same chances, on any number of processes.
    """
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state >> np.uint64(1)))
