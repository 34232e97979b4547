"""Results on disk by what they are made from, so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from lens_reasoner.atomic import write_atomically

CACHE_VERSION = 1
"""Part of every key: entries of another version are not found."""

Kind = Literal["image", "verdict", "rewrite", "rubric", "fidelity", "revision"]
T = TypeVar("T")


class Cache:
    """A folder of results, safe to share between processes.

    What is kept, and by what it is found again:

    - an image by the generator's identity, the prompt, the seed and the settings;
    - an answer to a criterion by the image's hash, the criterion and the judge's identity;
    - a rewrite, a rubric, a fidelity report and a revision by all that went in and the identity of
      the part that wrote it.

    A part's identity is its `fingerprint`, and for generators and judges also their name. Two
    rules follow from that:

    - Only generators that say that the same seed gives the same image (`capabilities.seed`) are
      cached. From others the same call gives another sample each time, which is what several
      candidates are for.
    - A reasoner, rubric writer, fidelity checker or reviser without a `fingerprint` is not cached,
      as nobody could tell its answers from another one's. A generator or a judge without one is
      known by its name alone: give it another name, or a fingerprint, when what it does changes.

    What a language model once answered is given again, samples included. Failures are never kept.
    What comes from the cache has a usage of zero.

    Entries are written whole or not at all and never changed. Two processes that need the same
    result at the same time both make it. An entry that cannot be read counts as missing.
    """

    def __init__(self, folder: str | Path) -> None:
        """Use a folder; it is made when the first result is kept."""
        self.folder = Path(folder)

    def get(self, kind: Kind, key: JsonValue, shape: TypeAdapter[T]) -> T | None:
        """The result that was kept under a key; None if there is none."""
        try:
            return shape.validate_json(self._path(kind, key).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, kind: Kind, key: JsonValue, value: T, shape: TypeAdapter[T]) -> None:
        """Keep a result.

        Raises:
            OSError: If it cannot be written.
        """
        write_atomically(self._path(kind, key), shape.dump_json(value))

    def _path(self, kind: Kind, key: JsonValue) -> Path:
        text = json.dumps([CACHE_VERSION, kind, key], sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / kind / digest[:2] / f"{digest}.json"
