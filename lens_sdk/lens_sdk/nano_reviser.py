"""The offline reviser: another draft from the nano model, or added plain sentences."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from lens_core.nano.facts import NUMBERS, Include
from lens_core.nano.requests import parse_request
from lens_core.nano.vocabulary import PLURALS
from lens_reasoner import ImageRequest, JudgeError, Problem, Rewrite
from lens_sdk.nano_reasoner import NanoReasoner
from lens_sdk.runtime import LensRuntime

_STRESSED = "nano-reviser: wanted facts added"


class NanoReviser:
    """Writes another caption for the same request.

    For requests that the offline reasoner rewrites, it takes another draft. That draft says the
    same with other places, sizes or background, which may be easier to generate. For requests
    used verbatim as the prompt, it adds a sentence for each fact that was not met.
    """

    def __init__(self, runtime: LensRuntime, *, seed: int = 0) -> None:
        """Use the text encoder of `runtime`.

        Args:
            runtime: The model; loaded on the first revision.
            seed: Seed of the drafts; the same prompt gets the same revision.
        """
        self._runtime = runtime
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        """Identifies the weights and the seed of the drafts."""
        return f"nano-reviser {self._runtime.fingerprint} seed {self._seed}"

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        """See `Reviser.revise`.

        Raises:
            JudgeError: There is nothing to add that the prompt does not already say.
            GeneratorError: The model cannot be loaded or has no language model head.
        """
        reasoner = NanoReasoner(
            self._runtime, seed=self._seed + zlib.crc32(current.prompt.encode())
        )
        draft = await reasoner.rewrite(request)
        if draft.prompt not in {current.prompt, request.text}:
            return draft
        missing = [line for line in _facts(request.text, problems) if line not in current.prompt]
        if not missing:
            raise JudgeError(
                "The offline reviser has nothing to add to the prompt.",
                usage=draft.usage,
                hint="New seeds are drawn; a reviser with a language model may find other words.",
            )
        prompt = " ".join([current.prompt.rstrip(), *missing])
        return draft.model_copy(update={"prompt": prompt, "model": _STRESSED})


def _facts(text: str, problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a sentence for each object in the request that a problem is about."""
    asked: dict[str, Any] = parse_request(text) or {"include": []}
    include: list[Include] = asked["include"]
    names = {problem.criterion for problem in problems}
    for item in include:
        cls = item["class"]
        if names & {f"object:{cls}", f"count:{cls}", f"color:{item.get('color')} {cls}"}:
            yield f"The picture shows {_amount(item)}."
    for item in include:
        if "position" in item:
            relation, other = item["position"][0], include[item["position"][1]]
            if f"position:{item['class']} {relation} {other['class']}" in names:
                verb = "is" if item["count"] == 1 else "are"
                yield f"The {_noun(item)} {verb} {relation} the {_noun(other)}."
    if "background" in names and (background := asked.get("background")):
        yield _background(background)


def _noun(item: Include) -> str:
    noun = item["class"] if item["count"] == 1 else PLURALS[item["class"]]
    return f"{item['color']} {noun}" if "color" in item else noun


def _amount(item: Include) -> str:
    count = item["count"]
    return f"{NUMBERS[count] if count < len(NUMBERS) else count} {_noun(item)}"


def _background(background: dict[str, Any]) -> str:
    if background["second"] is None:
        return f"The background is plain {background['color']}."
    one, two = ("top", "bottom") if background["split"] == "horizontal" else ("left", "right")
    return (
        f"The {one} half of the background is {background['color']} and the {two} half is "
        f"{background['second']}."
    )
