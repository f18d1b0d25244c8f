"""What tells one checkpoint's contents from another's: names, sizes and samples of its files, cheap for any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from engine.model_spec import HeadSpec

NUM_SAMPLES = 256
SAMPLE_BYTES = 4096
_FILES = ("*.safetensors", "*.gguf", "*.json")


def files_of(folder: Path | str, head: HeadSpec) -> list[str]:
    """The folders that a model's scores come from: the network's, and those of its saved modules."""
    return [str(folder), *(module.folder for module in head.modules if module.folder)]


def fingerprint(folders: Iterable[str]) -> str:
    """16 hex digits over the weights and settings in ``folders``; of a large file, evenly spread blocks are read."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for pattern in _FILES for path in Path(folder).glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name}:{size};".encode())
            step = max(SAMPLE_BYTES, size // NUM_SAMPLES)
            with path.open("rb") as file:
                for start in range(0, size, step):
                    file.seek(start)
                    digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
