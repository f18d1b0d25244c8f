"""What a checkpoint's small files and headers say of how its weights are stored, for ``engine plan``."""

from __future__ import annotations

from engine.backends.loading.checkpoint import FILES, quantization_settings
from engine.backends.loading.formats.gguf import StoredBlocks, find_blocks

SETTINGS_FILES = tuple(FILES)
"""Beside config.json."""

__all__ = ["SETTINGS_FILES", "StoredBlocks", "find_blocks", "quantization_settings"]
