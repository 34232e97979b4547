"""Pipelines from folders, hubs and separate files, and back into folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, Self

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase

from lens_core.checkpoint_files import one_dtype
from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.diffusers_api import (
    LOADING_ARGUMENTS,
    PIPELINE_METHODS,
    SAVING_ARGUMENTS,
    pop_device,
    pop_hub,
    pop_implied,
    refuse_unsupported,
)
from lens_core.checkpoints.hub import Hub
from lens_core.checkpoints.load import Part, components_from, load_source
from lens_core.checkpoints.lora import LoraMixin, refuse_loaded
from lens_core.checkpoints.single_file import read_single_file
from lens_core.errors import CheckpointError, ParameterError
from lens_core.exact_buffers import keep_statistics
from lens_core.feature_cache import FeatureCache
from lens_core.loading import LensDefaults, save_components
from lens_core.memory.choose import MemoryChoice
from lens_core.memory.mixin import MemoryMixin, encoder_loader, plan_pipeline, refuse_planned
from lens_core.previews import FILE_NAME, PreviewMap, find_preview_map
from lens_core.transformer import LensTransformer2DModel


class LoadablePipeline(MemoryMixin, LoraMixin, DiffusionPipeline):  # type: ignore[misc]
    """How a pipeline is loaded and saved."""

    defaults: LensDefaults
    preview_map: PreviewMap
    _preview_map: PreviewMap | None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what to use instead of a method that only other pipelines have."""
            if name in PIPELINE_METHODS:
                raise AttributeError(
                    f"{type(self).__name__} has no {name}: {PIPELINE_METHODS[name]}"
                )
            return super().__getattr__(name)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        variant: str | None = None,
        hub: Hub | None = None,
        memory: MemoryChoice | None = None,
        feature_cache: FeatureCache | str | Path | None = None,
        **components: Any,
    ) -> Self:
        """Load a model: a folder or hub repository in the diffusers layout, or a published name.

        Subfolders: `transformer/`, `text_encoder/`, `vae/`, and if present `tokenizer/` (otherwise
        the packaged GPT-OSS tokenizer) and `scheduler/`. Only safetensors are read. The published
        models are `lens`, `lens-turbo` and `lens-base`; their parts are looked for in several
        places, and come with their own steps and guidance.

        Args:
            pretrained_model_name_or_path: The folder, the published name, or `owner/name`.
            dtype: Precision of all weights: float32 by default, bfloat16 for published names.
            torch_dtype: The same by its older name.
            device: Where to move the pipeline; the CPU by default, with a memory plan the
                accelerator if there is one.
            revision: Commit, tag or branch of a hub repository.
            variant: Read weights from files of this name, such as `fp16`, where a part has them;
                `dtype` says what they are cast to.
            hub: Another hub or cache than the usual one.
            memory: Memory plan: `auto`, a name of `lens_core.memory.plan.PLANS` or a `MemoryPlan`.
            feature_cache: Cache of text features, or its folder. The text encoder is loaded when a
                prompt comes that is not in it.
            **components: A component by its name, used instead of the folder's. `text_encoder=None`
                leaves the encoder out. Or the arguments of diffusers: `device_map` with one device;
                `cache_dir`, `local_files_only` and `token` for a hub.

        Raises:
            CheckpointError: Incomplete, unreadable, pickled or unknown weights.
            ComponentError: Components that do not belong together.
            PrecisionError: float16.
            ParameterError: An argument that is not known.
        """
        precision = one_dtype(dtype, torch_dtype)
        device, hub = pop_device(components, device), pop_hub(components, hub)
        pop_implied(components)
        elsewhere = {name: components.pop(name) for name in LOADING_ARGUMENTS if name in components}
        refuse_unsupported("from_pretrained", elsewhere, LOADING_ARGUMENTS)
        source = pretrained_model_name_or_path
        loader = encoder_loader(memory, feature_cache)
        parts = load_source(source, precision, components, revision, hub, loader, variant)
        pipeline: Self = plan_pipeline(cls, parts, memory, feature_cache, device)
        # Another autoencoder than the folder's needs another map.
        if "vae" not in components and (found := find_preview_map(source)) is not None:
            pipeline.preview_map = found
        return pipeline

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | Path,
        *,
        config: str | Path | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        hub: Hub | None = None,
        **others: Any,
    ) -> Self:
        """Load a denoiser's file, and the other parts from elsewhere.

        Args:
            pretrained_model_link_or_path: Safetensors (plain or MXFP8) or GGUF, here or on the hub:
                its address, or `owner/name/file.gguf`.
            config: Where the other parts are, and size, steps and guidance: as the first argument
                of `from_pretrained`. Weights alone do not tell Lens from Lens-Turbo. Without it,
                `text_encoder` and `vae` have to be given.
            dtype: Precision of everything that is not packed; bfloat16 by default.
            torch_dtype: The same by its older name.
            hub: Another hub or cache than the usual one.
            **others: As in `from_pretrained`, or without `config` as in `from_components`.

        Raises:
            CheckpointError: A file of something else, incomplete or damaged.
            ComponentError: Components that do not belong together.
            PrecisionError: float16.
            ParameterError: Parts are missing, or an argument is not known.
        """
        precision = one_dtype(dtype, torch_dtype) or torch.bfloat16
        hub, device = pop_hub(others, hub), pop_device(others, others.pop("device", None))
        pop_implied(others)
        if "transformer" in others or (config is None and not {"text_encoder", "vae"} <= {*others}):
            raise ParameterError(
                "from_single_file reads the transformer: say where the other parts are, as in "
                "config='lens-turbo', or give text_encoder= and vae="
            )
        denoiser = read_single_file(pretrained_model_link_or_path, precision, config, hub or Hub())
        if config is None:
            return cls.from_components(denoiser, dtype=precision, device=device, **others)
        others |= {"transformer": denoiser}
        return cls.from_pretrained(config, dtype=precision, hub=hub, device=device, **others)

    @classmethod
    def from_components(
        cls,
        denoiser: Part,
        text_encoder: Part | None,
        vae: Part,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
        defaults: LensDefaults | str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device | None = None,
        configs: Mapping[str, Config] | None = None,
        memory: MemoryChoice | None = None,
        feature_cache: FeatureCache | str | Path | None = None,
    ) -> Self:
        """Build a pipeline of separate files.

        Args:
            denoiser: Safetensors (plain or MXFP8) or GGUF file, folder, or module.
            text_encoder: GPT-OSS as Hugging Face folder (plain or MXFP4), Comfy's NVFP4 file, GGUF,
                or module; None for a pipeline that is given `prompt_embeds`. Packed experts stay
                packed.
            vae: File with the names of diffusers or of Black Forest Labs, folder, or module.
            tokenizer: A tokenizer, its tokenizer.json or folder. By default the text encoder file's
                own, or the packaged GPT-OSS one.
            scheduler: Euler with exponential dynamic shifting by default.
            defaults: Size, steps and guidance, or the published name they come with; weights alone
                do not tell Lens from Lens-Turbo. Those of Lens by default.
            dtype: Precision of everything that is not packed.
            device: Where to move the pipeline; the CPU by default.
            configs: Configurations by `denoiser`, `text_encoder` and `vae` (values or JSON files),
                for files of other sizes than the published that say nothing themselves.
            memory: As in `from_pretrained`.
            feature_cache: As in `from_pretrained`.

        Raises:
            CheckpointError: Missing, unexpected or wrongly shaped tensors, damaged files, pickles.
            ComponentError: Components that do not belong together.
            PrecisionError: float16.
            ParameterError: A name that is not known.
        """
        parts = components_from(
            denoiser,
            text_encoder,
            vae,
            tokenizer,
            scheduler,
            defaults,
            dtype,
            configs,
            encoder_loader(memory, feature_cache),
        )
        pipeline: Self = plan_pipeline(cls, parts, memory, feature_cache, device)
        return pipeline

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast everything, as in diffusers; the autoencoder's statistics stay precise.

        Raises:
            ParameterError: A memory plan is in force.
        """
        keep_statistics(self.vae)  # It may have been put in later.
        return super().to(*args, **kwargs)

    def with_transformer(
        self, transformer: LensTransformer2DModel, defaults: LensDefaults | None = None
    ) -> Self:
        """The same parts around another denoiser.

        Args:
            transformer: The denoiser.
            defaults: What the pipeline is run with; as this one by default.
        """
        made: Self = type(self)(
            **{**self.components, "transformer": transformer}, defaults=defaults or self.defaults
        )
        made._preview_map = self._preview_map
        return made

    @classmethod
    def from_pipe(
        cls,
        pipeline: Self,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> Self:
        """Another pipeline around the same components, run as the first is.

        Args:
            pipeline: The first. What happens to components, LoRAs too, happens to both.
            dtype: Precision to cast them to; None leaves them as they are.
            torch_dtype: The same by its older name.
            **components: A component, or `defaults`, to use instead.

        Raises:
            ParameterError: The first is under a memory plan, which holds for it alone.
            ComponentError: Components that do not belong together.
        """
        pipeline.refuse_under_plan()
        made = cls(**{**pipeline.components, "defaults": pipeline.defaults, **components})
        if "vae" not in components:
            made._preview_map = pipeline._preview_map
        precision = one_dtype(dtype, torch_dtype)
        return made if precision is None else made.to(precision)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        max_shard_size: str = "5GB",
        variant: str | None = None,
        **others: Never,
    ) -> None:
        """Save every component in its own subfolder, as safetensors and JSON.

        Args:
            save_directory: The folder; it is created.
            safe_serialization: Must stay True; pickles are not written.
            max_shard_size: Largest weight file.
            variant: Written into the names of weight files, to be read by `variant=`.
            **others: There is nothing else; what diffusers takes is told what to do instead.

        Raises:
            CheckpointError: A pickle was asked for, LoRAs are loaded, or a memory plan has rounded
                weights or freed the text encoder.
            ParameterError: An argument that is not known.
        """
        refuse_unsupported("save_pretrained", others, SAVING_ARGUMENTS)
        if not safe_serialization:
            raise CheckpointError("safe_serialization=False would write a pickle; Lens never does")
        refuse_loaded(self)
        refuse_planned(self)
        save_components(save_directory, self.components, self.defaults, max_shard_size, variant)
        if self._preview_map is not None:
            self._preview_map.save(Path(save_directory) / "vae" / FILE_NAME)
