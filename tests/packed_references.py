"""Packed number formats read bit by bit with numpy, independently of the code under test."""

import numpy as np


def e2m1(codes: np.ndarray) -> np.ndarray:
    """4-bit floats from their sign, exponent and mantissa bits."""
    sign, exponent, mantissa = codes >> 3 & 1, codes >> 1 & 3, codes & 1
    normal = (1 + mantissa / 2) * 2.0 ** (exponent.astype(int) - 1)
    return np.where(sign == 1, -1.0, 1.0) * np.where(exponent == 0, mantissa / 2, normal)


def e4m3(codes: np.ndarray) -> np.ndarray:
    """8-bit floats from their bits; exponent bias 7, no infinity."""
    sign, exponent, mantissa = codes >> 7 & 1, codes >> 3 & 15, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7)
    small = mantissa / 8 * 2.0**-6
    return np.where(sign == 1, -1.0, 1.0) * np.where(exponent == 0, small, normal)


def unswizzled(blocked: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Scales of one matrix, one by one by their address in tiles of 128 x 4."""
    flat, wide = blocked.reshape(-1), -(-columns // 4)
    plain = np.empty((rows, columns), flat.dtype)
    for row in range(rows):
        for column in range(columns):
            tile = row // 128 * wide + column // 4
            inside = row % 32 * 16 + row % 128 // 32 * 4 + column % 4
            plain[row, column] = flat[tile * 512 + inside]
    return plain


def mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """`[..., groups, 16]` bytes, LOW nibble first, to `[..., groups * 32]`."""
    codes = np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(*blocks.shape[:-1], 32)
    values = e2m1(codes) * 2.0 ** (scales.astype(int) - 127)[..., None]
    return values.reshape(*blocks.shape[:-2], -1)


def nvfp4(packed: np.ndarray, scales: np.ndarray, overall: float) -> np.ndarray:
    """One matrix of `[rows, columns / 2]` bytes, HIGH nibble first."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    codes = np.stack((packed >> 4, packed & 15), axis=-1).reshape(rows, columns)
    steps = e4m3(unswizzled(scales, rows, columns // 16)) * overall
    return e2m1(codes) * np.repeat(steps, 16, axis=1)


def mxfp8(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """One matrix of `[rows, columns]` bytes."""
    rows, columns = packed.shape
    steps = 2.0 ** (unswizzled(scales, rows, columns // 32).astype(int) - 127)
    return e4m3(packed) * np.repeat(steps, 32, axis=1)
