"""Use any function of prompt and seed as a generator: here, stripes whose colours depend on both.

Run: python examples/own_generator.py
"""

import random

from PIL import Image

from lens_sdk import FunctionGenerator, build_loop


def stripes(prompt: str, seed: int) -> Image.Image:
    rng = random.Random(f"{prompt}:{seed}")
    colors = [(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(8)]
    picture = Image.new("RGB", (8, 1))
    picture.putdata(colors)
    return picture.resize((256, 256), Image.Resampling.NEAREST)


def main() -> None:
    generator = FunctionGenerator(stripes, name="stripes")
    # The offline judge accepts any image, and finds no star in this one.
    loop = build_loop(generator, reasoner="none", judge="nano")
    best = loop.run_sync("a yellow star").best
    assert best is not None
    print("Score:", best.score, "| seed:", best.image.seed)
    print("Saved:", best.image.save("stripes.png"))


if __name__ == "__main__":
    main()
