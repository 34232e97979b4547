"""What a checkpoint is run with; importing this loads no torch."""

from dataclasses import dataclass


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
