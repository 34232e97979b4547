"""The sizes a checkpoint draws, from its settings alone: without torch and without weights."""

from pathlib import Path

from lens_core.checkpoints.header import config_in, read_header
from lens_core.checkpoints.sources import defaults_by_name
from lens_core.defaults import load_defaults
from lens_core.errors import CheckpointError
from lens_core.json_files import read_config
from lens_core.sizes import SizeRules, token_side


def read_size_rules(source: str | Path, vae: Path) -> SizeRules:
    """What `LensPipeline.size_rules` will be once a checkpoint is loaded.

    Args:
        source: Its folder in the diffusers layout, or its published name.
        vae: File or folder of its autoencoder.

    Raises:
        CheckpointError: Its settings cannot be read.
    """
    own = load_defaults(Path(source), defaults_by_name(source))
    stated = read_config(vae) if vae.is_dir() else config_in(read_header(vae).metadata, vae)
    try:
        multiple = token_side(stated or {})
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{vae}: not the configuration of a FLUX.2 autoencoder") from error
    return SizeRules(own.height, own.width, multiple)
