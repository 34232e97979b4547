"""A short request, several rounds, and the best image of each round side by side.

After each round the judge's findings determine the next step: if the prompt did not state a
criterion, it is rewritten; if the image did not show it, new seeds are tried.

Run: python examples/refine.py [REQUEST] [MODEL]
"""

import sys

from lens_sdk import Candidate, Lens, LoopLimits, compare


def main(text: str = "three orange flowers left of a black car", model: str = "lens-nano") -> None:
    limits = LoopLimits(max_rounds=3, max_usd=1.0, deadline=600)
    result = Lens(model).create(text, seed=7, num_images=2, limits=limits)
    if result.refused is not None:
        sys.exit(f"Refused: {result.refused.reason}")

    best: dict[str, Candidate] = {}
    for candidate in result.candidates:
        name = f"round {candidate.round + 1}"
        if name not in best or (candidate.score or 0) > (best[name].score or 0):
            best[name] = candidate

    for name, candidate in best.items():
        print(f"{name}: score {candidate.score}, seed {candidate.image.seed}")
        print(f"  prompt: {candidate.image.prompt}")
        for problem in candidate.problems:
            print(f"  not met: {problem.criterion}, by fault of the {problem.fault}")
    cost = result.usage.usd
    print(f"Stopped: {result.stop_reason.replace('_', ' ')}, {len(result.candidates)} images")
    print(f"Cost:    {'unknown' if cost is None else f'${cost:.4f}'}")
    print("Saved:  ", compare(**best).save("refine.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
