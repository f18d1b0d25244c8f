"""``engine.LLM``: the engine inside the caller's process."""
