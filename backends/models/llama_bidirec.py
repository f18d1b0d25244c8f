"""NVIDIA's bidirectional Llama (llama-nemotron-rerank-1b-v2): Llama whose tokens see all of their pair, with a mean.

Written from what is published of the network; the code beside its weights is never run.
"""

from engine.backends.models.llama import CHECKPOINT_PREFIX, build

__all__ = ["CHECKPOINT_PREFIX", "build"]
