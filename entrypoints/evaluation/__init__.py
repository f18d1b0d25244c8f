"""Quality of a model on judged data: read, rank first, rerank, measure, compare."""
