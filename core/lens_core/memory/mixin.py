"""What a pipeline can do with memory plans."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from lens_core.checkpoints.load import EncoderLoader
from lens_core.errors import CheckpointError, ComponentError, ParameterError
from lens_core.feature_cache import FeatureCache
from lens_core.feature_source import (
    CachedFeatures,
    EncoderFeatures,
    FeatureSource,
    HeldEncoder,
    features_of,
)
from lens_core.loading import check_components
from lens_core.memory.choose import MemoryChoice, default_device, resolve_plan
from lens_core.memory.dry_run import tile_pictures
from lens_core.memory.encoder_file import EncoderFile, module_identity
from lens_core.memory.keeper import EncoderKeeper
from lens_core.memory.placements import Placements
from lens_core.memory.plan import RESIDENT, MemoryPlan, WeightForm
from lens_core.memory.predict import Model
from lens_core.memory.quantise import is_quantised, quantise
from lens_core.memory.transfer import Transfer
from lens_core.text_encoder import LensTextEncoder

DIGESTS = "weights.json"
"""In a feature cache's folder: SHA-256 of weight files that were met."""


class MemoryMixin:
    """Runs a pipeline under a memory plan, and has its text features from a cache."""

    memory_plan: MemoryPlan = RESIDENT
    """The plan in force; see `apply_memory`."""

    text_encoder: LensTextEncoder | None
    transformer: Any
    vae: Any
    components: Mapping[str, Any]

    _placements: Placements | None = None
    _keeper: EncoderKeeper | None = None
    _features: FeatureSource | None = None
    _encoder_file: EncoderFile | None = None
    _weight_form: WeightForm = "full"

    @property
    def feature_source(self) -> FeatureSource | None:
        """Where text features come from; None without a text encoder."""
        if self._features is not None:
            return self._features
        return None if self.text_encoder is None else features_of(self.text_encoder)

    def apply_memory(
        self,
        memory: MemoryChoice = RESIDENT,
        device: str | torch.device | None = None,
        feature_cache: FeatureCache | str | Path | None = None,
        encoder_file: EncoderFile | None = None,
        transfer: Transfer | None = None,
    ) -> Self:
        """Run under a memory plan from now on, on a device, with or without a cache of features.

        Called again it replaces the plan and the cache before, and diffusers' offloading. Weights
        that a plan rounded stay rounded. LoRAs may be loaded before or after.

        Args:
            memory: `auto`, the name of a plan, or a plan.
            device: Where to compute; the accelerator if there is one.
            feature_cache: A cache of text features, or its folder.
            encoder_file: Where the text encoder can be loaded from, for plans that free it and for
                pipelines that have not loaded it; what was given once is remembered.
            transfer: How weights reach the device; by default the best way.

        Raises:
            ParameterError: No such plan, none that fits, weights that are rounded already, or a
                text encoder that could not be loaded again.
            ComponentError: torchao is needed and not installed.
        """
        where = default_device() if device is None else torch.device(device)
        file = encoder_file or self._encoder_file
        plan = resolve_plan(memory, partial(self._counted, file), where)
        self._check_plan(plan, file)
        self._end_plan()
        self.remove_all_hooks()
        self._change_parts(plan, where)
        self._placements = Placements(where, transfer)
        self._placements.place(
            {"transformer": (self.transformer, plan.transformer), "vae": (self.vae, plan.vae)}
        )
        self.memory_plan, self._encoder_file = plan, file
        if self.text_encoder is not None or file is not None:
            self._keep_encoder(plan, file)
            self._features = self._source(feature_cache, file)
        return self

    def _check_plan(self, plan: MemoryPlan, file: EncoderFile | None) -> None:
        if plan.transformer != "resident" and self.transformer.preparations:
            raise ParameterError(
                f"memory plan {plan.name!r} moves the denoiser's weights, of which a speed plan "
                "keeps other forms: accelerate(pipeline, 'plain') first, and again afterwards"
            )
        if plan.free_text_encoder and self.text_encoder is not None and file is None:
            raise ParameterError(
                f"memory plan {plan.name!r} frees the text encoder, and this one was given as a "
                "module that cannot be loaded again; give its path"
            )

    def _change_parts(self, plan: MemoryPlan, device: torch.device) -> None:
        """Round weights, tile pictures and tabulate modulations as a plan says."""
        if plan.transformer_weights not in {"full", self._weight_form}:
            quantise(self.transformer, plan.transformer_weights)
            self._weight_form = plan.transformer_weights
        tile_pictures(self.vae, plan.vae_tile)
        if plan.modulation_table:
            # Sets the modulations aside before anything goes to the device. The table itself is
            # made anew for every schedule.
            self.transformer.precompute_modulations([1.0], device)
            self.transformer.keeps_modulation_table = True

    def release_memory(self) -> None:
        """End the plan: weights stay where they are kept, and nothing moves by itself any more.

        A text encoder that the plan had freed is loaded again.
        """
        self._end_plan()
        if self.text_encoder is None and self._encoder_file is not None:
            self.text_encoder = self._encoder_file.load()

    def _end_plan(self) -> None:
        if self._placements is not None:
            self._placements.clear()
            self.transformer.keeps_modulation_table = False
            self.transformer.restore_modulations()
            tile_pictures(self.vae, None)
        self._placements = self._keeper = self._features = None
        self.memory_plan = RESIDENT

    def lend_text_encoder(self) -> AbstractContextManager[LensTextEncoder]:
        """A context in which the text encoder is in memory, to write with.

        Raises:
            ComponentError: The pipeline has none.
        """
        if self._keeper is not None:
            return self._keeper.lend()
        if self.text_encoder is None:
            raise ComponentError("this pipeline has no text encoder")
        return HeldEncoder(self.text_encoder).lend()

    def maybe_free_model_hooks(self) -> None:
        """Diffusers calls this when a picture is done."""
        super().maybe_free_model_hooks()  # type: ignore[misc]
        self.return_weights()

    def return_weights(self) -> None:
        """Let copies of weights on the device go; they come again with the next call."""
        if self._placements is not None:
            self._placements.release()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move everything, as in diffusers; not under a plan that moves weights itself.

        Raises:
            ParameterError: A plan is in force.
        """
        self.refuse_under_plan()
        return super().to(*args, **kwargs)  # type: ignore[misc,no-any-return]

    def remove_all_hooks(self) -> None:
        """Diffusers' ways to offload call this first; a plan has hooks of its own.

        Raises:
            ParameterError: A plan is in force.
        """
        self.refuse_under_plan()
        super().remove_all_hooks()  # type: ignore[misc]

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers; not under a plan.

        Raises:
            ParameterError: A plan is in force.
        """
        self.refuse_under_plan()
        super().enable_group_offload(*args, **kwargs)  # type: ignore[misc]

    def refuse_under_plan(self) -> None:
        """Refuse what would move weights.

        Raises:
            ParameterError: A plan is in force.
        """
        if self._placements is not None:
            raise ParameterError(
                f"the memory plan {self.memory_plan.name!r} decides where weights are; name the "
                "device in apply_memory(), or end the plan with release_memory()"
            )

    def __getstate__(self) -> object:
        """What copies and pickles are made of.

        Raises:
            ParameterError: A plan is in force, whose hooks would go on moving these weights.
        """
        self.refuse_under_plan()
        return super().__getstate__()

    def _counted(self, file: EncoderFile | None) -> Model:
        """The components, the text encoder without its weights if it is not in memory."""
        encoder = self.text_encoder
        if encoder is None and file is not None:
            encoder = file.blank()
        return Model(self.transformer, encoder, self.vae)

    def _keep_encoder(self, plan: MemoryPlan, file: EncoderFile | None) -> None:
        placements = self._placements
        assert placements is not None

        def place(encoder: LensTextEncoder) -> None:
            placements.place({"text_encoder": (encoder, plan.text_encoder)})
            if not plan.free_text_encoder:
                self.text_encoder = encoder

        leave = placements.remove if plan.free_text_encoder else placements.leave
        encoder = self.text_encoder
        if plan.free_text_encoder:
            self.text_encoder = encoder = None
        self._keeper = EncoderKeeper(
            encoder, file, plan.free_text_encoder, place, lambda: leave("text_encoder")
        )
        if encoder is not None:
            place(encoder)

    def _source(
        self, cache: FeatureCache | str | Path | None, file: EncoderFile | None
    ) -> FeatureSource:
        assert self._keeper is not None
        if cache is None:
            return EncoderFeatures(self._keeper)
        found = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
        if file is not None:
            identity = file.identity(found.folder / DIGESTS)
        else:
            assert self.text_encoder is not None
            identity = module_identity(self.text_encoder)
        return CachedFeatures(self._keeper, found, identity)


