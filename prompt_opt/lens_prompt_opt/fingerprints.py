"""A perceptual hash of images, to check whether seeds still give different ones."""

from __future__ import annotations

from lens_reasoner.image import GeneratedImage

BITS = 64


def fingerprint(image: GeneratedImage) -> int:
    """Difference hash: whether each of 8 x 8 cells is darker than its right neighbour."""
    from PIL import Image

    small = image.image.convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = small.tobytes()
    value = 0
    for row in range(8):
        for column in range(8):
            place = row * 9 + column
            value = value << 1 | (pixels[place] < pixels[place + 1])
    return value


def distance(first: int, second: int) -> float:
    """Share of bits in which two fingerprints differ; about 0.5 for unrelated images."""
    return (first ^ second).bit_count() / BITS
