"""What one GPU does with Qwen3-Reranker shapes, measured against its own ceilings and against transformers."""
