"""Loading pipelines of the diffusers library by id or from a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lens_reasoner.errors import GeneratorError, MissingPackagesError

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


def load_pipeline(source: str, *, device: str | None, dtype: str | None, offload: bool) -> Any:
    """Load a pipeline.

    Args:
        source: A model id or folder.
        device: Where it runs; None means an accelerator if there is one.
        dtype: Precision; None means "bfloat16" on an accelerator and "float32" on the CPU.
        offload: Whether to keep only the running component on the accelerator.

    Raises:
        GeneratorError: The pipeline cannot be loaded.
    """
    import torch
    from diffusers import DiffusionPipeline, __version__

    # Before this version `dtype` is unknown; from it on `torch_dtype` warns.
    release = tuple(int(part) for part in __version__.split(".")[:2])
    precision = "dtype" if release >= (0, 42) else "torch_dtype"
    device = device or _best_device(torch)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, **{precision: getattr(torch, dtype)})
    except Exception as error:
        raise GeneratorError(
            f"The diffusers model {source!r} cannot be loaded: {short(error)}",
            hint="Give the id of a model on the Hugging Face Hub that you can access, or a folder "
            "with model_index.json.",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    return pipeline.to(device)


def require_packages() -> None:
    """Check, without importing them, that the packages for loading a pipeline are installed.

    Raises:
        MissingPackagesError: Some are not; the error names them and the extra to install.
    """
    missing = tuple(name for name in _PACKAGES if find_spec(name) is None)
    if missing:
        raise MissingPackagesError("Generating with diffusers", missing, extra="local")


def name_of(model: Any) -> str:
    """The name of a pipeline, model id or folder in records."""
    if isinstance(model, str | Path):
        path = Path(model).expanduser()
        return path.resolve().name if path.exists() else str(model)
    origin = getattr(model, "name_or_path", None)
    return str(origin) if isinstance(origin, str) and origin else type(model).__name__


def short(error: Exception) -> str:
    """An error's message on one line, at most 300 characters long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
