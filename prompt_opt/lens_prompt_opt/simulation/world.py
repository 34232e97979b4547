"""A world in which every system prompt's true value is known.

The text of a prompt's sections contains their effects, as a tag such as `[gain=+0.40 side=-0.02
spread=0.30 key=9f3c]`: `gain` raises how readily the rewrite states criteria of the section's
kinds, `side` does so for all other kinds, and `spread` is how much the gain varies between
requests. Optimisers do not use the tag; they see failures and scores.

For criterion c of request r under a prompt, rewrite w and image seed s:

    stated  <=>  readiness(prompt, c) + u_r + v_c + rewriter_noise * normal(prompt, r, w, c) > 0
    met     <=>  ability(c) - penalty * [not stated] + seed_noise * normal(c, s[, prompt]) > 0

and the judge answers wrongly with known probabilities. Both stages are normal, so the true pass
rate of every criterion follows from normal distribution functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from math import sqrt
from statistics import NormalDist, fmean
from struct import unpack
from typing import NamedTuple

from lens_reasoner.prompts import PromptSection, SystemPrompt

NORMAL = NormalDist()
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "role": (),
    "fidelity": ("object", "attribute"),
    "expansion": ("background",),
    "counting": ("count",),
    "spatial": ("position", "relation"),
    "colour": ("color",),
    "text": ("text",),
    "format": (),
}
_TAG = re.compile(
    r"\[gain=(?P<gain>[+-]\d+\.\d+) side=(?P<side>[+-]\d+\.\d+) "
    r"spread=(?P<spread>\d+\.\d+) key=(?P<key>\w+)\]"
)


class Directive(NamedTuple):
    """The effect of one section."""

    gain: float
    side: float
    spread: float
    key: str

    def tag(self) -> str:
        """The effect, in the form that the simulated reasoner reads."""
        return (
            f"[gain={self.gain:+.3f} side={self.side:+.3f} spread={self.spread:.3f} key={self.key}]"
        )


@dataclass(frozen=True)
class Noise:
    """How much scores vary, and how often the judge is wrong.

    Attributes:
        request: Standard deviation of difficulty between requests.
        criterion: Standard deviation of difficulty between criteria of a request.
        rewriter: Standard deviation between rewrites.
        seed: Standard deviation between images.
        shared_seed: Share of the image variance that a seed keeps under another prompt.
        false_yes: Probability that the judge says yes to a criterion that is not met.
        false_no: Probability that it says no to one that is met.
        cannot_tell: Probability that it does not answer.
    """

    request: float = 0.35
    criterion: float = 0.4
    rewriter: float = 0.5
    seed: float = 0.7
    shared_seed: float = 0.5
    false_yes: float = 0.05
    false_no: float = 0.08
    cannot_tell: float = 0.02


class Traits(NamedTuple):
    """Typical properties of a kind of criterion.

    Attributes:
        readiness: How readily an empty prompt leads to rewrites that state it.
        ability: How readily the generator gets it right once it is stated.
    """

    readiness: float
    ability: float


DEFAULT_TRAITS: Mapping[str, Traits] = {
    "object": Traits(0.7, 1.3),
    "attribute": Traits(0.35, 0.9),
    "count": Traits(-0.1, 0.7),
    "color": Traits(0.3, 1.1),
    "position": Traits(-0.15, 0.6),
    "relation": Traits(0.0, 0.3),
    "text": Traits(0.3, -0.7),
    "background": Traits(0.4, 1.2),
}


class Task(NamedTuple):
    """One criterion of a request, with its difficulty."""

    name: str
    kind: str
    need: float
    ability: float


@dataclass(frozen=True, eq=False)
class World:
    """Requests, reasoner, generator and judge with known behaviour.

    Attributes:
        name: Determines everything that is random.
        noise: Sources of variation.
        traits: Typical properties of each kind.
        penalty: How much harder a criterion is to meet if it is not stated.
        criteria: Minimum and maximum criteria per request.
        example_gain: How much each example that states a kind of criterion helps that kind.
    """

    name: str
    noise: Noise = Noise()
    traits: Mapping[str, Traits] = field(default_factory=lambda: DEFAULT_TRAITS)
    penalty: float = 1.6
    criteria: tuple[int, int] = (4, 7)
    example_gain: float = 0.05
    _tasks: dict[str, tuple[Task, ...]] = field(default_factory=dict, init=False, repr=False)
    _scores: dict[tuple[str, str], tuple[float, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def with_noise(self, **changes: float) -> World:
        """The same world with some of its noise changed."""
        return replace(self, noise=replace(self.noise, **changes))

    def tasks(self, request: str) -> tuple[Task, ...]:
        """The criteria of a request; they only depend on the names of the world and the request."""
        found = self._tasks.get(request)
        return found or self._tasks.setdefault(request, self._drawn_tasks(request))

    def _drawn_tasks(self, request: str) -> tuple[Task, ...]:
        draws = Draws(f"{self.name}:{request}")
        low, high = self.criteria
        count = low + int(draws.uniform() * (high - low + 1))
        difficulty = self.noise.request * draws.normal()
        kinds = sorted(self.traits, key=lambda kind: draws.uniform())[:count]
        spread = self.noise.criterion
        return tuple(
            Task(
                name=f"{kind} check",
                kind=kind,
                need=self.traits[kind].readiness + difficulty + spread * draws.normal(),
                ability=self.traits[kind].ability + spread * draws.normal(),
            )
            for kind in kinds
        )

    def scores(self, rendered: str, request: str) -> tuple[float, ...]:
        """For each criterion, the mean of the variable that decides whether a rewrite states it."""
        key = rendered, request
        found = self._scores.get(key)
        return found or self._scores.setdefault(key, self._summed_scores(rendered, request))

    def _summed_scores(self, rendered: str, request: str) -> tuple[float, ...]:
        tasks = self.tasks(request)
        shown = examples(rendered)
        totals = [task.need + self.example_gain * shown.count(task.name) for task in tasks]
        for section, directive in directives(rendered):
            aimed = SECTIONS.get(section, ())
            shift = 0.0
            if directive.spread:
                shift = Draws(f"{self.name}:{request}:{directive.key}").normal()
            strength = directive.gain + directive.spread * shift
            for place, task in enumerate(tasks):
                totals[place] += strength if task.kind in aimed else directive.side
        return tuple(totals)

    def pass_rates(self, rendered: str, request: str) -> list[float]:
        """True probability that each criterion of a request is met, over rewrites and seeds."""
        rates = []
        scores = self.scores(rendered, request)
        for task, score in zip(self.tasks(request), scores, strict=True):
            stated = NORMAL.cdf(score / self.noise.rewriter)
            drawn = NORMAL.cdf(task.ability / self.noise.seed)
            undrawn = NORMAL.cdf((task.ability - self.penalty) / self.noise.seed)
            rates.append(stated * drawn + (1 - stated) * undrawn)
        return rates

    def true_value(self, prompt: SystemPrompt, requests: Iterable[str]) -> float:
        """True mean score of a prompt over criteria, rewrites and seeds, without judge errors."""
        rendered = prompt.render()
        means = [fmean(self.pass_rates(rendered, request)) for request in requests]
        return fmean(means)


@lru_cache(maxsize=4096)
def directives(rendered: str) -> tuple[tuple[str, Directive], ...]:
    """The effects of a rendered prompt, by section."""
    found = []
    section = ""
    for line in rendered.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        for match in _TAG.finditer(line):
            gain, side, spread = (float(match[name]) for name in ("gain", "side", "spread"))
            found.append((section, Directive(gain, side, spread, match["key"])))
    return tuple(found)


def examples(rendered: str) -> str:
    """The text of the section with examples; empty if there is none."""
    return rendered.partition("## Examples\n")[2].partition("\n## ")[0]


def population(size: int = 400) -> list[str]:
    """Names of requests that stand for the whole population."""
    return [f"population {i}" for i in range(size)]


def seed_prompt(gains: Mapping[str, float] | None = None) -> SystemPrompt:
    """A poor prompt: some sections hurt, and none helps much."""
    gains = gains or {"fidelity": -0.2, "counting": -0.3, "spatial": -0.2, "colour": -0.1}
    sections = tuple(
        PromptSection(
            name=name,
            text=f"Rules of {name}. "
            + Directive(gains.get(name, 0.0), 0.0, 0.0, f"seed{name}").tag(),
        )
        for name in SECTIONS
    )
    return SystemPrompt(name="simulated", version="seed", sections=sections)


class Draws:
    """A cheap stream of random numbers that only depends on a name."""

    __slots__ = ("_name", "_place", "_words")

    def __init__(self, name: str) -> None:
        self._name = name
        self._words: list[int] = []
        self._place = 0

    def uniform(self) -> float:
        """A number strictly between 0 and 1."""
        at = self._place % 16
        if at == 0:
            text = f"{self._name}:{self._place}".encode()
            self._words = list(unpack("16I", blake2b(text, digest_size=64).digest()))
        self._place += 1
        return (self._words[at] + 0.5) / 4294967296.0

    def normal(self) -> float:
        """A standard normal number."""
        return NORMAL.inv_cdf(self.uniform())


def blend(own: float, shared: float, share: float) -> float:
    """A standard normal number that shares `share` of its variance with `shared`."""
    return sqrt(share) * shared + sqrt(1 - share) * own
