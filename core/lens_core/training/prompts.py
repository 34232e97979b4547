"""Where the prompts of post-training come from, and what a reward may know about them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lens_core.errors import ParameterError
from lens_core.nano.captions import dense_caption
from lens_core.nano.facts import Include, brief_prompt, group_relation, request_for
from lens_core.nano.sampling import sample_scene
from lens_core.nano.scenes import Scene


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: What the denoiser reads.
        facts: What its reward reads, such as GenEval's metadata or a rubric.
    """

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class PromptSource(Protocol):
    """Gives prompts by number, so that a resumed run goes on with the right ones."""

    def draw(self, step: int, count: int) -> list[Prompt]:
        """The prompts of a training step."""
        ...

    def held_out(self, count: int) -> list[Prompt]:
        """Prompts that no training step draws."""
        ...


@dataclass(frozen=True)
class NanoPrompts:
    """Captions of freshly drawn scenes of the nano world, with everything they say as facts.

    Attributes:
        seed: Seed of the scenes.
        brief_share: Share of prompts written as a user types rather than densely.
    """

    seed: int
    brief_share: float

    def draw(self, step: int, count: int) -> list[Prompt]:
        """See `PromptSource.draw`."""
        return [self._prompt(6, step, index) for index in range(count)]

    def held_out(self, count: int) -> list[Prompt]:
        """See `PromptSource.held_out`; these are not NanoEval's scenes either."""
        return [self._prompt(7, 0, index) for index in range(count)]

    def _prompt(self, stream: int, step: int, index: int) -> Prompt:
        rng = np.random.default_rng((self.seed, stream, step, index))
        scene = sample_scene(rng)
        if rng.random() < self.brief_share:
            request = request_for(scene, rng)
            return Prompt(brief_prompt(request, rng), dict(request))
        return Prompt(dense_caption(scene, rng), scene_facts(scene))


def scene_facts(scene: Scene) -> dict[str, Any]:
    """Everything checkable that a dense caption says, in GenEval's schema and with a background."""
    groups = scene.groups()
    include: list[Include] = []
    for index, members in enumerate(groups):
        wanted: Include = {
            "class": members[0].cls,
            "count": len(members),
            "color": members[0].color,
        }
        relation = group_relation(members, groups[index - 1]) if index else None
        if relation is not None:
            wanted["position"] = [relation, index - 1]
        include.append(wanted)
    exclude = [{"class": item["class"], "count": item["count"] + 1} for item in include]
    return {
        "tag": scene.task,
        "include": include,
        "exclude": exclude,
        "background": asdict(scene.background),
    }


class FilePrompts:
    """Prompts of a JSON-lines file, each line an object with "prompt" and anything else as facts.

    Every pass over the file has an order of its own.

    Args:
        path: The file.
        held_out_path: A file of other prompts to validate with.
        seed: Seed of the orders.

    Raises:
        ParameterError: A file that is missing or empty, or a line without a prompt.
    """

    def __init__(self, path: Path, held_out_path: Path | None, seed: int) -> None:
        self._prompts = read_prompts(path)
        self._held_out = [] if held_out_path is None else read_prompts(held_out_path)
        self._seed = seed

    def draw(self, step: int, count: int) -> list[Prompt]:
        """See `PromptSource.draw`."""
        return [self._at(step * count + index) for index in range(count)]

    def held_out(self, count: int) -> list[Prompt]:
        """See `PromptSource.held_out`."""
        return self._held_out[:count]

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self._prompts))
        order = np.random.default_rng((self._seed, 6, epoch)).permutation(len(self._prompts))
        return self._prompts[int(order[place])]


def load_prompts(source: str, held_out: str | None, seed: int, brief_share: float) -> PromptSource:
    """The prompts a config names: `nano`, or the path of a JSON-lines file."""
    if source == "nano":
        return NanoPrompts(seed, brief_share)
    return FilePrompts(Path(source), None if held_out is None else Path(held_out), seed)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file, in its order.

    Raises:
        ParameterError: It is missing, empty or not UTF-8, or has a line without a prompt.
    """
    if not path.is_file():
        raise ParameterError(f"prompts {str(path)!r} is neither nano nor a JSON-lines file")
    prompts = []
    try:
        # Not `splitlines`, which also splits at signs that JSON allows within a text.
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            facts = dict(json.loads(line))
            text = facts.pop("prompt")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{text!r} is not a prompt")
            text.encode()  # Half a surrogate pair is no text.
            prompts.append(Prompt(text, facts))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ParameterError(
                f'{path} line {number} must be a JSON object with a "prompt": {error!r}'
            ) from error
    if not prompts:
        raise ParameterError(f"{path} holds no prompts")
    return prompts
