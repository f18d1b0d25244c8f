"""What one NPU does with Qwen3-Reranker shapes, against its own ceilings; the workloads are those of the GPU."""
