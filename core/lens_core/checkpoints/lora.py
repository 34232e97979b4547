"""LoRAs on a pipeline's denoiser: several at once, weighted, fused, swapped, saved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lens_core.checkpoints.diffusers_api import LORA_LOADING_ARGUMENTS, pop_hub, refuse_unsupported
from lens_core.checkpoints.hub import Hub, HubSource, is_repository
from lens_core.checkpoints.lora_adapters import (
    attach_lora,
    copy_weights,
    remove_loras,
    save_lora,
    set_strengths,
    swap_lora,
    unfuse,
)
from lens_core.checkpoints.lora_arguments import (
    COMPONENT,
    Weight,
    adapter_names_of,
    check_components,
    check_strength,
    strengths_of,
)
from lens_core.checkpoints.lora_files import linear_shapes, lora_digest, read_lora
from lens_core.checkpoints.lora_state import LoraState
from lens_core.errors import CheckpointError, NonFiniteError, ParameterError, first_line
from lens_core.transformer import LensTransformer2DModel


class LoraMixin:
    """LoRA methods of a pipeline, named as those of diffusers' pipelines."""

    transformer: LensTransformer2DModel

    @property
    def loras(self) -> Mapping[str, float]:
        """Every loaded LoRA and its effective weight, 0 for those that are inactive."""
        return self._state.effective

    @property
    def lora_records(self) -> dict[str, Any]:
        """Weight and SHA-256 of every loaded LoRA, as JSON: what a picture's record needs."""
        return {
            name: {"weight": weight, "sha256": self._state.digests[name]}
            for name, weight in self.loras.items()
        }

    @property
    def fused_loras(self) -> set[str]:
        """LoRAs that `fuse_lora` added to the weights."""
        return {*(self._state.fused or {})}

    @property
    def num_fused_loras(self) -> int:
        """Number of `fused_loras`."""
        return len(self.fused_loras)

    def get_active_adapters(self) -> list[str]:
        """LoRAs that are switched on, also while all are disabled."""
        return [*self._state.chosen]

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Adapters of each component that has any."""
        found = [*(getattr(self._denoiser, "peft_config", None) or {})]
        return {COMPONENT: found} if found else {}

    def load_lora_weights(
        self,
        source: str | Path | HubSource,
        adapter_name: str | None = None,
        weight: float = 1.0,
        hotswap: bool = False,
        hub: Hub | None = None,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        **others: Any,
    ) -> str:
        """Load a LoRA beside those that are loaded already.

        Args:
            source: A safetensors file in any known key style, a folder of PEFT or diffusers, a
                repository's name (`owner/name`) or a `HubSource`.
            adapter_name: A name for it; `lora_0`, `lora_1` and so on by default.
            weight: How strongly it works; 1 as it was trained.
            hotswap: Put its weights in the place of the LoRA of this name. A compiled model need
                not be compiled again. It must change the same modules.
            hub: Another hub or cache than the usual one.
            weight_name: Which file of a folder or repository.
            subfolder: Where in it.
            revision: Commit, tag or branch of a repository.
            **others: As in diffusers: `cache_dir`, `local_files_only` and `token` for a hub.

        Returns:
            The name.

        Raises:
            CheckpointError: Modules that the model does not have, damaged or pickled files.
            ParameterError: A weight that is no number; a name that is taken, or with `hotswap` one
                that is not; LoRAs are fused; other modules when swapping.
        """
        hub = pop_hub(others, hub) or Hub()
        refuse_unsupported("load_lora_weights", others, LORA_LOADING_ARGUMENTS)
        self._refuse_fused()
        weight = check_strength(weight)
        inside = "/".join(filter(None, (subfolder, weight_name)))
        path = _found(source, inside, revision, hub)
        weights = read_lora(path, linear_shapes(self._denoiser))
        known_loras = self._state.weights
        name = adapter_name or next(
            free for i in range(len(known_loras) + 1) if (free := f"lora_{i}") not in known_loras
        )
        if (name in known_loras) != hotswap:
            known = f"there are {sorted(known_loras)}"
            raise ParameterError(
                f"hotswap needs the name of a loaded LoRA, not {name!r}; {known}"
                if hotswap
                else f"a LoRA called {name!r} is loaded already; use hotswap to replace it"
            )
        self.return_weights()
        (swap_lora if hotswap else attach_lora)(self._denoiser, name, weights)
        self._change(digests={**self._state.digests, name: lora_digest(path)})
        self._activate({**known_loras, name: weight})
        return name

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: Weight | Sequence[Weight] = 1.0,
    ) -> None:
        """Choose which LoRAs work and how strongly; the others are set aside.

        Args:
            adapter_names: One or more names.
            adapter_weights: One for all, or one for each.

        Raises:
            ParameterError: A name that is not loaded or given twice, another count of weights, one
                that is no number, or LoRAs are fused.
        """
        self._refuse_fused()
        chosen = adapter_names_of(adapter_names)
        self._check_known(chosen)
        self._activate(
            dict.fromkeys(self._state.weights, 0.0)
            | dict(zip(chosen, strengths_of(adapter_weights, chosen), strict=True))
        )

    def disable_lora(self) -> None:
        """Set all LoRAs aside, until `enable_lora`; which ones work then can be chosen meanwhile.

        Raises:
            ParameterError: LoRAs are fused.
        """
        self._refuse_fused()
        self._change(enabled=not self._state.weights)
        self._activate(self._state.weights)

    def enable_lora(self) -> None:
        """Let the LoRAs work again that did before `disable_lora`.

        Raises:
            ParameterError: LoRAs are fused.
        """
        self._refuse_fused()
        self._change(enabled=True)
        self._activate(self._state.weights)

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget some LoRAs.

        Raises:
            ParameterError: A name that is not loaded, or LoRAs are fused.
        """
        self._refuse_fused()
        gone = adapter_names_of(adapter_names)
        self._check_known(gone)
        left = {name: weight for name, weight in self._state.weights.items() if name not in gone}
        if not left:
            self.unload_lora_weights()
            return
        self.return_weights()
        remove_loras(self._denoiser, gone)
        self._activate(left)

    def unload_lora_weights(self) -> None:
        """Forget all LoRAs. As in diffusers, what `fuse_lora` added stays: `unfuse_lora` first."""
        if self.get_list_adapters():
            self.return_weights()
            self._denoiser.unload_lora()
        self._denoiser.lora_state = LoraState()

    def enable_lora_hotswap(self, target_rank: int, check_compiled: str = "error") -> None:
        """Before the first LoRA is loaded: leave room so that swapping needs no new compilation.

        Args:
            target_rank: The largest rank that will be swapped in.
            check_compiled: What diffusers does about a model that is compiled already: `error`,
                `warn` or `ignore`.

        Raises:
            ParameterError: A LoRA is loaded already.
        """
        if self._state.weights:
            raise ParameterError("enable_lora_hotswap comes before the first LoRA is loaded")
        self._denoiser.enable_lora_hotswap(target_rank=target_rank, check_compiled=check_compiled)

    def fuse_lora(
        self,
        components: Sequence[str] = (COMPONENT,),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: str | Sequence[str] | None = None,
    ) -> None:
        """Add the working LoRAs to the weights, so that they cost no time.

        The weights they change are kept on the CPU until `unfuse_lora`, up to 5.5 GB for Lens in
        bfloat16; `bake_lora` keeps nothing.

        Args:
            components: Only the transformer has LoRAs.
            lora_scale: Their weights are multiplied by it.
            safe_fusing: Look for NaN in the sums.
            adapter_names: Only these of those that work; the others rest until `unfuse_lora`.

        Raises:
            ParameterError: No LoRA works, or not the named ones; they are disabled or fused
                already; a scale that is no number.
            NonFiniteError: NaN, with `safe_fusing`; nothing was changed.
        """
        check_components(components)
        scale, working = check_strength(lora_scale), self._working(adapter_names)
        self.return_weights()
        fused = {name: weight * scale for name, weight in working.items()}
        unfused = copy_weights(self._denoiser, [*fused])
        self._change(fused=fused, unfused=unfused)
        set_strengths(self._denoiser, fused)
        try:
            self._denoiser.fuse_lora(safe_fusing=safe_fusing, adapter_names=[*fused])
        except ValueError as error:
            self.unfuse_lora()
            raise NonFiniteError(f"the LoRAs cannot be fused: {first_line(error)}") from error

    def unfuse_lora(self, components: Sequence[str] = (COMPONENT,)) -> None:
        """Undo `fuse_lora`, to the bit unless weights are quantised.

        Args:
            components: Only the transformer has LoRAs.

        Raises:
            ParameterError: They are not fused.
        """
        check_components(components)
        if self._state.fused is None:
            raise ParameterError("LoRAs are not fused")
        self.return_weights()
        unfuse(self._denoiser, self._state.unfused)
        self._change(fused=None, unfused={})
        self._activate(self._state.weights)

    def bake_lora(self) -> None:
        """Add the working LoRAs to the weights for good and forget them as LoRAs.

        Raises:
            ParameterError: No LoRA works.
        """
        if self._state.fused is None:
            working = self._working()
            self.return_weights()
            self._denoiser.fuse_lora(adapter_names=[*working])
        self.unload_lora_weights()

    def save_lora_weights(
        self, save_directory: str | Path, adapter_name: str | None = None
    ) -> None:
        """Save a LoRA in PEFT's form: `adapter_model.safetensors` and `adapter_config.json`.

        Args:
            save_directory: The folder; it is created.
            adapter_name: A loaded LoRA, or an adapter that is being trained; need not be said if
                there is one.

        Raises:
            ParameterError: No such LoRA, or several.
        """
        known = self.get_list_adapters().get(COMPONENT, [])
        if adapter_name is None and len(known) != 1:
            raise ParameterError(f"adapter_name has to say which LoRA to save of {known}")
        adapter_name = adapter_name or known[0]
        save_lora(self._denoiser, Path(save_directory), adapter_name)

    def return_weights(self) -> None:
        """Called before weights change: what stands in their places for now goes away."""

    @property
    def _denoiser(self) -> LensTransformer2DModel:
        """The denoiser itself, without the wrapper of `torch.compile`."""
        return cast(
            LensTransformer2DModel, getattr(self.transformer, "_orig_mod", self.transformer)
        )

    @property
    def _state(self) -> LoraState:
        return self._denoiser.lora_state

    def _change(self, **values: Any) -> None:
        self._denoiser.lora_state = replace(self._state, **values)

    def _working(self, names: str | Sequence[str] | None = None) -> dict[str, float]:
        """Weights of the LoRAs that work and can be fused; all of them, or those that are named."""
        self._refuse_fused()
        state = self._state
        if state.chosen and not state.enabled:
            raise ParameterError("LoRAs are disabled; call enable_lora() first")
        chosen = [*state.chosen] if names is None else adapter_names_of(names)
        self._check_known(chosen)
        if idle := [name for name in chosen if not state.weights[name]]:
            raise ParameterError(f"LoRAs {idle} are set aside; set_adapters() gives them a weight")
        if not chosen:
            raise ParameterError("there is no LoRA to fuse; load one or give it a weight")
        return {name: state.weights[name] for name in chosen}

    def _activate(self, weights: Mapping[str, float]) -> None:
        self._change(weights=dict(weights))
        state = self._state
        set_strengths(self._denoiser, state.chosen if state.enabled else {})

    def _check_known(self, wanted: Sequence[str]) -> None:
        known = self._state.weights
        if absent := [name for name in wanted if name not in known]:
            raise ParameterError(f"no LoRA is called {absent}; there are {sorted(known)}")

    def _refuse_fused(self) -> None:
        if self._state.fused is not None:
            raise ParameterError("LoRAs are fused into the weights; call unfuse_lora() first")


