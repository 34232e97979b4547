"""Writes captions for the nano model by rule, as detailed as the rules ask for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

from lens_core.nano.captions import DETAILS
from lens_core.nano.facts import NUMBERS, Include, article
from lens_core.nano.geometry import OPPOSITE
from lens_core.nano.requests import parse_request
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, PLURALS
from lens_sdk.nano_caption import CaptionFacts, CaptionGroup, Region
from lens_sdk.nano_faithful import can_hold
from lens_sdk.nano_rules import WritingRules

_PLACES: Final[dict[Region, str]] = {
    (0, 0): "in the upper left",
    (1, 0): "at the top",
    (2, 0): "in the upper right",
    (0, 1): "on the left",
    (1, 1): "in the centre",
    (2, 1): "on the right",
    (0, 2): "in the lower left",
    (1, 2): "at the bottom",
    (2, 2): "in the lower right",
}
_BESIDE: Final = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}
_MOODS: Final = (
    "A tender hush lies over everything, luminous and full of longing.",
    "It feels like a half remembered summer, warm, golden and a little sad.",
    "The whole scene breathes quiet wonder and distant music.",
)
_STYLE: Final = "Everything is drawn in a simple flat style with clear thin outlines."
_ALONE: Final = "Nothing else is in the picture."
_TRIES: Final = 400


class RuleWriter:
    """Writes one caption for a request.

    Whatever the request leaves open is chosen at random, with separate random numbers for each kind
    of choice: with the same seed, two sets of rules differ only in what they state.

    Args:
        text: A request that names something in the nano world.
        rules: What to write about.
        seed: Seed of the random choices.

    Raises:
        ValueError: The request names nothing in the nano world.
    """

    def __init__(self, text: str, rules: WritingRules, seed: int) -> None:
        request = parse_request(text)
        if request is None:
            raise ValueError(f"the request {text!r} names nothing of the nano world")
        self._request: Mapping[str, Any] = request
        self._rules = rules
        self._name = f"{seed}:{text}"
        self._include: list[Include] = list(request["include"])
        if "company" in rules:
            self._include.append(self._companion())
        self._regions = self._layout()

    def write(self) -> str:
        """Return the caption."""
        sentences = list(self._sentences())
        return sentences[0] if "brief" in self._rules else " ".join(sentences)

    def _rng(self, choice: str) -> random.Random:
        return random.Random(f"{self._name}:{choice}")

    def _sentences(self) -> Iterator[str]:
        yield self._opening()
        if "place" in self._rules and self._regions:
            yield from map(self._placed, self._include, self._regions)
        if "relation" in self._rules:
            yield from self._related()
        if "background" in self._rules:
            yield self._background()
        if "alone" in self._rules:
            yield _ALONE
        if "style" in self._rules:
            yield _STYLE
        if "detail" in self._rules:
            item = self._include[0]
            verb = "is" if item["count"] == 1 else "are"
            yield f"The {_noun(item)} {verb} drawn {DETAILS[item['class']]}."
        if "mood" in self._rules:
            yield self._mood()

    def _opening(self) -> str:
        listed = _join([self._introduced(item) for item in self._include])
        if "mood" in self._rules and "brief" in self._rules:
            return f"A dreamlike, longing vision of {listed}."
        return f"The picture shows {listed}."

    def _introduced(self, item: Include) -> str:
        words = [*self._size(), *self._color(item), _noun(item)]
        if item["count"] == 1:
            return article(" ".join(words))
        if "count" in self._rules:
            count = item["count"]
            words.insert(0, NUMBERS[count] if count < len(NUMBERS) else str(count))
        return " ".join(words)

    def _size(self) -> list[str]:
        total = sum(item["count"] for item in self._include)
        if "large size" in self._rules:
            return ["large" if total <= 2 else "medium"]
        return ["medium" if total <= 2 else "small"] if "size" in self._rules else []

    def _color(self, item: Include) -> list[str]:
        if "color" not in self._rules:
            return []
        if "color" in item:
            return [item["color"]]
        if "every color" not in self._rules:
            return []
        return [self._rng(f"color of {item['class']}").choice(list(COLORS))]

    def _placed(self, item: Include, regions: Sequence[Region]) -> str:
        places = [_PLACES[region] for region in regions]
        if item["count"] == 1:
            return f"The {_noun(item)} is {places[0]}."
        return f"The {_noun(item)} are placed {_join([f'one {place}' for place in places])}."

    def _related(self) -> Iterator[str]:
        for item in self._include:
            if "position" in item:
                relation, index = item["position"]
                other = self._include[index]
                verb = "is" if item["count"] == 1 else "are"
                yield f"The {_noun(item)} {verb} {_BESIDE[relation]} the {_noun(other)}."
                back = "is" if other["count"] == 1 else "are"
                opposite = _BESIDE[OPPOSITE[relation]]
                yield f"The {_noun(other)} {back} {opposite} the {_noun(item)}."

    def _background(self) -> str:
        wish = self._request.get("background")
        if wish is None:
            return f"The background is plain {self._rng('background').choice(list(BACKGROUNDS))}."
        if wish["second"] is None:
            return f"The background is plain {wish['color']}."
        one, two = ("top", "bottom") if wish["split"] == "horizontal" else ("left", "right")
        return (
            f"The {one} half of the background is {wish['color']} and the {two} half is "
            f"{wish['second']}."
        )

    def _mood(self) -> str:
        return self._rng("mood").choice(_MOODS)

    def _companion(self) -> Include:
        asked = {item["class"] for item in self._include}
        rng = self._rng("company")
        return {"class": rng.choice([cls for cls in CLASSES if cls not in asked]), "count": 1}

    def _layout(self) -> list[list[Region]]:
        """Choose a grid cell for every object so that all relations hold; empty if impossible."""
        free = list(product(range(3), range(3)))
        counts = [item["count"] for item in self._include]
        if sum(counts) > len(free):
            return []
        rng = self._rng("layout")
        for _ in range(_TRIES):
            rng.shuffle(free)
            rest = iter(free)
            regions = [sorted(next(rest) for _ in range(count)) for count in counts]
            if self._fits(regions):
                return regions
        return []

    def _fits(self, regions: Sequence[list[Region]]) -> bool:
        facts = CaptionFacts(
            groups={
                item["class"]: CaptionGroup(item["count"], "", "", places)
                for item, places in zip(self._include, regions, strict=True)
            }
        )
        return all(
            can_hold(facts, item, item["position"][0], self._include[item["position"][1]])
            for item in self._include
            if "position" in item
        )


def _noun(item: Include) -> str:
    return item["class"] if item["count"] == 1 else PLURALS[item["class"]]


def _join(names: Sequence[str]) -> str:
    """Join phrases with commas and a last "and"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
