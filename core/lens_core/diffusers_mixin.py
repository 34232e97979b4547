"""Methods of diffusers' models that the denoiser lacked, or that would do something else to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from torch import nn

from lens_core.blocks import LensAttention
from lens_core.checkpoint_files import one_dtype
from lens_core.checkpoints.hub import Hub
from lens_core.errors import ComponentError, first_line

if TYPE_CHECKING:
    from lens_core.transformer import LensTransformer2DModel


class DiffusersMixin:
    """Overrides methods of diffusers' `ModelMixin`, before which it must come in the bases."""

    modules: Any

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path_or_dict: str | Path,
        *,
        config: str | Path | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        hub: Hub | None = None,
    ) -> "LensTransformer2DModel":
        """Load a safetensors (plain or MXFP8) or GGUF file; packed weights are unpacked.

        Args:
            pretrained_model_link_or_path_or_dict: The file, here or on the hub: its address, or
                `owner/name/file.gguf`.
            config: A model with a denoiser of these sizes, for files of other sizes than the
                published that say nothing themselves.
            dtype: bfloat16 by default.
            torch_dtype: The same by its older name.
            hub: Another hub or cache than the usual one.

        Raises:
            CheckpointError: A file of something else, incomplete or damaged.
            PrecisionError: float16.
        """
        from lens_core.checkpoints.single_file import read_single_file

        precision = one_dtype(dtype, torch_dtype) or torch.bfloat16
        source = pretrained_model_link_or_path_or_dict
        return read_single_file(source, precision, config, hub or Hub())

    def set_attention_backend(self, backend: str) -> None:
        """Choose the attention kernel of this model, as `SpeedPlan(attention=...)` does.

        Args:
            backend: A name of diffusers' attention dispatcher, such as `native` or `flash`.

        Raises:
            ComponentError: No such kernel, or it is not installed.
        """
        try:
            # Diffusers would choose it for all models of the process; the context takes that back.
            with attention_backend(AttentionBackendName.NATIVE):
                super().set_attention_backend(backend)  # type: ignore[misc]
        except (ValueError, RuntimeError, ImportError) as error:
            raise ComponentError(
                f"attention {backend!r} cannot be used: {first_line(error)}"
            ) from error
        self._attend_by(backend.lower())

    def reset_attention_backend(self) -> None:
        """Leave the choice of the attention kernel to diffusers and torch again."""
        self._attend_by(None)

    def _attend_by(self, backend: str | None) -> None:
        modules: Iterator[nn.Module] = self.modules()
        for module in modules:
            if isinstance(module, LensAttention):
                module.backend = backend

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, with room for what becomes of blocks as LoRAs come and go."""
        from lens_core.speed.accelerate import allow_compilations

        allow_compilations()
        super().compile_repeated_blocks(*args, **kwargs)  # type: ignore[misc]

    def enable_cache(self, config: object) -> Never:
        """Not for Lens: caches that skip blocks do not know what its blocks pass on.

        Raises:
            ComponentError: Always.
        """
        raise ComponentError(
            f"{type(config).__name__} cannot be used with Lens; accelerate(pipeline, 'fast') of "
            "lens_core.speed makes it faster, and Lens-Turbo needs 4 steps"
        )
