"""Getting files from a model hub, pinned to a revision and checked against their sha256."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import (
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lens_core.checkpoints.network import unreachable_reason
from lens_core.data.digests import file_hash
from lens_core.errors import CheckpointError, HubUnreachableError

_log = logging.getLogger(__name__)

_TEXT_FILES = ("*.json", "*.jinja", "*.txt")
_WEIGHTS = "*.safetensors"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_REASON = 300


@dataclass(frozen=True)
class HubSource:
    """One place from which a component can be downloaded.

    Attributes:
        repository: `owner/name`.
        path: A file in it, or the folder of a component; empty for its root.
        revision: Commit it is pinned to; None where none is on record, then `main`.
        sha256: Known digests by file name.
    """

    repository: str
    path: str
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether it is one file rather than a folder."""
        return self.path.endswith((".safetensors", ".gguf"))

    def __str__(self) -> str:
        place = "/".join(part for part in (self.repository, self.path) if part)
        return f"{place}@{(self.revision or 'main')[:8]}"


@dataclass(frozen=True)
class Hub:
    """A hub and the cache of what was downloaded from it.

    Attributes:
        endpoint: Its address; None for the one that `HF_ENDPOINT` names, or huggingface.co.
        cache: Folder; None for the usual one.
        local_only: Use what is in the cache and ask nobody.
        token: Of the account; None for the one that is logged in.
    """

    endpoint: str | None = None
    cache: Path | None = None
    local_only: bool = False
    token: str | bool | None = field(default=None, repr=False)

    def fetch(self, source: HubSource, variant: str | None = None) -> Path:
        """The local file or folder of a component, downloaded if it is not there.

        Of a folder that has weights under a variant's name, those alone are downloaded.

        Raises:
            HubUnreachableError: It is not here, and the hub does not answer.
            CheckpointError: It cannot be had, has no weights, or has another sha256.
        """
        asks = not (self.local_only or constants.HF_HUB_OFFLINE or self._has(source))
        no_way = unreachable_reason(self.endpoint or constants.ENDPOINT) if asks else ""
        hub = replace(self, local_only=self.local_only or bool(no_way))
        try:
            found = hub._file(source) if source.is_file else hub._folder(source, variant)
        except (OSError, ValueError, EntryNotFoundError) as error:
            if no_way:
                raise HubUnreachableError(f"{source} is not in the cache, and {no_way}") from error
            reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
            away = asks and isinstance(error, LocalEntryNotFoundError | ConnectionError)
            kind = HubUnreachableError if away else CheckpointError
            raise kind(f"{source}: {reason}") from error
        self._check(source, found)
        return found

    def repository(
        self, name: str, revision: str | None = None, variant: str | None = None
    ) -> Path:
        """The local folder of a whole model in the diffusers layout.

        Raises:
            CheckpointError: It cannot be had.
        """
        return self.fetch(HubSource(name, "", revision), variant)

    def _has(self, source: HubSource) -> bool:
        """Whether a file is here already, of a commit that cannot change."""
        pinned = source.is_file and source.revision is not None
        return pinned and isinstance(
            try_to_load_from_cache(source.repository, source.path, self.cache, source.revision),
            str,
        )

    def _file(self, source: HubSource) -> Path:
        return Path(
            hf_hub_download(
                source.repository,
                source.path,
                revision=source.revision,
                endpoint=self.endpoint,
                cache_dir=self.cache,
                local_files_only=self.local_only,
                token=self.token,
            )
        )

    def _folder(self, source: HubSource, variant: str | None) -> Path:
        start = f"{source.path}/" if source.path else ""
        weights = _WEIGHTS if variant is None else f"*.{variant}[.-]*safetensors"
        patterns = [f"{start}{pattern}" for pattern in (*_TEXT_FILES, weights)]
        found = self._snapshot(source, patterns)
        if variant is not None:
            # Which parts have no files of the variant is known only now.
            configs = (found / source.path).rglob("config.json")
            plain = [part.parent for part in configs if not any(part.parent.glob(weights))]
            patterns += [(part.relative_to(found) / _WEIGHTS).as_posix() for part in plain]
            found = self._snapshot(source, patterns)
        folder = found / source.path
        if not any(folder.rglob(_WEIGHTS)):
            raise CheckpointError(f"{source} has no safetensors")
        return folder

    def _snapshot(self, source: HubSource, patterns: Sequence[str]) -> Path:
        return Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                endpoint=self.endpoint,
                cache_dir=self.cache,
                local_files_only=self.local_only,
                token=self.token,
                allow_patterns=[*patterns],
                # Other forms of the same weights, which openai/gpt-oss-20b carries.
                ignore_patterns=["original/*", "metal/*"],
            )
        )

    def _check(self, source: HubSource, found: Path) -> None:
        for name, expected in source.sha256.items():
            file = found if source.is_file else found / name
            if not file.is_file():
                raise CheckpointError(f"{source} has no {name}, whose sha256 is on record")
            actual = _digest(file)
            if actual != expected:
                raise CheckpointError(
                    f"{source}: {name} has sha256 {actual}, not the known {expected}; it was "
                    f"changed or damaged, so it is not used. Delete {file.resolve()} to try again"
                )


