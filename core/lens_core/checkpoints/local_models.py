"""A folder of models of one's own, so that published names need no hub."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from lens_core.checkpoints.hub import Hub, fetch_first
from lens_core.checkpoints.sources import Preset
from lens_core.errors import ParameterError

VARIABLE = "LENS_MODELS"
"""Environment variable that names the folder.

A part of a model is looked for as `MODEL/PART`, then as `PART`, as the text encoder and the
autoencoder are the same for all; in each place as a folder, then as a file of safetensors or GGUF.
"""

_ENDINGS = ("", ".safetensors", ".gguf")


def models_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder; None if none is named.

    Raises:
        ParameterError: One is named, but is not there.
    """
    named = environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise ParameterError(
            f"{VARIABLE} names {named!r}, which is not a folder; create or unset it"
        )
    return folder


def local_part(model: str, part: str, folder: Path) -> Path | None:
    """A part of a published model in a folder of models; None if it is not there.

    Args:
        model: `lens`, `lens-turbo` and so on.
        part: `transformer`, `text_encoder` or `vae`.
        folder: Of `models_folder`.
    """
    shared = part != "transformer"
    places = [folder / model / part, *([folder / part] if shared else [])]
    found = (place.with_name(place.name + end) for place in places for end in _ENDINGS)
    return next((path for path in found if path.exists()), None)


def find_part(
    preset: Preset, part: str, hub: Hub, tell: Callable[[str], None] | None = None
) -> Path:
    """A part of a published model: from the folder of models, otherwise from its sources.

    Args:
        preset: The model.
        part: Which part.
        hub: Where sources are.
        tell: Told of every source that does not work.

    Raises:
        CheckpointError: No source works; tells why, source by source.
        ParameterError: `LENS_MODELS` names a folder that is not there.
    """
    folder = models_folder()
    found = None if folder is None else local_part(preset.name, part, folder)
    if found is not None:
        return found
    sources = preset.components[part]
    return (fetch_first(hub, sources) if tell is None else fetch_first(hub, sources, tell))[0]
