"""Intel's AutoRound: the layouts of GPTQ, AWQ or compressed-tensors under a name of its own (``packing_format``)."""

from __future__ import annotations

from engine.backends.loading.formats import awq, compressed_tensors, gptq
from engine.backends.loading.formats.stored import Format, Stored

GPTQ_LAYOUTS = {
    "auto_round:auto_gptq": 1,
    "auto_round": 0,
    "auto_round:exllamav2": 0,
    "auto_round:gptqmodel": 0,
    "auto_round:tritonv2": 0,
}
"""Layout -> what is added to the stored zero points."""


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    layout = str(settings.get("packing_format") or settings.get("backend") or "auto_round:auto_gptq")
    if layout == "auto_round:llm_compressor":
        return compressed_tensors.read(stored)
    if settings.get("data_type", "int") != "int":
        raise stored.refuse(f"quantised with AutoRound to {settings['data_type']!r}")
    bits, group = stored.count("bits"), stored.count("group_size")
    if layout == "auto_round:auto_awq":
        for module in stored.modules("qweight"):
            awq.take(stored, module, group)
    elif layout in GPTQ_LAYOUTS:
        for module in stored.modules("qweight"):
            differs = bool(settings.get("extra_config"))
            gptq.take(stored, module, group, GPTQ_LAYOUTS[layout], bits=None if differs else bits)
    else:
        raise stored.refuse(f"quantised with AutoRound, packed as {layout!r}")
    return Format(f"AutoRound ({layout}), {bits} bits in groups of {group}")
