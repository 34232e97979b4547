"""A simulated world, without keys or a GPU, in which every prompt's true value is known."""
