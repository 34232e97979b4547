"""How much pictures of one prompt differ: lens-nano without and with guidance, and its student.

Root mean square difference of pixels in [0, 1] between four pictures of each prompt, with its
standard error over prompts. `python benchmarks/nano_variety.py --prompts 40`
"""

import argparse
from itertools import combinations
from statistics import fmean, stdev

import numpy as np

from lens_core import LensPipeline
from lens_core.packaged import packaged_folder
from lens_core.training.prompts import NanoPrompts

MODELS = (("lens-nano", 1.0), ("lens-nano", 3.0), ("lens-nano-turbo", 1.0))


def differences(pipeline: LensPipeline, guidance_scale: float, prompts: list[str]) -> list[float]:
    """Return the mean difference between two of the four images, for each prompt."""
    found = []
    for prompt in prompts:
        pictures = pipeline(
            prompt,
            num_images_per_prompt=4,
            seed=1,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        pairs = combinations(pictures, 2)
        found.append(fmean(float(np.sqrt(((one - other) ** 2).mean())) for one, other in pairs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    count = parser.parse_args().prompts
    for name, guidance_scale in MODELS:
        pipeline = LensPipeline.from_pretrained(packaged_folder(name))
        pipeline.set_progress_bar_config(disable=True)
        for kind, brief_share in (("brief", 1.0), ("dense", 0.0)):
            prompts = [one.text for one in NanoPrompts(3, brief_share).held_out(count)]
            found = differences(pipeline, guidance_scale, prompts)
            error = stdev(found) / len(found) ** 0.5
            print(f"{name}, guidance {guidance_scale:g}, {kind}: {fmean(found):.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
