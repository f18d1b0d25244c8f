"""fp8 outside compressed-tensors: a scale for each block of 128 x 128 (DeepSeek, Qwen), a tensor or a row (AutoFP8,
FBGEMM).

``X.weight`` e4m3 (N, K) and ``X.weight_scale_inv`` (N/128, K/128): w = q scale_inv, a multiplier despite its name.
Without blocks ``X.weight_scale`` is one number, or one a row.
"""

from __future__ import annotations

from engine.backends.loading.formats import scaled
from engine.backends.loading.formats.stored import Format, Stored

UNUSED = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale")
"""Of activations: every token gets its own at run time."""


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    if stored.settings.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise stored.refuse(f"quantised to fp8 of the kind {stored.settings['fmt']!r}")
    stored.drop(*UNUSED)
    block = stored.settings.get("weight_block_size")
    if block is None:
        for module in stored.modules("weight_scale"):
            scaled.take(stored, module, stored.matrix(module, "weight", scaled.FP8), "weight_scale")
        return Format("fp8 with a scale a tensor or a row", "fp8")
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(size, int) for size in block)):
        raise stored.broken(f"weight_block_size of its quantization_config is {block!r}; expected two numbers")
    for module in stored.modules("weight_scale_inv"):
        weight = stored.matrix(module, "weight", scaled.FP8)
        scaled.take(stored, module, weight, "weight_scale_inv", block=(block[0], block[1]))
    return Format(f"fp8 in blocks of {block[0]} x {block[1]}")
