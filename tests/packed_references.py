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


def _halves(block: bytes, *places: int) -> list[float]:
    return [float(np.frombuffer(block, np.float16, 1, place)[0]) for place in places]


def _nibbles(block: bytes) -> list[int]:
    """Low nibbles of all bytes, then high ones."""
    return [byte & 15 for byte in block] + [byte >> 4 for byte in block]


def _fifth_bits(block: bytes) -> list[int]:
    bits = int.from_bytes(block, "little")
    return [bits >> i & 1 for i in range(32)]


def _q8_0(block: bytes) -> list[float]:
    scale = _halves(block, 0)[0]
    return [scale * value for value in np.frombuffer(block, np.int8, 32, 2).tolist()]


def _q4_0(block: bytes) -> list[float]:
    scale = _halves(block, 0)[0]
    return [scale * (code - 8) for code in _nibbles(block[2:])]


def _q4_1(block: bytes) -> list[float]:
    scale, least = _halves(block, 0, 2)
    return [scale * code + least for code in _nibbles(block[4:])]


def _q5_0(block: bytes) -> list[float]:
    scale, codes = _halves(block, 0)[0], _nibbles(block[6:])
    fifths = _fifth_bits(block[2:6])
    return [scale * (c + 16 * f - 16) for c, f in zip(codes, fifths, strict=True)]


def _q5_1(block: bytes) -> list[float]:
    (scale, least), codes = _halves(block, 0, 2), _nibbles(block[8:])
    fifths = _fifth_bits(block[4:8])
    return [scale * (c + 16 * f) + least for c, f in zip(codes, fifths, strict=True)]


def _q4_k(block: bytes) -> list[float]:
    """8 groups of 32 values; their scales and offsets are 6 bits each, spread over 12 bytes."""
    (scale, offset), packed, codes = _halves(block, 0, 2), block[4:16], block[16:]
    values = []
    for group in range(8):
        if group < 4:
            own, least = packed[group] & 63, packed[group + 4] & 63
        else:
            own = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4
            least = packed[group + 4] >> 4 | packed[group] >> 6 << 4
        start, shift = group // 2 * 32, group % 2 * 4
        for code in codes[start : start + 32]:
            values.append(scale * own * (code >> shift & 15) - offset * least)
    return values


def _q6_k(block: bytes) -> list[float]:
    """2 halves of 128 values; 4 low bits in 128 bytes, 2 high bits in 64, 16 scales."""
    low, high = block[:128], block[128:192]
    scales, scale = np.frombuffer(block, np.int8, 16, 192).tolist(), _halves(block, 208)[0]
    values = []
    for index in range(256):
        half, quarter, place = index // 128, index % 128 // 32, index % 32
        nibble = low[half * 64 + quarter % 2 * 32 + place] >> (quarter // 2 * 4) & 15
        code = nibble | (high[half * 32 + place] >> (2 * quarter) & 3) << 4
        values.append(scale * scales[index // 16] * (code - 32))
    return values


def _ggml_mxfp4(block: bytes) -> list[float]:
    values: list[float] = e2m1(np.array(_nibbles(block[1:]))) * 2.0 ** (block[0] - 127)
    return list(values)


GGML = {
    "Q8_0": (34, (0,), _q8_0),
    "Q4_0": (18, (0,), _q4_0),
    "Q4_1": (20, (0, 2), _q4_1),
    "Q5_0": (22, (0,), _q5_0),
    "Q5_1": (24, (0, 2), _q5_1),
    "Q4_K": (144, (0, 2), _q4_k),
    "Q6_K": (210, (208,), _q6_k),
    "MXFP4": (17, (), _ggml_mxfp4),
}
"""Bytes of a block, where in it float16 numbers stand, and how it is read."""
