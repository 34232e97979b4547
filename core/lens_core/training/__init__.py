"""Training stages, each resumable in its run folder.

For the nano model they follow on each other in one folder: `autoencoder` and `language` train the
frozen components, `shards` encodes the data, `pretrain` and `mixed` train the denoiser, `rl` and
`distill` tune it. `lowres` and `mixed` are the report's stages; `lora` stands alone.
"""

from lens_core.training.stages import STAGES, run_stage

__all__ = ["STAGES", "run_stage"]
