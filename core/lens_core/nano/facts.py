"""What a request for a scene requires, in GenEval's metadata schema, and how a user words it."""

from __future__ import annotations

from typing import Any, Final, NotRequired, TypedDict

import numpy as np

from lens_core.nano.geometry import OPPOSITE, relations
from lens_core.nano.sampling import CLEAR_RELATION
from lens_core.nano.scenes import Scene, SceneObject
from lens_core.nano.vocabulary import PLURALS

NUMBERS: Final[tuple[str, ...]] = ("zero", "one", "two", "three", "four")

Include = TypedDict(
    "Include",
    {
        "class": str,
        "count": int,
        "color": NotRequired[str],
        "position": NotRequired[list[Any]],
    },
)
"""One wanted group; `position` is a relation and the index of the group it refers to."""

Exclude = TypedDict("Exclude", {"class": str, "count": int})
"""A class, and the number of its objects that is already too many."""


class Request(TypedDict):
    """The checkable part of GenEval's metadata."""

    tag: str
    include: list[Include]
    exclude: NotRequired[list[Exclude]]


def group_relation(first: tuple[SceneObject, ...], second: tuple[SceneObject, ...]) -> str | None:
    """Return the clearest relation that every object of `first` has to every one of `second`."""
    held: list[str] | None = None
    for a in first:
        for b in second:
            names = relations(a.box, b.box, CLEAR_RELATION)
            held = names if held is None else [name for name in held if name in names]
    return held[0] if held else None


def request_for(scene: Scene, rng: np.random.Generator) -> Request:
    """Return what a user who wants this scene asks for, with the attributes of its task.

    For mixed scenes, chance decides whether the request includes colours and a relation.
    """
    groups = scene.groups()
    mixed = scene.task == "mixed"
    with_color = scene.task in ("colors", "color_attr") or (mixed and rng.random() < 0.6)
    include: list[Include] = []
    for members in groups:
        wanted: Include = {"class": members[0].cls, "count": len(members)}
        if with_color:
            wanted["color"] = members[0].color
        include.append(wanted)
    if scene.task == "position" or (mixed and len(groups) == 2 and rng.random() < 0.6):
        relation = group_relation(groups[1], groups[0])
        if relation is not None:
            include[1]["position"] = [relation, 0]
    request: Request = {"tag": scene.task, "include": include}
    crowded = [item for item in include if item["count"] > 1]
    if scene.task in ("counting", "mixed") and crowded:
        request["exclude"] = [
            {"class": item["class"], "count": item["count"] + 1} for item in crowded
        ]
    return request


def article(words: str) -> str:
    """Prepend "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def listed(phrases: list[str]) -> str:
    """Join phrases with commas and a final "and"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def noun_phrase(item: Include) -> str:
    """Name a wanted group, such as "an orange cup" or "three stars"."""
    words = [item["color"]] if "color" in item else []
    if item["count"] == 1:
        return article(" ".join([*words, item["class"]]))
    return " ".join([NUMBERS[item["count"]], *words, PLURALS[item["class"]]])


def canonical_prompt(request: Request) -> str:
    """Word a request the way GenEval's generator does."""
    return f"a photo of {_core(request['include'], None)}"


def brief_prompt(request: Request, rng: np.random.Generator) -> str:
    """Word a request the way a user might, adding nothing to it."""
    openings = ("a photo of ", "a picture of ", "an image of ", "a drawing of ", "")
    opening = openings[int(rng.choice(5, p=[0.4, 0.1, 0.05, 0.05, 0.4]))]
    return opening + _core(request["include"], rng)


_SPOKEN: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}


def _core(include: list[Include], rng: np.random.Generator | None) -> str:
    """Name all groups; without `rng`, in GenEval's form."""
    names = [noun_phrase(item) for item in include]
    if len(include) == 2 and "position" in include[1]:
        relation = include[1]["position"][0]
        if rng is None:
            return f"{names[1]} {relation} {names[0]}"
        if rng.random() < 0.25:
            names, relation = names[::-1], OPPOSITE[relation]
        spoken = _SPOKEN[relation]
        words = spoken[0] if rng.random() < 0.6 else str(rng.choice(spoken))
        return f"{names[1]} {words} {names[0]}"
    if rng is not None and rng.random() < 0.3:
        names = [names[int(i)] for i in rng.permutation(len(names))]
    return listed(names)
