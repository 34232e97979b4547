"""Which of the faster paths a pipeline takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from lens_core.errors import ParameterError

CompileMode = Literal["default", "max-autotune-no-cudagraphs"]

Fp8Layers = Literal["careful", "all"]
"""Which matrix products are computed in 8 bits.

`careful`: those of the image stream but for the MLPs' last, whose inputs range furthest; the text
stream, whose values reach 10,000, stays in bfloat16, and takes a twentieth of the operations.
`all`: every product of attention and MLPs. Modulations, norms, embedders and what comes after the
blocks are never rounded.
"""

ATTENTION_BACKENDS = (
    "native",
    "_native_cudnn",
    "_native_flash",
    "_native_efficient",
    "_native_math",
    "flash",
    "_flash_3",
)
"""Names of diffusers' dispatcher that need nothing from the network and take bfloat16 values."""


@dataclass(frozen=True)
class SpeedPlan:
    """Switches, each independent of the others.

    Attributes:
        reuse_branches: Project the text and compute rotary tables once per generation.
        modulation_table: Tabulate the modulations of the schedule and keep their weights on the
            CPU. To the bit for one picture at a time. None leaves it as it is, since memory plans
            use the same table.
        compile_blocks: Compile one transformer block and use it for all (`torch.compile`, by
            diffusers' `compile_repeated_blocks`); None leaves them as they are.
        dynamic_shapes: Where something is compiled, whether one compilation serves all sizes. None
            lets torch decide: the first size alone, then all.
        fused_qk: Normalise and rotate queries and keys in one Triton kernel.
        fused_mlp: Compute the two products that an MLP begins with as one. Left out where a memory
            plan moves the denoiser's weights.
        fp8: Compute matrix products in 8 bits, weights and activations both, from bfloat16; see
            `Fp8Layers`. Pictures differ. Needs Ada, Hopper or newer, and is slower than bfloat16
            unless blocks are compiled.
        cuda_graphs: Launch a whole forward pass at once, from the second call of a shape on. Left
            out where there is no CUDA or a memory plan moves the denoiser's weights.
        attention: Attention kernel, one of `ATTENTION_BACKENDS`; None leaves the choice to torch.
        channels_last_vae: Keep the autoencoder's images with channels innermost.
        compile_vae: Compile the autoencoder's decoder.

    Raises:
        ParameterError: A mode or kernel that is not known.
    """

    reuse_branches: bool = True
    modulation_table: bool | None = None
    compile_blocks: CompileMode | None = None
    dynamic_shapes: bool | None = None
    fused_qk: bool = False
    fused_mlp: bool = False
    fp8: Fp8Layers | None = None
    cuda_graphs: bool = False
    attention: str | None = None
    channels_last_vae: bool = False
    compile_vae: bool = False

    @property
    def changes_denoiser(self) -> bool:
        """Whether the denoiser takes another path than the plain one."""
        switches = (self.reuse_branches, self.modulation_table, self.fused_qk, self.fused_mlp)
        choices = (self.compile_blocks, self.fp8, self.attention)
        return any(switches) or self.cuda_graphs or any(one is not None for one in choices)

    @property
    def rounds(self) -> bool:
        """Whether numbers are rounded further than the model's precision does."""
        return self.fp8 is not None

    @property
    def changes_vae(self) -> bool:
        """Whether the autoencoder takes another path than the plain one."""
        return self.channels_last_vae or self.compile_vae

    def __post_init__(self) -> None:
        modes = (None, "default", "max-autotune-no-cudagraphs")
        if self.compile_blocks not in modes:
            raise ParameterError(f"compile_blocks {self.compile_blocks!r} must be one of {modes}")
        if self.fp8 not in (None, *get_args(Fp8Layers)):
            raise ParameterError(f"fp8 {self.fp8!r} must be None, 'careful' or 'all'")
        if self.attention is not None and self.attention not in ATTENTION_BACKENDS:
            raise ParameterError(
                f"attention {self.attention!r} must be one of {ATTENTION_BACKENDS}: others "
                "download code or hold values in a format that Lens overflows"
            )


PLAIN = SpeedPlan(reuse_branches=False, modulation_table=False)
"""Nothing: what the others are compared with."""

EXACT = SpeedPlan(modulation_table=True)
"""What changes no bit of a picture drawn alone and needs no compiler."""

FAST = SpeedPlan(
    modulation_table=True,
    compile_blocks="default",
    fused_mlp=True,
    channels_last_vae=True,
    compile_vae=True,
)
"""Everything that is expected to help on a GPU; the first picture of a size waits for compilers."""

PLANS: Mapping[str, SpeedPlan] = MappingProxyType(
    {
        "plain": PLAIN,
        "exact": EXACT,
        "fast": FAST,
        "fp8": replace(FAST, fp8="careful"),
        "fp8-all": replace(FAST, fp8="all"),
        "graphs": replace(FAST, cuda_graphs=True),
        "reuse-branches": replace(PLAIN, reuse_branches=True),
        "modulation-table": replace(PLAIN, modulation_table=True),
        "compile-blocks": replace(PLAIN, compile_blocks="default"),
        "fused-qk": replace(PLAIN, fused_qk=True),
        "fused-mlp": replace(PLAIN, fused_mlp=True),
        "fp8-products": replace(PLAIN, fp8="careful"),
        "cuda-graphs": replace(PLAIN, cuda_graphs=True),
        "channels-last-vae": replace(PLAIN, channels_last_vae=True),
        "compile-vae": replace(PLAIN, compile_vae=True),
    }
)
"""By name: those to choose from, and each switch alone for measuring."""

SWITCHES = (
    "reuse-branches",
    "modulation-table",
    "compile-blocks",
    "fused-qk",
    "fused-mlp",
    "fp8-products",
    "cuda-graphs",
    "channels-last-vae",
    "compile-vae",
)
"""Plans of one switch each."""


def named_plan(name: str) -> SpeedPlan:
    """One of `PLANS`.

    Raises:
        ParameterError: Another name.
    """
    if name not in PLANS:
        raise ParameterError(f"speed {name!r} must be one of {', '.join(PLANS)}")
    return PLANS[name]
