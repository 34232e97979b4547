"""Loop parts that consult a cache first; see `Cache` for the rules.

Cached results have a usage and a duration of zero.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Generic, TypeVar

from pydantic import JsonValue, TypeAdapter

from lens_reasoner.cache import Cache, Kind
from lens_reasoner.generator import Capabilities, Generator, StepCallback, StepProgress
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge
from lens_reasoner.parts import LoopParts, fingerprint, named_identity
from lens_reasoner.reasoner import Reasoner
from lens_reasoner.revision import FidelityChecker, FidelityReport, Problem, Reviser
from lens_reasoner.rubric import RubricWriter
from lens_reasoner.types import (
    Criterion,
    GenerationSettings,
    ImageRequest,
    Refused,
    Rewrite,
    Rubric,
    Usage,
    Value,
)
from lens_reasoner.verdict import CriterionVerdict, Verdict

T = TypeVar("T", bound=Value)

_log = logging.getLogger("lens_reasoner")

_DOES_NOT_AFFECT_TEXT = {
    "seed",
    "num_images",
    "num_inference_steps",
    "guidance_scale",
    "extra",
}
_FREE: dict[str, Any] = {"usage": Usage.zero(), "seconds": 0.0}


def cached(parts: LoopParts, cache: Cache) -> LoopParts:
    """Wrap the parts whose results can be cached."""
    changes: dict[str, Any] = {}
    if parts.generator.capabilities.seed:
        changes["generator"] = CachedGenerator(parts.generator, cache)
    if parts.judge is not None:
        changes["judge"] = CachedJudge(parts.judge, cache)
    if parts.reasoner is not None and fingerprint(parts.reasoner):
        changes["reasoner"] = CachedReasoner(parts.reasoner, cache)
    if parts.rubric_writer is not None and fingerprint(parts.rubric_writer):
        changes["rubric_writer"] = CachedRubricWriter(parts.rubric_writer, cache)
    if parts.fidelity_checker is not None and fingerprint(parts.fidelity_checker):
        changes["fidelity_checker"] = CachedFidelityChecker(parts.fidelity_checker, cache)
    if parts.reviser is not None and fingerprint(parts.reviser):
        changes["reviser"] = CachedReviser(parts.reviser, cache)
    return replace(parts, **changes)


class CachedGenerator:
    """A generator that generates only images that are not in the cache."""

    _SHAPE = TypeAdapter(GeneratedImage)

    def __init__(self, inner: Generator, cache: Cache) -> None:
        self._inner = inner
        self._cache = cache

    @property
    def name(self) -> str:
        """The generator's own name."""
        return self._inner.name

    @property
    def capabilities(self) -> Capabilities:
        """The generator's own capabilities."""
        return self._inner.capabilities

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`."""
        # Computed once: some generators read all of their weights for it.
        identity, asked = named_identity(self._inner), settings.model_dump(mode="json")

        def key(seed: int) -> JsonValue:
            return [identity, prompt, seed, asked]

        known = {seed: self._cache.get("image", key(seed), self._SHAPE) for seed in seeds}
        places = [place for place, seed in enumerate(seeds) if known[seed] is None]
        missing = [seeds[place] for place in places]

        def report(done: StepProgress) -> None:
            if on_step is not None:
                on_step(done.model_copy(update={"index": places[done.index]}))

        drawn: list[GeneratedImage] = []
        if missing:
            drawn = await self._inner.generate(
                prompt, seeds=missing, settings=settings, on_step=report
            )
        images = {
            seed: image.model_copy(update={"usage": Usage.zero(), "timings": {}})
            for seed, image in known.items()
            if image is not None
        }
        for seed, image in zip(missing, drawn, strict=False):
            _store(self._cache, "image", key(seed), image, self._SHAPE)
            images[seed] = image
        # Stop at the first missing one: an image's position says which seed it belongs to.
        return [images[seed] for seed in takewhile(images.__contains__, seeds)]


class _Answer(Value):
    """The answer to one criterion, and who gave it."""

    verdict: CriterionVerdict
    judge: str


class CachedJudge:
    """A judge that is only asked about criteria without a cached answer for the image."""

    _SHAPE = TypeAdapter(_Answer)

    def __init__(self, inner: Judge, cache: Cache) -> None:
        self._inner = inner
        self._cache = cache

    @property
    def name(self) -> str:
        """The judge's own name."""
        return self._inner.name

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`."""
        # Computed once, because hashing an image of several megabytes takes time.
        identity, sha256 = named_identity(self._inner), image.sha256

        def key(criterion: Criterion) -> JsonValue:
            return [identity, sha256, criterion.model_dump(mode="json", exclude={"weight"})]

        known = {c.name: self._cache.get("verdict", key(c), self._SHAPE) for c in rubric.criteria}
        missing = tuple(c for c in rubric.criteria if known[c.name] is None)
        if missing:
            open_part = rubric.model_copy(update={"criteria": missing})
            verdict = await self._inner.judge(image, open_part)
            answers = {
                v.criterion: _Answer(verdict=v, judge=verdict.judge) for v in verdict.verdicts
            }
            for criterion in missing:
                answer = answers.get(criterion.name)
                if answer is not None and not answer.verdict.failed:
                    _store(self._cache, "verdict", key(criterion), answer, self._SHAPE)
            known |= answers
        else:
            judge = next((a.judge for a in known.values() if a is not None), self.name)
            verdict = Verdict(image_sha256=sha256, verdicts=(), judge=judge, **_FREE)
        weights = {criterion.name: criterion.weight for criterion in rubric.criteria}
        every = (
            answer.verdict.model_copy(update={"weight": weights[name]})
            for name, answer in known.items()
            if answer is not None and name in weights
        )
        return verdict.model_copy(update={"verdicts": tuple(every)})


class CachedReasoner:
    """A reasoner whose rewrites and refusals are cached."""

    def __init__(self, inner: Reasoner, cache: Cache) -> None:
        self._inner = inner
        self._cached = _CachedValues(
            cache, "rewrite", TypeAdapter[Rewrite | Refused](Rewrite | Refused)
        )

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """See `Reasoner.rewrite`."""
        key: JsonValue = [fingerprint(self._inner), _relevant(request)]
        return await self._cached.get(key, lambda: self._inner.rewrite(request))


class CachedRubricWriter:
    """A rubric writer whose rubrics are cached."""

    def __init__(self, inner: RubricWriter, cache: Cache) -> None:
        self._inner = inner
        self._cached = _CachedValues(cache, "rubric", TypeAdapter(Rubric))

    async def write(self, request: ImageRequest) -> Rubric:
        """See `RubricWriter.write`."""
        key: JsonValue = [fingerprint(self._inner), _relevant(request)]
        return await self._cached.get(key, lambda: self._inner.write(request))


class CachedFidelityChecker:
    """A fidelity checker whose reports are cached."""

    def __init__(self, inner: FidelityChecker, cache: Cache) -> None:
        self._inner = inner
        self._cached = _CachedValues(cache, "fidelity", TypeAdapter(FidelityReport))

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """See `FidelityChecker.check`."""
        criteria: JsonValue = [c.model_dump(mode="json") for c in rubric.criteria]
        key: JsonValue = [fingerprint(self._inner), _relevant(request), prompt, criteria]
        return await self._cached.get(key, lambda: self._inner.check(request, prompt, rubric))


class CachedReviser:
    """A reviser whose revisions are cached."""

    def __init__(self, inner: Reviser, cache: Cache) -> None:
        self._inner = inner
        self._cached = _CachedValues(cache, "revision", TypeAdapter(Rewrite))

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        """See `Reviser.revise`."""
        found: JsonValue = [problem.model_dump(mode="json") for problem in problems]
        key: JsonValue = [fingerprint(self._inner), _relevant(request), current.prompt, found]
        return await self._cached.get(key, lambda: self._inner.revise(request, current, problems))


class _CachedValues(Generic[T]):
    """Cached values of one kind, which have a usage and a duration."""

    def __init__(self, cache: Cache, kind: Kind, shape: TypeAdapter[T]) -> None:
        self._cache = cache
        self._kind = kind
        self._shape = shape

    async def get(self, key: JsonValue, make: Callable[[], Awaitable[T]]) -> T:
        """Return the cached value at no cost, or make and store it."""
        known = self._cache.get(self._kind, key, self._shape)
        if known is not None:
            return known.model_copy(update=_FREE)
        made = await make()
        _store(self._cache, self._kind, key, made, self._shape)
        return made


def _store(cache: Cache, kind: Kind, key: JsonValue, value: T, shape: TypeAdapter[T]) -> None:
    """Store a result; if it cannot be written, the run goes on with it."""
    try:
        cache.put(kind, key, value, shape)
    except OSError as error:
        _log.warning("the cache %s could not store a result (%s): %s", cache.folder, kind, error)


def _relevant(request: ImageRequest) -> JsonValue:
    """The fields of a request that its prompt and its criteria may depend on."""
    fields: JsonValue = request.model_dump(mode="json", exclude=_DOES_NOT_AFFECT_TEXT)
    return fields
