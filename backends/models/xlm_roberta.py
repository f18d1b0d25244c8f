"""XLM-RoBERTa (bge-reranker-v2-m3, -base, -large, jina-reranker-v2): RoBERTa with a multilingual vocabulary."""

from engine.backends.models.roberta import CHECKPOINT_PREFIX, build

__all__ = ["CHECKPOINT_PREFIX", "build"]
