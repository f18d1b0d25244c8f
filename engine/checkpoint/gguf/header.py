"""The header of a GGUF file: metadata, and where each tensor lies. Every count is checked against the file's size
first.

Little endian: "GGUF", u32 version, u64 tensors, u64 pairs; pairs of string key, u32 type and value; tensors of string
name, u32 sides, u64 each side (the innermost first), u32 block type, u64 offset from the data, which begins at a
multiple of ``general.alignment``. A string is a u64 length and bytes.
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engine.checkpoint.safetensors_header import bad_file, check_fetched
from engine.errors import ModelLoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_SIDES = 4
MAX_DEPTH = 1
"""Arrays of arrays are in no file that matters."""
DEFAULT_ALIGNMENT = 32
_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf$")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class BlockType(NamedTuple):
    """How a tensor's numbers are stored: ``values`` of them in ``num_bytes``."""

    name: str
    values: int
    num_bytes: int


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    20: BlockType("IQ4_NL", 32, 18),
    23: BlockType("IQ4_XS", 256, 136),
    30: BlockType("BF16", 1, 2),
    39: BlockType("MXFP4", 32, 17),
}
"""By their numbers in the file."""
NOT_READ = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8",
    33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4",
    41: "Q1_0",
}  # fmt: skip
"""The names of the others (``enum ggml_type`` of ggml.h)."""


@dataclass(frozen=True)
class GgufTensor:
    file: Path
    type: BlockType
    shape: tuple[int, ...]
    """Rows first, as everywhere else."""
    offset: int
    """First byte in the file."""

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.values * self.type.num_bytes

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class GgufFile:
    """One file, or all parts of a split one."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture: ``get("block_count")`` is that of ``qwen3.block_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_gguf(path: Path) -> GgufFile:
    """The header of ``path``, and of the other parts where it is one of a split file.

    Raises ``ModelLoadError`` where it is damaged, cut off, holds types of blocks that are not read, or parts are
    missing.
    """
    first = _read_part(path)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return first
    name = _SPLIT_NAME.fullmatch(path.name)
    if name is None or int(name[3]) != count:
        raise bad_file(
            path, f"it is one of {count} parts, but its name does not say which (...-00001-of-{count:05d}.gguf)"
        )
    tensors: dict[str, GgufTensor] = {}
    metadata = first.metadata
    for number in range(1, count + 1):
        part = path.with_name(f"{name[1]}-{number:05d}-of-{count:05d}.gguf")
        if not part.is_file():
            raise bad_file(path, f"it is one of {count} parts, and {part.name} is missing; download it as well")
        found = first if part == path else _read_part(part)
        if doubled := sorted(tensors.keys() & found.tensors.keys()):
            raise bad_file(part, f"tensor {doubled[0]!r} is in another part as well")
        tensors |= found.tensors
        metadata = found.metadata if number == 1 else metadata
    return GgufFile(path, metadata, tensors)


def find_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds one (or the first part of one); raises ``ModelLoadError`` where it is not
    clear which."""
    files = sorted(folder.glob("*.gguf"))
    parts = {name[1] for file in files if (name := _SPLIT_NAME.fullmatch(file.name))}
    whole = [file for file in files if not _SPLIT_NAME.fullmatch(file.name)]
    if len(whole) + len(parts) > 1:
        raise ModelLoadError(
            f"{folder} holds {len(whole) + len(parts)} GGUF models ({files[0].name}, ...); name the file that is meant"
        )
    return files[0] if files else None


def _read_part(path: Path) -> GgufFile:
    check_fetched(path)
    with path.open("rb") as stream:
        size = path.stat().st_size
        if size < 24:
            raise bad_file(path, f"it has {size} bytes, but a GGUF file has at least 24; download it again")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Parser(path, data).parse()
            except (struct.error, UnicodeDecodeError, OverflowError) as error:
                raise bad_file(path, f"its header is not valid ({error}); it is damaged or cut off") from error


class _Parser:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 0

    def parse(self) -> GgufFile:
        if self._bytes(4) != MAGIC:
            raise bad_file(self.path, "it does not begin like a GGUF file")
        version = self._number("I")
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise bad_file(
                self.path, "its numbers are big endian, as for s390x; take the little-endian file of everybody else"
            )
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise bad_file(self.path, f"it is GGUF of version {version}; versions {known} are read")
        num_tensors, num_pairs = self._count("tensors", 24), self._count("pairs of metadata", 13)
        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self._string()
            if key in metadata:
                raise bad_file(self.path, f"its metadata hold {key!r} twice")
            metadata[key] = self._value(self._number("I"), key)
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment > 1 << 20:
            raise bad_file(self.path, f"its general.alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise bad_file(self.path, f"it holds tensor {name!r} twice")
            tensors[name] = self._tensor(name, shape, kind, start + offset)
        return GgufFile(self.path, metadata, tensors)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        block = BLOCK_TYPES.get(kind)
        if block is None:
            known = ", ".join(known.name for known in BLOCK_TYPES.values())
            raise bad_file(
                self.path,
                f"tensor {name!r} has the block type {NOT_READ.get(kind, 'of an unknown kind')} (number {kind}), which "
                f"is not read; read are {known}. Take the file in another of these",
            )
        if shape[-1] % block.values:
            raise bad_file(self.path, f"tensor {name!r} has rows of {shape[-1]} values, no multiple of {block.values}")
        tensor = GgufTensor(self.path, block, shape, offset)
        if offset + tensor.num_bytes > self.size:
            raise bad_file(
                self.path,
                f"tensor {name!r} should end at byte {offset + tensor.num_bytes:,}, but the file has {self.size:,}; "
                "it is damaged or cut off: download it again",
            )
        return tensor

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_sides = self._string(), self._number("I")
        if not 1 <= num_sides <= MAX_SIDES:
            raise bad_file(self.path, f"tensor {name!r} has {num_sides} sides")
        sides = [self._number("Q") for _ in range(num_sides)]
        if not all(sides):
            raise bad_file(self.path, f"tensor {name!r} has a side of no length")
        return name, tuple(reversed(sides)), self._number("I"), self._number("Q")

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth == MAX_DEPTH:
            raise bad_file(self.path, f"its metadata {key!r} has the unknown type {kind}")
        inner = self._number("I")
        size = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        length = self._count(f"values of {key!r}", size)
        if inner in _SCALARS:
            return list(struct.unpack(f"<{length}{_SCALARS[inner]}", self._bytes(length * size)))
        return [self._value(inner, key, depth + 1) for _ in range(length)]

    def _number(self, code: str) -> Any:
        size = struct.calcsize(code)
        return struct.unpack("<" + code, self._bytes(size))[0]

    def _count(self, what: str, min_bytes: int) -> int:
        """Of things that take at least ``min_bytes`` each: more than the file can hold is refused at once."""
        count: int = self._number("Q")
        if count * min_bytes > self.size - self.at:
            raise bad_file(self.path, f"its header speaks of {count:,} {what}, but the file has {self.size:,} bytes")
        return count

    def _string(self) -> str:
        return self._bytes(self._count("bytes of a string", 1)).decode()

    def _bytes(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise bad_file(self.path, f"its header goes on beyond its {self.size:,} bytes; download it again")
        self.at += count
        return self.data[self.at - count : self.at]
