"""Results on disk, keyed by everything they depend on, so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from lens_reasoner.atomic import write_atomically

CACHE_VERSION = 1
"""Part of every key, so that entries of other versions are ignored."""

Kind = Literal["image", "verdict", "rewrite", "rubric", "fidelity", "revision"]
T = TypeVar("T")


class Cache:
    """A folder of results that processes can share.

    What is stored, and its key:

    - an image: the generator's identity, the prompt, the seed and the settings;
    - an answer to a criterion: the image's hash, the criterion and the judge's identity;
    - a rewrite, rubric, fidelity report or revision: all of its inputs and the identity of the part
      that wrote it.

    A part's identity is its `fingerprint`, and for generators and judges also the name. Two rules
    follow:

    - Generators are cached only if they declare that the same seed gives the same image
      (`capabilities.seed`). Other generators give a new sample on each call, which is what several
      candidates are for.
    - A reasoner, rubric writer, fidelity checker or reviser without a `fingerprint` is not cached,
      because its answers could not be told from another one's. A generator or judge without one is
      identified by its name alone: change the name, or add a fingerprint, when its behaviour
      changes.

    A cached answer of a language model is returned unchanged, even if it was sampled. Failures are
    never stored. Cached results have a usage of zero.

    Entries are written atomically and never changed. Two processes that need the same result at the
    same time both compute it. An unreadable entry counts as missing.
    """

    def __init__(self, folder: str | Path) -> None:
        """Use `folder`; it is created when the first result is stored."""
        self.folder = Path(folder)

    def get(self, kind: Kind, key: JsonValue, shape: TypeAdapter[T]) -> T | None:
        """The result stored under a key; None if there is none."""
        try:
            return shape.validate_json(self._path(kind, key).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, kind: Kind, key: JsonValue, value: T, shape: TypeAdapter[T]) -> None:
        """Store a result.

        Raises:
            OSError: The entry cannot be written.
        """
        write_atomically(self._path(kind, key), shape.dump_json(value))

    def _path(self, kind: Kind, key: JsonValue) -> Path:
        text = json.dumps([CACHE_VERSION, kind, key], sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / kind / digest[:2] / f"{digest}.json"
