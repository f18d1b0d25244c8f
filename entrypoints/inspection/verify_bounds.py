"""What a lower precision may cost: bounds on scores and on the order, for each, with the reason for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Against float32, over all queries."""

    logit_share: float
    """Largest difference of a logit, as a share of the range of the float32 logits."""
    score: float
    """Largest difference of a score that is a probability (or a tanh); other scores are logits."""
    tau: float
    """Smallest Kendall tau of the order within each query."""
    top1_share: float
    """Largest share of queries that may get another first document."""
    reason: str


_EIGHT_BITS = "8 bits hold a weight to about 0.4 % of its row's largest: close documents may swap, the first one stays"
BOUNDS: dict[str, Bounds] = {
    "float16": Bounds(
        logit_share=0.02, score=0.02, tau=0.95, top1_share=0.0,
        reason="11 bits of precision: a score moves in its third digit, and only near ties swap",
    ),
    "int16": Bounds(
        logit_share=0.02, score=0.02, tau=0.95, top1_share=0.0,
        reason="16 bits a factor: a score moves in its third digit, and only near ties swap",
    ),
    "bfloat16": Bounds(
        logit_share=0.1, score=0.05, tau=0.9, top1_share=0.1,
        reason="8 bits of precision: sums over a layer keep two digits, so close documents may swap",
    ),
    "int8": Bounds(logit_share=0.25, score=0.1, tau=0.85, top1_share=0.1, reason=_EIGHT_BITS),
    "fp8": Bounds(
        logit_share=0.25, score=0.1, tau=0.85, top1_share=0.1,
        reason="4 bits of precision with a scale a row: as int8, with larger errors of large weights",
    ),
    "w8a8": Bounds(logit_share=0.25, score=0.1, tau=0.85, top1_share=0.1, reason=_EIGHT_BITS),
    "int4": Bounds(
        logit_share=0.5, score=0.2, tau=0.75, top1_share=0.2,
        reason="15 values a weight: an offer for lack of memory, whose order is still mostly that of float32",
    ),
}  # fmt: skip


def bounds_of(setting: str) -> Bounds:
    """The bounds of a setting such as ``bfloat16 int8``: the loosest of its parts."""
    found = [BOUNDS[part] for part in setting.split() if part in BOUNDS]
    return max(found, key=lambda bounds: bounds.logit_share, default=BOUNDS["int8"])
