"""A look inside: how one pair becomes a score, and whether every dtype gives the same order."""
