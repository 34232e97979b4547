"""From a request to a judged image, offline.

Run: python examples/quickstart.py [MODEL]
"""

import sys

import lens_sdk


def main(model: str = "lens-nano") -> None:
    result = lens_sdk.generate(
        "two red apples left of a blue cup", model=model, seed=1, num_images=4
    )
    best = result.best
    assert best is not None
    print("Prompt: ", best.image.prompt)
    for line in best.verdict.verdicts if best.verdict else ():
        print(f"{line.answer:>11}  {line.criterion}: {line.evidence}")
    print("Score:  ", best.score)
    print("Saved:  ", lens_sdk.save_candidate(result, best, "quickstart.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
