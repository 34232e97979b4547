"""The published models by name: where each part can be had, in which order, and how it is run.

The publisher has withdrawn `microsoft/Lens`, so that every part has several sources. Files whose
sha256 is on record come first; revisions are pinned where they are on record. The text encoder is
stock GPT-OSS-20B, the autoencoder that of FLUX.2. `Jinstudio` is the only known source of
Lens-Base.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from lens_core.checkpoints.hub import HubSource
from lens_core.defaults import LensDefaults
from lens_core.errors import ParameterError

_COMFY, _COMFY_COMMIT = "Comfy-Org/Lens", "198d6ddf4d9fac0d8b0548dc9be4310452f5c146"
_SCENEWORKS, _SCENEWORKS_COMMIT = "SceneWorks/Lens", "5c5521d4417a3cae55816929ece69319d1e7712a"
_GPT_OSS, _GPT_OSS_COMMIT = "openai/gpt-oss-20b", "6cee5e81ee83917806bbde320786a8fb61efebee"
_VAE_SHA256 = "d64f3a68e1cc4f9f4e29b6e0da38a0204fe9a49f2d4053f0ec1fa1ca02f9c4b5"
_TURBO_SHA256 = "a9fc0e27261d9199d4e46e573a6b247f3cd94beec0241e61ae9eaee5ae9ef7c9"
_NVFP4_SHA256 = "103d7759c720627e5ffdcb0d885595695085dad4201fa6a522a84d4b86335ca0"
_VAE_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Preset:
    """One published model.

    Attributes:
        name: As users write it.
        defaults: Its steps and guidance.
        transformer: Sources of the denoiser, tried in this order.
        text_encoder: Sources of the text encoder; those with a head come first.
        vae: Sources of the autoencoder.
    """

    name: str
    defaults: LensDefaults
    transformer: tuple[HubSource, ...]
    text_encoder: tuple[HubSource, ...]
    vae: tuple[HubSource, ...]

    @property
    def components(self) -> Mapping[str, tuple[HubSource, ...]]:
        """Sources by the pipeline's names for its parts."""
        return {
            "transformer": self.transformer,
            "text_encoder": self.text_encoder,
            "vae": self.vae,
        }


TEXT_ENCODER = (
    HubSource(_GPT_OSS, "", _GPT_OSS_COMMIT),
    HubSource(_SCENEWORKS, "text_encoder", _SCENEWORKS_COMMIT),
    HubSource("Jinstudio/Lens", "text_encoder"),
    HubSource(
        _COMFY,
        "text_encoders/gpt_oss_20b_nvfp4.safetensors",
        _COMFY_COMMIT,
        {"gpt_oss_20b_nvfp4.safetensors": _NVFP4_SHA256},
    ),
)
"""The last one is rounded further and cannot write."""

VAE = (
    HubSource(
        _COMFY,
        "vae/flux2-vae.safetensors",
        _COMFY_COMMIT,
        {"flux2-vae.safetensors": _VAE_SHA256},
    ),
    HubSource(_SCENEWORKS, "vae", _SCENEWORKS_COMMIT, {_VAE_FILE: _VAE_SHA256}),
    HubSource("Jinstudio/Lens", "vae", None, {_VAE_FILE: _VAE_SHA256}),
)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "lens",
            LensDefaults(num_inference_steps=20, guidance_scale=5.0),
            (
                HubSource(_COMFY, "diffusion_models/lens_bf16.safetensors", _COMFY_COMMIT),
                HubSource(_SCENEWORKS, "transformer", _SCENEWORKS_COMMIT),
                HubSource("Jinstudio/Lens", "transformer"),
            ),
            TEXT_ENCODER,
            VAE,
        ),
        Preset(
            "lens-turbo",
            LensDefaults(num_inference_steps=4, guidance_scale=1.0),
            (
                HubSource(
                    _COMFY,
                    "diffusion_models/lens_turbo_bf16.safetensors",
                    _COMFY_COMMIT,
                    {"lens_turbo_bf16.safetensors": _TURBO_SHA256},
                ),
                HubSource("SceneWorks/Lens-Turbo", "transformer"),
                HubSource("Jinstudio/Lens-Turbo", "transformer"),
            ),
            TEXT_ENCODER,
            VAE,
        ),
        Preset(
            "lens-base",
            LensDefaults(num_inference_steps=50, guidance_scale=5.0),
            (HubSource("Jinstudio/Lens-Base", "transformer"),),
            TEXT_ENCODER,
            VAE,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The published model of a name.

    Raises:
        ParameterError: There is none of that name; lists those there are.
    """
    if name not in PRESETS:
        raise ParameterError(f"{name!r} is not a published model; these are: {sorted(PRESETS)}")
    return PRESETS[name]


def defaults_by_name(source: str | PurePath) -> LensDefaults:
    """Size, steps and guidance of the published model that a folder or repository is called after.

    The published folders do not state theirs, and their copies keep their names: `Lens-Turbo` is
    run as Lens-Turbo, whoever hosts it. Any other name is run as Lens.
    """
    preset = PRESETS.get(PurePath(source).name.lower())
    return LensDefaults() if preset is None else preset.defaults
