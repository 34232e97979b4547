"""What a checkpoint is run with; importing this loads no torch."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from lens_core.errors import CheckpointError, ParameterError
from lens_core.json_files import read_json
from lens_core.noise_levels import given_sigmas

INDEX_NAME = "model_index.json"
DEFAULTS_KEY = "_lens_defaults"


@dataclass(frozen=True)
class LensDefaults:
    """What a checkpoint is run with unless the caller says otherwise.

    A checkpoint states its own under `_lens_defaults` in `model_index.json`; the values here are
    those of the published Lens.

    Attributes:
        height: Pixels.
        width: Pixels.
        num_inference_steps: Euler steps.
        guidance_scale: Classifier-free guidance; 1 is none.
        sigmas: Noise levels before the time shift, one for each of those steps, of a checkpoint
            that was made for others than even ones.
    """

    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    sigmas: tuple[float, ...] | None = None


PUBLISHED_DEFAULTS = LensDefaults()


def load_defaults(folder: Path, otherwise: LensDefaults = PUBLISHED_DEFAULTS) -> LensDefaults:
    """A checkpoint's own settings.

    Args:
        folder: Of the checkpoint.
        otherwise: What holds as far as it states nothing; by default that of the published Lens.

    Raises:
        CheckpointError: The entry has a name or a type that `LensDefaults` does not.
    """
    path = folder / INDEX_NAME
    entry = read_json(path).get(DEFAULTS_KEY, {}) if path.is_file() else {}
    known = {field.name: field.type for field in fields(LensDefaults) if field.name != "sigmas"}
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: {DEFAULTS_KEY} must be a JSON object, not {entry!r}")
    sigmas = entry.pop("sigmas", None)
    for name, value in entry.items():
        number = (int, float) if known.get(name) is float else int
        if name not in known or isinstance(value, bool) or not isinstance(value, number):
            raise CheckpointError(
                f"{path}: {DEFAULTS_KEY} has {name!r}: {value!r}; it may hold numbers named "
                f"{sorted(known)} and a list of sigmas"
            )
    own = replace(otherwise, **entry)
    if sigmas is None:
        return own
    try:
        levels = given_sigmas(sigmas, own.num_inference_steps)
    except ParameterError as error:
        raise CheckpointError(f"{path}: {DEFAULTS_KEY}: {error}") from error
    return replace(own, sigmas=tuple(levels.tolist()))
