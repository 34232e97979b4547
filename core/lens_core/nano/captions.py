"""Captions of scenes: brief ones as users type them, and dense ones that specify everything."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lens_core.nano.facts import (
    NUMBERS,
    article,
    brief_prompt,
    group_relation,
    listed,
    request_for,
)
from lens_core.nano.geometry import OPPOSITE
from lens_core.nano.scenes import Background, Scene, SceneObject
from lens_core.nano.vocabulary import PLURALS

MIN_WORDS = 30
"""Dense captions with fewer words are padded with less important sentences."""

Group = tuple[SceneObject, ...]

_PLACES: Final[dict[str, tuple[str, ...]]] = {
    "upper left": ("in the upper left", "in the upper left corner", "at the top left"),
    "top": ("at the top", "in the upper middle", "at the top in the middle"),
    "upper right": ("in the upper right", "in the upper right corner", "at the top right"),
    "left": ("on the left", "on the left side", "in the middle left"),
    "centre": ("in the centre", "in the middle", "at the centre"),
    "right": ("on the right", "on the right side", "in the middle right"),
    "lower left": ("in the lower left", "in the lower left corner", "at the bottom left"),
    "bottom": ("at the bottom", "in the lower middle", "at the bottom in the middle"),
    "lower right": ("in the lower right", "in the lower right corner", "at the bottom right"),
}
_SIZES: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big"),
}
_RELATIONS: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "above", "higher than"),
    "below": ("below", "below", "lower than"),
}
DETAILS: Final[dict[str, str]] = {
    "apple": "with a stem and a leaf",
    "cup": "with a round handle",
    "car": "with two wheels and windows",
    "house": "with a roof, a door and a window",
    "tree": "with a trunk and a round crown",
    "fish": "with a tail, a fin and an eye",
    "flower": "with six round petals",
    "star": "with five points",
    "umbrella": "with a curved handle",
    "heart": "with a smooth round shape",
}
"""Phrase describing the shape of each class."""

_KINDS: Final[tuple[str, ...]] = ("picture", "image", "illustration", "drawing")
_STYLE: Final[tuple[str, ...]] = (
    "The style is flat and clean, with thin outlines and soft colours.",
    "Everything is drawn in a simple flat style with clear thin outlines.",
    "It is a clean flat drawing with thin outlines.",
)
_EMPTY: Final[tuple[str, ...]] = (
    "The rest of the picture is empty.",
    "Nothing else is in the picture.",
    "There are no other objects.",
)


class _Writer:
    """Writes one dense caption; a single random generator makes every choice of words."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        self.rng = rng
        groups = scene.groups()
        self.groups = [groups[int(i)] for i in rng.permutation(len(groups))]
        self.kind = self.pick(_KINDS)

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def place(self, item: SceneObject) -> str:
        return self.pick(_PLACES[self.scene.region(item)])

    def indefinite(self, group: Group) -> str:
        """Name a group for the first time, such as "a large red apple"."""
        item = group[0]
        words = f"{self.pick(_SIZES[item.size_word])} {item.color}"
        if len(group) == 1:
            return article(f"{words} {item.cls}")
        return f"{NUMBERS[len(group)]} {words} {PLURALS[item.cls]}"

    def definite(self, group: Group) -> str:
        """Name a group again, such as "the red apple" or "the three stars"."""
        item = group[0]
        words = ["the"]
        if len(group) > 1 and self.chance(0.4):
            words.append(NUMBERS[len(group)])
        if self.chance(0.4):
            words.append(item.color)
        words.append(item.cls if len(group) == 1 else PLURALS[item.cls])
        return " ".join(words)

    def spots(self, group: Group) -> str:
        """Say where each member of a group is, starting with "one" or with a place."""
        order = [group[int(i)] for i in self.rng.permutation(len(group))]
        places = [self.place(item) for item in order]
        if len(group) == 1:
            return places[0]
        return listed([f"one {place}" for place in places])

    def placed(self, group: Group) -> str:
        """Say where a group that was introduced before is."""
        name = _capital(self.definite(group))
        if len(group) == 1:
            verb = self.pick(("is", "is", "sits", "appears", "is placed"))
            return f"{name} {verb} {self.place(group[0])}."
        form = int(self.rng.integers(3))
        if form == 0:
            return f"{name} are placed {self.spots(group)}."
        places = [self.place(item) for item in group]
        if form == 1:
            return f"{name} are {listed(places)}."
        ordinals = ("second", "third", "fourth")
        told = [f"the {o} {place}" for o, place in zip(ordinals, places[1:], strict=False)]
        return f"{listed([f'The first {group[0].cls} is {places[0]}', *told])}."

    def located(self, group: Group) -> str:
        """Name a group for the first time together with where it is."""
        comma = ", " if len(group) > 1 else " "
        return f"{self.indefinite(group)}{comma}{self.spots(group)}"

    def related(self) -> list[str]:
        """State the relation between neighbouring groups, if one holds for all their members."""
        out = []
        for first, second in zip(self.groups[1:], self.groups[:-1], strict=True):
            relation = group_relation(first, second)
            if relation is None:
                continue
            a, b = first, second
            if self.chance(0.5):
                a, b, relation = second, first, OPPOSITE[relation]
            verb = "is" if len(a) == 1 else "are"
            words = self.pick(_RELATIONS[relation])
            out.append(f"{_capital(self.definite(a))} {verb} {words} {self.definite(b)}.")
        return out

    def background(self) -> str:
        """Say what the background is, as a sentence."""
        back = self.scene.background
        if back.second is None:
            form = (
                f"The background is plain {back.color}.",
                f"The whole background is {back.color}.",
                f"The background is {back.color} all over.",
            )
            return self.pick(form)
        first, second = _halves(back)
        if self.chance(0.5):
            first, second = second, first
        (one, a), (two, b) = first, second
        form = (
            f"The {one} half of the background is {a} and the {two} half is {b}.",
            f"The background is {a} in the {one} half and {b} in the {two} half.",
            f"The background has two colours, {a} in the {one} half and {b} in the {two} half.",
        )
        return self.pick(form)

    def backdrop(self) -> str:
        """Name the background in a phrase that follows "on" or "against"."""
        back = self.scene.background
        if back.second is None:
            return article(f"{self.pick(('plain ', ''))}{back.color} background")
        (one, a), (two, b) = _halves(back)
        return f"a background that is {a} in the {one} half and {b} in the {two} half"

    def fillers(self) -> list[str]:
        """Return true but less important sentences, in random order."""
        detail = self.groups[0][0]
        whose = detail.cls if len(self.groups[0]) == 1 else PLURALS[detail.cls]
        verb = "is" if len(self.groups[0]) == 1 else "are"
        out = [
            self.pick(_STYLE),
            self.pick(_EMPTY),
            f"The {whose} {verb} drawn {DETAILS[detail.cls]}.",
        ]
        return [out[int(i)] for i in self.rng.permutation(len(out))]

    def write(self) -> str:
        plan = int(self.rng.integers(4))
        if plan == 0:
            parts = [self._inventory(), *map(self.placed, self.groups)]
            tail = [" ".join(self.related()), self.background()]
        elif plan == 1:
            parts = [f"{_capital(self._there(listed(list(map(self.located, self.groups)))))}."]
            tail = [" ".join(self.related()), self.background()]
        elif plan == 2:
            names = listed([self.indefinite(group) for group in self.groups])
            preposition = self.pick(("On", "Against"))
            parts = [f"{preposition} {self.backdrop()} {self._is_are()} {names}."]
            parts += map(self.placed, self.groups)
            tail = [" ".join(self.related())]
        else:
            parts = [self.background()]
            parts += [f"{_capital(self.located(group))}." for group in self.groups]
            tail = [" ".join(self.related())]
        if self.chance(0.3):
            tail.reverse()
        sentences = [sentence for sentence in (*parts, *tail) if sentence]
        return self._pad(sentences)

    def _inventory(self) -> str:
        names = listed([self.indefinite(group) for group in self.groups])
        return f"{_capital(self._there(names))}."

    def _there(self, names: str) -> str:
        form = (
            f"there {self._is_are()} {names}",
            f"the {self.kind} shows {names}",
            f"the {self.kind} contains {names}",
            f"{article(self.kind)} of {names}",
            f"this {self.kind} has {names}",
        )
        return self.pick(form)

    def _is_are(self) -> str:
        return "is" if len(self.groups[0]) == 1 else "are"

    def _pad(self, sentences: list[str]) -> str:
        """Add less important sentences to a short caption."""
        count = sum(len(sentence.split()) for sentence in sentences)
        for filler in self.fillers():
            if count >= MIN_WORDS and not (count < 40 and self.chance(0.15)):
                break
            sentences.append(filler)
            count += len(filler.split())
        return " ".join(sentences)


def _halves(back: Background) -> tuple[tuple[str, str], tuple[str, str]]:
    names = ("top", "bottom") if back.split == "horizontal" else ("left", "right")
    return (names[0], back.color), (names[1], str(back.second))


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def dense_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return 30 to 80 words specifying every object, its place and size, and the background."""
    return _Writer(scene, rng).write()


def brief_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return what a user who wants this scene might type, with only what its task requires."""
    return brief_prompt(request_for(scene, rng), rng)


def metadata(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Return GenEval's metadata of a scene, with a brief "prompt" and a "dense" caption."""
    request = request_for(scene, rng)
    return {**request, "prompt": brief_prompt(request, rng), "dense": dense_caption(scene, rng)}
