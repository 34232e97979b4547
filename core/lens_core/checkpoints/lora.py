"""LoRAs on a pipeline's denoiser: several at once, weighted, fused, swapped, saved."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from lens_core.checkpoints.hub import Hub, HubSource, is_repository
from lens_core.checkpoints.lora_adapters import (
    attach_lora,
    copy_weights,
    restore_weights,
    save_lora,
    set_strengths,
    swap_lora,
)
from lens_core.checkpoints.lora_files import linear_shapes, lora_digest, read_lora
from lens_core.errors import CheckpointError, ParameterError
from lens_core.transformer import LensTransformer2DModel


class LoraMixin:
    """What a pipeline can do with LoRAs. Method names are those of diffusers' pipelines."""

    transformer: LensTransformer2DModel
    _loras: Mapping[str, float] = {}
    _lora_digests: Mapping[str, str] = {}
    _are_fused = False
    _unfused: Mapping[str, Tensor] = {}

    @property
    def loras(self) -> Mapping[str, float]:
        """Every loaded LoRA and its weight, 0 for those that are set aside."""
        return dict(self._loras)

    @property
    def lora_records(self) -> dict[str, Any]:
        """Weight and SHA-256 of every loaded LoRA, as JSON: what a picture's record needs."""
        return {
            name: {"weight": weight, "sha256": self._lora_digests[name]}
            for name, weight in self._loras.items()
        }

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

        Returns:
            The name.

        Raises:
            CheckpointError: Modules that the model does not have, damaged or pickled files.
            ParameterError: A weight that is no number; a name that is taken, or with `hotswap` one
                that is not; LoRAs are fused; other modules when swapping.
        """
        self._refuse_fused()
        weight = _strength(weight)
        path = _found(source, "/".join(filter(None, (subfolder, weight_name))), hub or Hub())
        weights = read_lora(path, linear_shapes(self.transformer))
        name = adapter_name or next(
            free for i in range(len(self._loras) + 1) if (free := f"lora_{i}") not in self._loras
        )
        if (name in self._loras) != hotswap:
            known = f"there are {sorted(self._loras)}"
            raise ParameterError(
                f"hotswap needs the name of a loaded LoRA, not {name!r}; {known}"
                if hotswap
                else f"a LoRA called {name!r} is loaded already; use hotswap to replace it"
            )
        (swap_lora if hotswap else attach_lora)(self.transformer, name, weights)
        self._lora_digests = {**self._lora_digests, name: lora_digest(path)}
        self._activate({**self._loras, name: weight})
        return name

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] = 1.0
    ) -> None:
        """Choose which LoRAs work and how strongly; the others are set aside.

        Args:
            adapter_names: One or more names.
            adapter_weights: One for all, or one for each.

        Raises:
            ParameterError: A name that is not loaded, another count of weights, one that is no
                number, or LoRAs are fused.
        """
        self._refuse_fused()
        chosen = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        scales = (
            [_strength(weight) for weight in adapter_weights]
            if isinstance(adapter_weights, (list, tuple))
            else [_strength(adapter_weights)] * len(chosen)
        )
        self._check_known(chosen)
        if len(scales) != len(chosen):
            raise ParameterError(f"{len(scales)} weights for {len(chosen)} LoRAs {chosen}")
        self._activate(dict.fromkeys(self._loras, 0.0) | dict(zip(chosen, scales, strict=True)))

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget some LoRAs.

        Raises:
            ParameterError: A name that is not loaded, or LoRAs are fused.
        """
        self._refuse_fused()
        gone = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_known(gone)
        left = {name: weight for name, weight in self._loras.items() if name not in gone}
        if not left:
            self.unload_lora_weights()
            return
        self.transformer.delete_adapters(gone)
        self._activate(left)

    def unload_lora_weights(self) -> None:
        """Forget all LoRAs; fused ones are taken out again first."""
        if self._are_fused:
            self.unfuse_lora()
        if self._loras:
            self.transformer.unload_lora()
        self._loras = {}

    def enable_lora_hotswap(self, target_rank: int) -> None:
        """Before the first LoRA is loaded: leave room so that swapping needs no new compilation.

        Args:
            target_rank: The largest rank that will be swapped in.

        Raises:
            ParameterError: A LoRA is loaded already.
        """
        if self._loras:
            raise ParameterError("enable_lora_hotswap comes before the first LoRA is loaded")
        self.transformer.enable_lora_hotswap(target_rank=target_rank)

    def fuse_lora(self) -> None:
        """Add the working LoRAs to the weights, so that they cost no time.

        The weights they change are kept on the CPU until `unfuse_lora`, up to 5.5 GB for Lens in
        bfloat16; `bake_lora` keeps nothing.

        Raises:
            ParameterError: No LoRA works, or they are fused already.
        """
        working = self._working()
        self._unfused = copy_weights(self.transformer, working)
        self.transformer.fuse_lora(adapter_names=working)
        self._are_fused = True

    def unfuse_lora(self) -> None:
        """Undo `fuse_lora`, to the bit unless weights are quantised.

        Raises:
            ParameterError: They are not fused.
        """
        if not self._are_fused:
            raise ParameterError("LoRAs are not fused")
        self.transformer.unfuse_lora()
        # Subtracting what was added would leave rounding errors, which add up over many swaps.
        restore_weights(self.transformer, self._unfused)
        self._are_fused, self._unfused = False, {}

    def bake_lora(self) -> None:
        """Add the working LoRAs to the weights for good and forget them as LoRAs.

        Raises:
            ParameterError: No LoRA works.
        """
        if not self._are_fused:
            self.transformer.fuse_lora(adapter_names=self._working())
        self.transformer.unload_lora()
        self._loras, self._are_fused, self._unfused = {}, False, {}

    def save_lora_weights(self, save_directory: str | Path, adapter_name: str) -> None:
        """Save a LoRA in PEFT's form: `adapter_model.safetensors` and `adapter_config.json`.

        Args:
            save_directory: The folder; it is created.
            adapter_name: A loaded LoRA, or an adapter that is being trained.

        Raises:
            ParameterError: No such LoRA.
        """
        save_lora(self.transformer, Path(save_directory), adapter_name)

    def share_loras(self, other: "LoraMixin") -> None:
        """Know of the LoRAs that another pipeline loaded into the denoiser of both."""
        self._loras, self._lora_digests = other._loras, other._lora_digests
        self._are_fused, self._unfused = other._are_fused, other._unfused

    def _working(self) -> list[str]:
        """Names of the LoRAs that work and can be fused."""
        self._refuse_fused()
        working = [name for name, weight in self._loras.items() if weight]
        if not working:
            raise ParameterError("there is no LoRA to fuse; load one or give it a weight")
        return working

    def _activate(self, weights: Mapping[str, float]) -> None:
        set_strengths(self.transformer, {name: w for name, w in weights.items() if w})
        self._loras = dict(weights)

    def _check_known(self, wanted: Sequence[str]) -> None:
        if absent := [name for name in wanted if name not in self._loras]:
            raise ParameterError(f"no LoRA is called {absent}; there are {sorted(self._loras)}")

    def _refuse_fused(self) -> None:
        if self._are_fused:
            raise ParameterError("LoRAs are fused into the weights; call unfuse_lora() first")


