"""A world without keys or GPU in which every prompt's true value is known."""
