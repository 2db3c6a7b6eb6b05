"""Makes blocks.bin: random blocks of every type and what llama.cpp's `gguf` package widens them to.

Per type, little-endian: id (u32), number of blocks (u32), the blocks, their elements (f32).
Needs `pip install gguf` (0.19); run it in this folder.
"""

import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# (type, positions of its f16 scales)
TYPES = [
    (T.F32, None), (T.F16, [0]), (T.Q4_0, [0]), (T.Q4_1, [0, 2]), (T.Q5_0, [0]), (T.Q5_1, [0, 2]),
    (T.Q8_0, [0]), (T.Q4_K, [0, 2]), (T.Q5_K, [0, 2]), (T.Q6_K, [208]), (T.BF16, None),
]

rng = np.random.default_rng(5)
with open("blocks.bin", "wb") as out:
    for ty, scales in TYPES:
        block_len, block_bytes = GGML_QUANT_SIZES[ty]
        n = 4 if block_len > 1 else 32
        blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
        if ty == T.F32:
            blocks = rng.normal(size=n).astype("<f4").view(np.uint8).reshape(n, 4)
        if ty == T.BF16:
            blocks[:, 1] &= 0xBF  # no infinities
        for at in scales or []:
            values = rng.normal(size=n).astype(np.float16)
            values[0] = 6e-7  # a subnormal one
            blocks[:, at:at + 2] = values.view(np.uint8).reshape(n, 2)
        # the package refuses a single element of F16 in a row of its own
        values = dequantize(blocks.reshape(1, -1), ty).astype("<f4").reshape(-1)
        assert values.size == n * block_len and np.isfinite(values).all()
        out.write(struct.pack("<II", ty.value, n) + blocks.tobytes() + values.tobytes())
