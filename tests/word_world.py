"""A small world for the loop: prompts of colour words, pictures with a column for each colour.

Red is drawn wherever the prompt says it, green only from odd seeds, and blue only where the prompt
says "vivid blue".
"""

import asyncio
from collections.abc import Sequence

from PIL import Image

from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    FidelityFinding,
    FidelityReport,
    GeneratedImage,
    ImageRequest,
    Problem,
    Rewrite,
    Rubric,
    Usage,
    Verdict,
)

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
WHITE = (255, 255, 255)
REQUEST = ImageRequest(text="red, green and blue", seed=0, num_images=2)
RUBRIC = Rubric(
    request=REQUEST.text,
    criteria=tuple(
        Criterion(name=word, kind="color", question=f"Is there {word}?", source=word)
        for word in COLORS
    ),
)


def paint(prompt: str, seed: int) -> Image.Image:
    picture = Image.new("RGB", (len(COLORS) + 1, 1), WHITE)
    # Pictures of different seeds and prompts are different files.
    picture.putpixel((len(COLORS), 0), (seed % 256, len(prompt) % 256, 0))
    for column, (word, color) in enumerate(COLORS.items()):
        willing = {"red": True, "green": seed % 2 == 1, "blue": "vivid blue" in prompt}[word]
        if word in prompt and willing:
            picture.putpixel((column, 0), color)
    return picture


def seen(picture: Image.Image, word: str) -> bool:
    return picture.convert("RGB").getpixel((list(COLORS).index(word), 0)) == COLORS[word]


class WordReasoner:
    """Writes the prompt it was given."""

    fingerprint = "word-reasoner 1"

    def __init__(self, prompt: str, usage: Usage | None = None) -> None:
        self.prompt = prompt
        self.usage = usage or Usage.zero()
        self.calls = 0

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        self.calls += 1
        return Rewrite(request=request.text, prompt=self.prompt, model="word", usage=self.usage)


class WordRubricWriter:
    fingerprint = "word-rubric 1"

    def __init__(self) -> None:
        self.calls = 0

    async def write(self, request: ImageRequest) -> Rubric:
        self.calls += 1
        return RUBRIC


class WordChecker:
    """Looks the words up."""

    fingerprint = "word-checker 1"

    def __init__(self) -> None:
        self.calls = 0

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        self.calls += 1
        findings = tuple(
            FidelityFinding(criterion=c.name, status="stated" if c.name in prompt else "missing")
            for c in rubric.criteria
            if c.source
        )
        return FidelityReport(prompt=prompt, findings=findings, checker="words", usage=Usage.zero())


class WordReviser:
    """Adds what is missing and stresses what was not drawn."""

    fingerprint = "word-reviser 1"

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        self.asked.append([(problem.criterion, problem.fault) for problem in problems])
        prompt = current.prompt
        for problem in problems:
            word = problem.criterion
            if problem.fault == "reasoner":
                prompt = f"{prompt} {word}"
            else:
                prompt = prompt.replace(word, f"vivid {word}")
        return current.model_copy(update={"prompt": prompt, "usage": Usage.zero()})


class WordJudge:
    """Looks at the pixels; of some words its votes disagree."""

    name = "word-judge"

    def __init__(self, unsure: Sequence[str] = (), usage: Usage | None = None) -> None:
        self.unsure = unsure
        self.usage = usage or Usage.zero()
        self.calls: list[tuple[str, ...]] = []

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        self.calls.append(tuple(criterion.name for criterion in rubric.criteria))
        await asyncio.sleep(0)
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(self._answer(image, criterion) for criterion in rubric.criteria),
            judge=self.name,
            usage=self.usage,
        )

    def _answer(self, image: GeneratedImage, criterion: Criterion) -> CriterionVerdict:
        yes = seen(image.image, criterion.name)
        return CriterionVerdict(
            criterion=criterion.name,
            answer="yes" if yes else "no",
            evidence=f"{criterion.name} is {'there' if yes else 'not there'}",
            weight=criterion.weight,
            agreement=2 / 3 if criterion.name in self.unsure else None,
        )
