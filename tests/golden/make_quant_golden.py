"""Makes quant.safetensors: blocks of every stored element type with the values the `gguf` package gives them.

Run from the repository root with gguf==0.19.0, numpy and safetensors:

    python tests/golden/make_quant_golden.py

Contents, for TYPE in f16 bf16 q8_0 q4_0 q4_1 q4_k q6_k: `TYPE.bytes` (u8) and `TYPE.values` (f32), the dequantised
bytes; for TYPE in f16 bf16 q8_0 q4_0: `TYPE.quantized` (u8), the quantised `input` (f32).
"""

from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file

assert version("gguf") == "0.19.0", "the golden file is pinned to gguf 0.19.0"

rng = np.random.default_rng(20260501)
TYPES = {"f16": Q.F16, "bf16": Q.BF16, "q8_0": Q.Q8_0, "q4_0": Q.Q4_0, "q4_1": Q.Q4_1, "q4_k": Q.Q4_K, "q6_k": Q.Q6_K}
# Where a block's f16 scales lie.
SCALES = {"q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q4_k": [0, 2], "q6_k": [208]}
BLOCKS = {"q8_0": 96, "q4_0": 96, "q4_1": 96, "q4_k": 32, "q6_k": 32}
# Zeroes, the least and greatest subnormals, the least normal, one, the greatest finite value; both signs.
EXTREME = np.array([0x0000, 0x0001, 0x0002, 0x03FF, 0x0400, 0x3C00, 0x7BFF], dtype=np.uint16)
EXTREME = np.concatenate([EXTREME, EXTREME | 0x8000])


def finite_halves(n):
    """Random f16 patterns without infinities and NaNs, beginning with the extreme ones."""
    bits = rng.integers(0, 0x7C00, n, dtype=np.uint16) | (rng.integers(0, 2, n, dtype=np.uint16) << 15)
    k = min(n, len(EXTREME))
    bits[:k] = EXTREME[:k]
    return bits


out = {}
for name, qtype in TYPES.items():
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    if block == 1:
        if name == "f16":
            bits = finite_halves(2048)
        else:
            bits = rng.integers(0, 0x7F80, 2048, dtype=np.uint16) | (rng.integers(0, 2, 2048, dtype=np.uint16) << 15)
            bits[:4] = [0x0000, 0x8000, 0x0001, 0x7F7F]
        raw = bits.view(np.uint8).reshape(1, -1)
    else:
        raw = rng.integers(0, 256, (BLOCKS[name], size), dtype=np.uint8)
        for at in SCALES[name]:
            scale = finite_halves(len(raw))
            if at:
                scale = rng.permutation(scale)
            raw[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
        # One block of all zeroes and one of all ones beside ordinary scales.
        keep = raw[-2:].copy()
        raw[-2:] = np.array([[0], [255]], dtype=np.uint8)
        for at in SCALES[name]:
            raw[-2:, at : at + 2] = keep[:, at : at + 2]
    values = gguf.dequantize(raw, qtype).astype(np.float32).ravel()
    assert np.isfinite(values).all()
    out[f"{name}.bytes"] = raw.ravel().copy()
    out[f"{name}.values"] = values

x = rng.standard_normal((96, 32)).astype(np.float32)
x *= np.exp2(rng.uniform(-20, 10, (96, 1))).astype(np.float32)
x[0] = 0
x[1] = 1
x[2, :] = 0
x[2, 17] = -3.5
x[3] = np.arange(32) - 16  # equal magnitudes of both signs: the first one decides Q4_0's scale
x[4] = np.float32(2.0**-24) * rng.integers(-8, 8, 32)  # f16 subnormals
x[5] = 1 + np.arange(32) * np.float32(2.0**-12)  # ties of f16's rounding
x[6] = 1 + np.arange(32) * np.float32(2.0**-9)  # ties of bf16's rounding
x[7] = -x[5]
out["input"] = x.ravel().copy()
for name in ("bf16", "q8_0", "q4_0"):
    out[f"{name}.quantized"] = gguf.quantize(x, TYPES[name]).view(np.uint8).ravel().copy()
out["f16.quantized"] = x.astype(np.float16).view(np.uint8).ravel().copy()

path = Path(__file__).with_name("quant.safetensors")
save_file(out, path)
print(path, path.stat().st_size, "bytes")
