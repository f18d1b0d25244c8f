"""GGUF files, read without torch: the header, and from its metadata a config, a tokenizer and the names of tensors."""