def is_repository(name: str) -> bool:
    """Whether a name has the form `owner/name`."""
    return _REPOSITORY.fullmatch(name) is not None


def fetched_folder(source: Path, options: dict[str, Any]) -> Path:
    """The folder of a component, from the hub if it is not here.

    Args:
        source: A folder or the name of a repository.
        options: Of diffusers; those that say where to look are taken out.
    """
    name, part = source.as_posix(), options.pop("subfolder", None) or ""
    revision, cache = options.pop("revision", None), options.pop("cache_dir", None)
    hub = Hub(
        cache=None if cache is None else Path(cache),
        local_only=bool(options.pop("local_files_only", False)),
        token=options.pop("token", None),
    )
    if not source.exists() and is_repository(name):
        return hub.fetch(HubSource(name, part, revision), options.get("variant"))
    if not (source / part).is_dir():
        raise CheckpointError(
            f"{source / part} is not there; a checkpoint has a folder for each part"
        )
    return source / part


def fetch_first(
    hub: Hub,
    sources: Sequence[HubSource],
    tell: Callable[[str], None] = _log.warning,
) -> tuple[Path, HubSource]:
    """The first of several sources that can be had.

    Args:
        hub: Where to look.
        sources: In order.
        tell: Told of every source that does not work, unless the hub does not answer at all.

    Raises:
        HubUnreachableError: None can, and at least one because the hub does not answer.
        CheckpointError: None can; tells why, source by source.
    """
    refused: list[CheckpointError] = []
    for source in sources:
        try:
            return hub.fetch(source), source
        except CheckpointError as error:
            refused.append(error)
            # A hub that is away is so for every source, and the error at the end says it.
            if not isinstance(error, HubUnreachableError):
                tell(str(error))
    away = any(isinstance(error, HubUnreachableError) for error in refused)
    reasons = "\n  ".join(str(error) for error in refused)
    raise (HubUnreachableError if away else CheckpointError)(f"no source worked:\n  {reasons}")


def _digest(file: Path) -> str:
    """Sha256 of a file, noted beside the blob so that gigabytes are hashed once."""
    real = file.resolve()
    stamp = real.stat()
    note = real.with_name(f"{real.name}.sha256")
    version = f"{stamp.st_size} {stamp.st_mtime_ns}"
    if note.is_file():
        words = note.read_text(encoding="ascii", errors="replace").rsplit(" ", 2)
        if len(words) == 3 and " ".join(words[1:]) == version:
            return words[0]
    digest = file_hash(real)
    with suppress(OSError):  # A cache that others may only read is hashed each time.
        note.write_text(f"{digest} {version}", encoding="ascii")
    return digest
