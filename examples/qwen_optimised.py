"""Optimise a system prompt for Qwen-Image, and generate an image with it.

The study rewrites each request, generates images and judges them. It accepts edits of the system
prompt only if images improve, and measures the gain on held-out requests. It needs a language
model: OPENAI_API_KEY, or OPENAI_BASE_URL for your own server. An interrupted study can be resumed.

Run: python examples/qwen_optimised.py [MODEL] [PICTURES] [WIDTHxHEIGHT] [STEPS]
"""

import sys
from pathlib import Path

from lens_sdk import ImageRequest, Lens, build_loop

FOLDER = Path("runs/qwen-prompt")
PLACES = ("a coffee shop", "a bakery", "a garage", "a cinema")
SIGNS = ('a sign that says "OPEN"', 'a banner with "HALF PRICE"', "three round lamps")
TIMES = ("at night", "in heavy rain")
REQUESTS = [f"{place} with {sign} {time}" for place in PLACES for sign in SIGNS for time in TIMES]


def main(
    model: str = "qwen-image", pictures: str = "600", size: str = "1328x1328", steps: str = "50"
) -> None:
    width, height = (int(edge) for edge in size.split("x"))
    drawn = {
        "width": width,
        "height": height,
        "num_inference_steps": int(steps),
        "guidance_scale": 4.0,  # Passed as `true_cfg_scale`, this pipeline's name for it.
    }
    study = Lens(model, reasoner="openai", judge="openai").optimize(
        REQUESTS, budget={"images": int(pictures)}, folder=FOLDER, defaults=drawn, test_pictures=1
    )
    print(study.claim or "No prompt was established to be better than the one to start from.")
    print(study.cost_table())

    loop = build_loop(
        model, reasoner="openai", judge="openai", system_prompt=FOLDER / "prompt.json"
    )
    best = loop.run_sync(ImageRequest(text='a library with a sign that says "QUIET"', **drawn)).best
    assert best is not None
    print("Prompt:", best.image.prompt)
    print("Score: ", best.score)
    print("Saved: ", best.image.save("qwen_optimised.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
