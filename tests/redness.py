"""A request, pictures redder from seed to seed, and who judges them, for tests of the loop."""

import asyncio

from PIL import Image

from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    ImageRequest,
    JudgeError,
    Rubric,
    Usage,
    Verdict,
)

REQUEST = ImageRequest(text="a red square", seed=40, num_images=2)
PROMPT = "A red square fills the picture."
RUBRIC = Rubric(
    request="a red square",
    criteria=(
        Criterion(name="red", kind="color", question="Is it red?"),
        Criterion(name="square", kind="object", question="Is it a square?"),
    ),
)


def paint(prompt: str, seed: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (seed, 0, 0))


class RednessJudge:
    """Looks at the pixels: "red" from a brightness of `threshold` on; "square" always."""

    name = "redness"

    def __init__(self, threshold: int, broken: tuple[int, ...] = ()) -> None:
        self.threshold = threshold
        self.broken = broken

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        await asyncio.sleep(0)
        red = image.image.getpixel((0, 0))[0]
        if red in self.broken:
            raise JudgeError(f"blind to {red}", usage=Usage.zero(), hint="glasses")
        answers = {"red": "yes" if red >= self.threshold else "no"}
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(criterion=c.name, answer=answers.get(c.name, "yes"))
                for c in rubric.criteria
            ),
            judge=self.name,
            usage=Usage.zero(),
        )
