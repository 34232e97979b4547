"""The loop around Qwen-Image, or any other diffusers pipeline.

With a language model (OPENAI_API_KEY, or OPENAI_BASE_URL), the request is rewritten and the images
are judged. Without one, the request is used unchanged.

Run: python examples/qwen_image.py [ID_OR_FOLDER] [WIDTHxHEIGHT] [STEPS]
"""

import os
import sys

from lens_sdk import DiffusersGenerator, ImageRequest, build_loop


def main(model: str = "Qwen/Qwen-Image", size: str = "1328x1328", steps: str = "50") -> None:
    generator = DiffusersGenerator(model)
    part = "openai" if os.environ.keys() & {"OPENAI_API_KEY", "OPENAI_BASE_URL"} else "none"
    loop = build_loop(generator, reasoner=part, judge=part)

    width, height = (int(edge) for edge in size.split("x"))
    request = ImageRequest(
        text='a coffee shop with a sign that says "OPEN"',
        negative_prompt="blurred letters",
        width=width,
        height=height,
        num_inference_steps=int(steps),
        guidance_scale=4.0,  # Passed as `true_cfg_scale`, this pipeline's name for it.
        seed=1,
        num_images=2,
    )
    best = loop.run_sync(request).best
    assert best is not None
    print("Drawn by:", best.image.generator, "| seed:", best.image.seed)
    print("Settings:", best.image.settings.model_dump_json(exclude_defaults=True))
    print("Saved:   ", best.image.save("qwen_image.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