def refuse_loaded(pipeline: LoraMixin) -> None:
    """Refuse to save a denoiser whose weights have adapters among them.

    Raises:
        CheckpointError: LoRAs are loaded.
    """
    if found := pipeline.get_list_adapters():
        raise CheckpointError(
            f"LoRAs {sorted(found[COMPONENT])} are loaded; unload_lora_weights() to save the model "
            "without them, bake_lora() to save it with them"
        )


def _found(source: str | Path | HubSource, inside: str, revision: str | None, hub: Hub) -> Path:
    """The file or folder of a LoRA.

    Args:
        source: As a caller gave it.
        inside: Path in the folder or repository that it names; empty for the whole.
        revision: Of a repository.
        hub: Where to download from.

    Raises:
        ParameterError: Tensors, a file in something that is a file itself, or a revision of
            something that has none.
        CheckpointError: It cannot be had.
    """
    if isinstance(source, Mapping):
        raise ParameterError(
            "a LoRA is read from a file, whose SHA-256 the records of pictures name: write its "
            "tensors with safetensors.torch.save_file first"
        )
    if inside and (isinstance(source, HubSource) or Path(source).is_file()):
        raise ParameterError(f"weight_name and subfolder {inside!r} are for folders, not {source}")
    if isinstance(source, HubSource):
        return hub.fetch(source if revision is None else replace(source, revision=revision))
    path = Path(source)
    if not path.exists() and path.suffix != ".safetensors" and is_repository(path.as_posix()):
        return hub.fetch(HubSource(path.as_posix(), inside, revision))
    if revision is not None:
        raise ParameterError(f"revision {revision!r} only applies to hub repositories, not {path}")
    return path / inside
