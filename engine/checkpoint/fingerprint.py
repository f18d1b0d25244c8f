"""What tells one checkpoint's contents from another's: names, sizes and samples of its files, cheap for any size.

Samples can miss a change of a few bytes in a large file, so a worker on the machine where the files were first read
also compares when they were written or changed (the time of change cannot be set back), and as which file.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.model_spec import HeadSpec

WHOLE_BYTES = 32 << 20
"""Files up to this size are read whole: configs, tokenizers, the modules of a head."""
NUM_SAMPLES = 1024
SAMPLE_BYTES = 4096
_FILES = ("*.safetensors", "*.gguf", "*.json", "artifact.metadata")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def files_of(folder: Path | str, head: HeadSpec, adapters: Iterable[str] = ()) -> list[str]:
    """The folders that a model's scores come from: the network's, those of its saved modules, and LoRA adapters'."""
    return [str(folder), *(module.folder for module in head.modules if module.folder), *adapters]


def fingerprint(folders: Iterable[str]) -> str:
    """16 hex digits over the weights and settings in ``folders``; of a large file, evenly spread blocks are read."""
    digest = hashlib.sha256()
    for path in _paths(folders):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
                continue
            for start in range(0, size, max(SAMPLE_BYTES, size // NUM_SAMPLES)):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def written(folders: Iterable[str]) -> str:
    """``machine:digest`` of when each file was last changed and which one it is; compare with ``was_modified``."""
    digest = hashlib.sha256()
    for path in _paths(folders):
        found = path.stat()
        digest.update(f"{path.name}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino};".encode())
    return f"{_machine()}:{digest.hexdigest()[:16]}"


def was_modified(before: str, folders: Iterable[str]) -> bool:
    """Whether the files were written since ``before``; False on another machine, where nothing can be said."""
    now = written(folders)
    return before.rpartition(":")[0] == now.rpartition(":")[0] and before != now


def _paths(folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted({path for pattern in _FILES for path in Path(folder).glob(pattern)})


def _machine() -> str:
    boot = _BOOT.read_text().strip() if _BOOT.is_file() else ""
    return hashlib.sha256(f"{platform.node()}/{boot}".encode()).hexdigest()[:8]