def refuse_loaded(pipeline: LoraMixin) -> None:
    """Refuse to save a denoiser whose weights have adapters among them.

    Raises:
        CheckpointError: LoRAs are loaded.
    """
    if pipeline.loras:
        raise CheckpointError(
            f"LoRAs {sorted(pipeline.loras)} are loaded; unload_lora_weights() to save the model "
            "without them, bake_lora() to save it with them"
        )


def _found(source: str | Path | HubSource, inside: str, hub: Hub) -> Path:
    """The file or folder of a LoRA.

    Args:
        source: As a caller gave it.
        inside: Path in the folder or repository that it names; empty for the whole.
        hub: Where to download from.

    Raises:
        ParameterError: A file in something that is a file itself.
        CheckpointError: It cannot be had.
    """
    if inside and (isinstance(source, HubSource) or Path(source).is_file()):
        raise ParameterError(f"weight_name and subfolder {inside!r} are for folders, not {source}")
    if isinstance(source, HubSource):
        return hub.fetch(source)
    path = Path(source)
    if not path.exists() and path.suffix != ".safetensors" and is_repository(path.as_posix()):
        return hub.fetch(HubSource(path.as_posix(), inside))
    return path / inside


def _strength(weight: object) -> float:
    """A weight, checked.

    Raises:
        ParameterError: It is no number, or not a finite one.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not isfinite(weight):
        raise ParameterError(f"weight {weight!r} of a LoRA must be a finite number")
    return float(weight)
