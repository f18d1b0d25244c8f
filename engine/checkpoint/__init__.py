"""What a checkpoint is, read from its files without torch: its folder, family, head, prompt and tensor names."""
