"""Which tensors a checkpoint holds, and where: the headers of its safetensors files, read without torch and checked.

Format: 8 bytes with the length N of the header, N bytes of JSON, then the data. Nothing but headers is read here; the
loader reads the data (``backends/loading/safetensors_file.py``). Formats that run code when they are opened are
refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelLoadError

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""The dtypes that are read, by their names in the format, with the bytes of one number."""
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CONVERSION_HINT = (
    "only safetensors and GGUF files are served, since opening the others can run code. Convert: "
    "engine convert MODEL -o FOLDER, which reads nothing but tensors"
)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of one file."""

    file: Path
    dtype: str
    """A key of ``ITEM_BYTES``."""
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def bad_file(file: Path, problem: str) -> ModelLoadError:
    """The error for a file that is not what it should be."""
    return ModelLoadError(f"{file} cannot be loaded: {problem}")


def check_fetched(file: Path) -> None:
    """Raises ``ModelLoadError`` where ``file`` is a git-LFS pointer, so that its content was never fetched."""
    with file.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(_LFS_POINTER):
        size = re.search(rb"size (\d+)", start)
        expected = f" of {int(size[1]):,} bytes" if size else ""
        raise bad_file(
            file, f"it is a git-LFS pointer to a file{expected}, not the file itself; run `git lfs pull` in its folder"
        )


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of ``file`` by name; raises ``ModelLoadError`` unless the file is whole and its header valid."""
    check_fetched(file)
    actual = file.stat().st_size
    if actual < 8:
        raise bad_file(file, f"it has {actual} bytes, but a safetensors file has at least 8; download it again")
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > min(actual - 8, _MAX_HEADER_BYTES):
            raise bad_file(
                file,
                f"its header should have {header_bytes:,} bytes, but the whole file has {actual:,}; "
                "it is damaged or not a safetensors file",
            )
        raw = stream.read(header_bytes)
    data_start = 8 + header_bytes
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {name: _stored_tensor(file, name, entry, data_start) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise bad_file(file, f"its header is not valid ({error}); it is damaged or not a safetensors file") from error
    expected = max((tensor.offset + tensor.num_bytes for tensor in tensors.values()), default=data_start)
    if expected != actual:
        verb = "truncated" if actual < expected else "longer than its header says"
        raise bad_file(file, f"it is {verb}: expected {expected:,} bytes, found {actual:,}; download it again")
    return tensors


def read_metadata(file: Path) -> dict[str, Any]:
    """The metadata that its writer put into the header of a valid file; empty where there is none."""
    with file.open("rb") as stream:
        found = json.loads(stream.read(int.from_bytes(stream.read(8), "little"))).get("__metadata__")
    return found if isinstance(found, dict) else {}


def _stored_tensor(file: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise bad_file(file, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not all(isinstance(size, int) and size >= 0 for size in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or an offset that is not a count")
    tensor = StoredTensor(file, dtype, shape, data_start + begin)
    if end - begin != tensor.num_bytes:
        raise ValueError(
            f"tensor {name!r} of shape {shape} needs {tensor.num_bytes} bytes, the header gives {end - begin}"
        )
    return tensor


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the checkpoint in ``folder``: of one file, or of the shards that its index names.

    Raises ``ModelLoadError`` where there is none, where it is not clear which files belong together, or where one of
    them is missing or damaged.
    """
    single, index = folder / "model.safetensors", folder / INDEX_FILE
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return _find_sharded(folder, index)
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return read_header(others[0])
    if others:
        raise ModelLoadError(
            f"{folder} has {len(others)} safetensors files ({others[0].name}, ...) but no {index.name} that says what "
            "is where; download the index file as well"
        )
    unsafe = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".gguf", ".ckpt"))
    if unsafe:
        raise ModelLoadError(f"{folder} holds its weights as {unsafe[0]}, and {_CONVERSION_HINT}")
    raise ModelLoadError(f"{folder} holds no safetensors file: neither model.safetensors nor {index.name}")


def _find_sharded(folder: Path, index: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = dict(json.loads(index.read_bytes())["weight_map"])
        files = sorted(set(weight_map.values()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise bad_file(index, f"it is not a valid index of shards ({error!r})") from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise bad_file(index, f"it names the shard {name!r}, which is not a plain file name")
        if not (folder / name).is_file():
            raise bad_file(index, f"shard {name} is missing ({len(files)} shards are named); download it again")
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        tensors |= read_header(folder / name)
    if absent := [name for name in weight_map if name not in tensors]:
        raise bad_file(index, f"tensor {absent[0]!r} is in no shard, though it should be in {weight_map[absent[0]]}")
    return tensors
