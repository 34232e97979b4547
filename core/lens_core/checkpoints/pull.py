"""Downloading the parts of a model and saying where they came from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_core.checkpoints.hub import Hub, HubSource, fetch_first, is_repository
from lens_core.checkpoints.inspect import inspect_checkpoint
from lens_core.checkpoints.sources import PRESETS
from lens_core.errors import CheckpointError, ParameterError


@dataclass(frozen=True)
class PulledPart:
    """One part on the local disk.

    Attributes:
        component: `transformer`, `text_encoder`, `vae`, or `model` for a whole repository.
        path: File or folder.
        source: Where it came from.
        commit: The revision that was downloaded.
        verified: Whether its sha256 is on record, and agrees.
    """

    component: str
    path: Path
    source: HubSource
    commit: str
    verified: bool


def pull_model(
    name: str,
    hub: Hub,
    revision: str | None = None,
    only: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[PulledPart]:
    """Download a published model or a repository, and check it by name and sha256.

    Args:
        name: A name of `PRESETS`, or `owner/name`.
        hub: Where from and to.
        revision: Of a repository.
        only: Parts of a published model; all by default.
        tell: Told which sources did not work.

    Raises:
        CheckpointError: No source works, or what came is incomplete.
        ParameterError: A name or part that is not known.
    """
    if name not in PRESETS:
        if not is_repository(name):
            raise ParameterError(
                f"{name!r} is neither a published model ({sorted(PRESETS)}) nor OWNER/NAME"
            )
        source = HubSource(name, "", revision)
        yield _part("model", hub.fetch(source), source)
        return
    components = PRESETS[name].components
    if revision is not None:
        raise ParameterError(f"the revisions of {name!r} are fixed; --revision is for OWNER/NAME")
    if unknown := sorted(set(only or ()) - components.keys()):
        raise ParameterError(f"{name} has no parts {unknown}; it has {[*components]}")
    for component in only or components:
        path, source = fetch_first(hub, components[component], tell)
        yield _part(component, path, source)


def _part(component: str, path: Path, source: HubSource) -> PulledPart:
    for info in inspect_checkpoint(path):
        if not info.is_complete:
            lacking = ", ".join((*info.missing[:5], *info.unexpected[:5]))
            raise CheckpointError(f"{path} is incomplete or not as expected: {lacking}")
    places = path.parts
    commit = places[places.index("snapshots") + 1] if "snapshots" in places else "unknown"
    return PulledPart(component, path, source, commit, bool(source.sha256))
