"""Yes-or-no questions about an image, answered from detected objects, with evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from lens_core.nano.detector import Detection, detect, detect_background
from lens_core.nano.facts import NUMBERS, Include, article
from lens_core.nano.geometry import relations
from lens_core.nano.scenes import Background
from lens_core.nano.vocabulary import PLURALS

CheckKind = Literal["object", "count", "color", "position", "background"]


@dataclass(frozen=True)
class Observation:
    """What was detected in an image, objects in order of decreasing score."""

    detections: tuple[Detection, ...]
    background: Background | None = None


@dataclass(frozen=True)
class CheckResult:
    """The answer to a check, with one line of evidence."""

    passed: bool
    evidence: str


@dataclass(frozen=True)
class AtomicCheck:
    """One yes-or-no question about an image.

    Attributes:
        name: Short and unique within a request, such as "count:apple".
        kind: What the question is about.
        question: The text of the question.
    """

    name: str
    kind: CheckKind
    question: str
    _test: Callable[[Observation], CheckResult] = field(repr=False, compare=False)

    def run(self, observation: Observation) -> CheckResult:
        """Answer the question."""
        return self._test(observation)


def observe(image: Image.Image) -> Observation:
    """Detect everything in an image that the checks need."""
    return Observation(tuple(detect(image)), detect_background(image))


def atomic_checks(metadata: Mapping[str, Any]) -> list[AtomicCheck]:
    """Return the questions that together decide whether an image fulfils a request.

    Args:
        metadata: "include" and "exclude" in GenEval's schema; optionally "background" with the
            fields of `Background`. A count is exact if "exclude" sets an upper bound for its class,
            otherwise a minimum.
    """
    include: list[Include] = list(metadata["include"])
    bounded = {item["class"] for item in metadata.get("exclude", [])}
    totals: Counter[str] = Counter()
    for item in include:
        totals[item["class"]] += item["count"]
    checks: list[AtomicCheck] = []
    for cls, count in totals.items():
        checks.append(_object_check(cls))
        if count > 1 or cls in bounded:
            checks.append(_count_check(cls, count, exact=cls in bounded))
    checks.extend(_color_check(item) for item in include if "color" in item)
    for item in include:
        if "position" in item:
            relation, index = item["position"]
            checks.append(_position_check(item, relation, include[index]))
    if metadata.get("background"):
        checks.append(_background_check(Background(**metadata["background"])))
    return checks


def _noun(cls: str, count: int) -> str:
    return cls if count == 1 else PLURALS[cls]


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _amount(count: int, cls: str) -> str:
    return f"{_number(count) if count else 'no'} {_noun(cls, count)}"


def _seen(observation: Observation) -> str:
    """Name everything found, such as "one red apple and two blue cups"."""
    counts = Counter((item.color, item.cls) for item in observation.detections)
    names = [f"{_number(n)} {color} {_noun(cls, n)}" for (color, cls), n in counts.items()]
    return " and ".join(names) or "nothing"


def _of_class(observation: Observation, cls: str) -> list[Detection]:
    return [item for item in observation.detections if item.cls == cls]


def _object_check(cls: str) -> AtomicCheck:
    def test(observation: Observation) -> CheckResult:
        count = len(_of_class(observation, cls))
        if count:
            return CheckResult(True, f"found {_amount(count, cls)}")
        return CheckResult(False, f"found no {cls}, but {_seen(observation)}")

    return AtomicCheck(f"object:{cls}", "object", f"Is there {article(cls)}?", test)


def _count_check(cls: str, count: int, exact: bool) -> AtomicCheck:
    def test(observation: Observation) -> CheckResult:
        found = len(_of_class(observation, cls))
        passed = found == count if exact else found >= count
        wanted = str(count) if exact else f"at least {count}"
        return CheckResult(passed, f"found {found or 'no'} {_noun(cls, found)}, wanted {wanted}")

    verb = "Is" if count == 1 else "Are"
    bound = "exactly" if exact else "at least"
    question = f"{verb} there {bound} {_amount(count, cls)}?"
    return AtomicCheck(f"count:{cls}", "count", question, test)


def _color_check(wanted: Include) -> AtomicCheck:
    cls, color, count = wanted["class"], wanted["color"], wanted["count"]

    def test(observation: Observation) -> CheckResult:
        members = _of_class(observation, cls)
        right = sum(item.color == color for item in members)
        if not members:
            return CheckResult(False, f"found no {cls} to be {color}")
        tally = Counter(item.color for item in members)
        colors = " and ".join(f"{number} {name}" for name, number in tally.items())
        return CheckResult(right >= count, f"found {colors} {_noun(cls, len(members))}, {wish}")

    wish = f"wanted {count} {color}"
    question = f"{'Is' if count == 1 else 'Are'} the {_noun(cls, count)} {color}?"
    return AtomicCheck(f"color:{color} {cls}", "color", question, test)


def _named(item: Include) -> str:
    noun = _noun(item["class"], item["count"])
    return f"the {item['color']} {noun}" if "color" in item else f"the {noun}"


def _members(observation: Observation, item: Include) -> list[Detection]:
    """Return the detections that a group refers to, those of the right colour first."""
    members = _of_class(observation, item["class"])
    color = item.get("color")
    if color is not None:
        members.sort(key=lambda d: d.color != color)
    return members[: item["count"]]


def _position_check(item: Include, relation: str, target: Include) -> AtomicCheck:
    def test(observation: Observation) -> CheckResult:
        members, targets = _members(observation, item), _members(observation, target)
        for wanted, found in ((item, members), (target, targets)):
            if not found:
                return CheckResult(False, f"found no {wanted['class']} to compare")
        for a in members:
            for b in targets:
                held = relations(a.box, b.box)
                if a is b or relation not in held:
                    seen = " and ".join(held) or "neither beside nor above"
                    where = f"{a.cls} at {_spot(a)} is {seen} {b.cls} at {_spot(b)}"
                    return CheckResult(False, f"{where}; wanted {relation}")
        return CheckResult(True, f"{_named(item)} {relation} {_named(target)}")

    name = f"position:{item['class']} {relation} {target['class']}"
    verb = "Is" if item["count"] == 1 else "Are"
    return AtomicCheck(
        name, "position", f"{verb} {_named(item)} {relation} {_named(target)}?", test
    )


def _spot(item: Detection) -> str:
    x, y = item.centre
    return f"({x:.0f}, {y:.0f})"


def describe_background(background: Background) -> str:
    """Put a background into words, such as "mint above cream"."""
    if background.second is None:
        return f"plain {background.color}"
    joint = "above" if background.split == "horizontal" else "left of"
    return f"{background.color} {joint} {background.second}"


def _background_check(wanted: Background) -> AtomicCheck:
    words = describe_background(wanted)

    def test(observation: Observation) -> CheckResult:
        seen = observation.background
        told = "none of the known ones" if seen is None else describe_background(seen)
        return CheckResult(seen == wanted, f"background is {told}, wanted {words}")

    return AtomicCheck("background", "background", f"Is the background {words}?", test)