def plan_pipeline(
    pipeline_class: Any,
    parts: Mapping[str, Any],
    memory: MemoryChoice | None,
    feature_cache: FeatureCache | str | Path | None,
    device: str | torch.device | None,
) -> Any:
    """Build a pipeline of its components, and apply a plan if one was asked for.

    Args:
        pipeline_class: What to build.
        parts: Components by name; the text encoder may be an `EncoderFile`.
        memory: Of `apply_memory`; None moves everything to `device` and plans nothing.
        feature_cache: Of `apply_memory`.
        device: Where to compute.
    """
    if memory is None and feature_cache is None:
        pipeline = pipeline_class(**parts)
        return pipeline if device is None else pipeline.to(device)
    encoder: Any = parts["text_encoder"]
    file: Any = encoder if isinstance(encoder, EncoderFile) else None
    pipeline = pipeline_class(**{**parts, "text_encoder": None if file else encoder})
    if file is not None:
        check_components(pipeline.transformer, file, pipeline.vae, pipeline.tokenizer)
    if memory is None:
        return pipeline.apply_memory(RESIDENT, device or "cpu", feature_cache, file)
    return pipeline.apply_memory(memory, device, feature_cache, file)


def encoder_loader(
    memory: MemoryChoice | None, feature_cache: FeatureCache | str | Path | None
) -> EncoderLoader | None:
    """How a pipeline's text encoder should be read; None for at once.

    Under a plan or with a cache it is only looked into: it may never be needed.
    """
    return None if memory is None and feature_cache is None else EncoderFile


def refuse_planned(pipeline: Any) -> None:
    """Refuse to save what a memory plan left incomplete.

    Raises:
        CheckpointError: The denoiser is rounded to 8 bits, or the text encoder is not in memory.
    """
    if is_quantised(pipeline.transformer):
        raise CheckpointError(
            "the memory plan rounded the denoiser to 8 bits; save a pipeline loaded without it"
        )
    if pipeline.text_encoder is None and pipeline.feature_source is not None:
        raise CheckpointError(
            "the text encoder is not in memory, and the saved folder would lack it; save a "
            "pipeline loaded without a memory plan or a feature cache"
        )
