"""Compiles every Triton kernel for real GPUs, as Triton can without one; prints what each needs.

A program of its own: under `TRITON_INTERPRET`, which the kernels' other tests set, nothing is
compiled. One line of JSON for each kernel and target.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lens_core.checkpoints.formats import mxfp4_triton
from lens_core.speed import triton_kernels

TARGETS = (80, 90, 120)
"""A100, and near enough the 30 and 40 series; H100 and H200; the 50 series."""

QK = {
    **dict.fromkeys(("qkv", "query_weight", "key_weight", "out"), "*bf16"),
    **dict.fromkeys(("cosines", "sines"), "*fp32"),
    **dict.fromkeys(("rows", "tokens", "joint_tokens", "offset"), "i32"),
    "eps": "fp32",
}
GROUPED = {
    **dict.fromkeys(("rows", "bias", "out"), "*bf16"),
    "counts": "*i64",
    **dict.fromkeys(("blocks", "scales"), "*u8"),
    **dict.fromkeys(("experts", "outputs", "inputs"), "i32"),
}


def kernels() -> Iterator[tuple[str, Any, dict[str, str], dict[str, int], dict[str, int]]]:
    """Name, kernel, types of its arguments, its constants at the published sizes, options."""
    unpack = {"blocks": "*u8", "scales": "*u8", "out": "*bf16", "count": "i32"}
    yield "unpack", mxfp4_triton._unpack, unpack, {"SIZE": 1024}, {}
    sizes = {"heads": 24, "head_dim": 64, "padded_heads": 32, "padded_dim": 64}
    yield "qk", triton_kernels._qk_norm_rotary, QK, sizes, {}
    for tile in (*mxfp4_triton.TILES, mxfp4_triton.LARGEST):
        constants = {
            "padded_experts": 32,
            "tile_rows": tile.rows,
            "tile_outputs": tile.outputs,
            "tile_inputs": tile.inputs,
        }
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        kernel = mxfp4_triton.grouped_kernel
        yield f"grouped, {tile.rows} rows", kernel, GROUPED, constants, options
        if tile == mxfp4_triton.tile_for(1, 1, torch.float32):
            wide = {**GROUPED, **dict.fromkeys(("rows", "bias", "out"), "*fp32")}
            yield f"grouped, {tile.rows} rows, float32", kernel, wide, constants, options


def spilled(binary: bytes) -> int:
    """Bytes of a thread's registers that went to memory, as NVIDIA's tool in Triton says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        tool = triton.knobs.nvidia.cuobjdump.path
        report = subprocess.run(
            [tool, "-res-usage", path], capture_output=True, text=True, check=True
        ).stdout
    return sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", report)))


def main() -> None:
    """Compile everything for all targets, or for those named."""
    targets = [int(text) for text in sys.argv[1:]] or TARGETS
    for name, kernel, types, constants, options in kernels():
        signature = {**types, **dict.fromkeys(constants, "constexpr")}
        # As in a real call, pointers and the published sizes are multiples of 16.
        even = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values())
                if kind != "fp32"}  # fmt: skip
        for target in targets:
            source = ASTSource(kernel, signature, constants, even)
            made = triton.compile(source, GPUTarget("cuda", target, 32), options)
            shared, spills = made.metadata.shared, spilled(made.asm["cubin"])
            print(json.dumps({"kernel": name, "sm": target, "shared": shared, "spilled": spills}))


if __name__ == "__main__":
    main()
