"""``engine mcp``: the reranker as a tool of the Model Context Protocol."""
