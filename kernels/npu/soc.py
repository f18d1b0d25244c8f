"""What the operators can do on which chip. Facts from the "product support" tables of torch_npu's operator pages."""

from __future__ import annotations

from dataclasses import dataclass

from engine.kernels.npu.forms import PLAIN, TILED_WEIGHTS, Forms

OLD_CHIPS = ("Ascend910A", "Ascend910Pro", "Ascend910Premium", "Ascend310B", "Ascend310V")
"""The first 910, and the 310 of edge devices; the plain 310 calls itself Ascend310."""


@dataclass(frozen=True)
class Soc:
    """One chip family, as ``torch.npu.get_device_name()`` names it, e.g. Ascend910B3, Ascend910_9391, Ascend310P3."""

    name: str

    @property
    def is_inference_series(self) -> bool:
        """310P (Atlas 300I Duo and kin): float16 only, no packed attention, no dynamic quantisation."""
        return self.name.startswith("Ascend310P")

    @property
    def why_unsupported(self) -> str | None:
        """The reason why this chip cannot run the engine, or None."""
        if self.name.startswith(OLD_CHIPS) or self.name in ("Ascend310", "Ascend910"):
            return (
                f"{self.name} has none of the operators that the engine needs; it runs on Atlas A2 (Ascend910B), A3 "
                "(Ascend910_93) and 300I Duo (Ascend310P): use one of those, or --device cpu"
            )
        return None

    @property
    def is_known(self) -> bool:
        """The operators' support tables were read for this chip."""
        return self.name.startswith(("Ascend910B", "Ascend910_93", "Ascend310P"))

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ("float16",) if self.is_inference_series else ("bfloat16", "float16", "float32")

    @property
    def forms(self) -> Forms:
        """The forms of the support tables: npu_swiglu is not listed for 310P, which unpacks plain weights slowly."""
        return Forms(swiglu=PLAIN, weights=TILED_WEIGHTS) if self.is_inference_series else Forms()

    @property
    def quantizations(self) -> tuple[str, ...]:
        return () if self.is_inference_series else ("w8a8", "int4")
