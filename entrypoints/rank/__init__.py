"""``engine rerank``: rank lines, paragraphs or files."""
