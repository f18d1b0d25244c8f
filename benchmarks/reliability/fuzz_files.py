"""Damaged checkpoint files: whatever their bytes, reading ends in numbers or in a ``ModelLoadError``, never in anything
else.

``python -m benchmarks.reliability.fuzz_files --executions 1000000 [--seconds N] [--targets NAME ...]``. The executions
take turns on: bytes of GGUF headers, blocks of GGUF tensors, headers and settings of quantised safetensors, their data,
and all of torchao's and msModelSlim's files. Every execution depends on the seed, the targets and its number alone, so
that a failure can be repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.fuzz_formats import MODULE, Sample, modelslim_files, quantised, torchao_files
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.formats.gguf import open_gguf
from engine.backends.loading.formats.gguf_blocks import DECODERS
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import QuantizedTensor
from engine.checkpoint.gguf.config import config_of
from engine.checkpoint.gguf.header import BLOCK_TYPES, read_gguf
from engine.errors import ModelLoadError

INTERESTING = (0, 1, 2, 7, 8, 31, 32, 255, 256, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1, -1)
MAX_NUMBERS = 1 << 22
"""No test file holds more; a reader that says otherwise was fooled."""
TARGETS = ("gguf_header", "gguf_blocks", "quantised_header", "quantised_data", "torchao", "modelslim")
"""Methods of ``Targets``."""
WORDS = (
    "awq",
    "gptq",
    "fp8",
    "hqq",
    "modelopt",
    "bitsandbytes",
    "compressed-tensors",
    "auto-round",
    "torchao",
    "ascend",
    "W8A8",
    "W8A8_DYNAMIC",
    "FLOAT",
    "Int8Tensor",
    "Float8Tensor",
    "{",
    "",
    "int",
    "float",
)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def small_gguf() -> bytes:
    """A header with every kind of value, and four tensors."""
    pairs: list[tuple[str, int, bytes]] = [
        ("general.architecture", 8, string("qwen3")),
        ("general.alignment", 4, struct.pack("<I", 32)),
        ("qwen3.block_count", 4, struct.pack("<I", 1)),
        ("qwen3.embedding_length", 4, struct.pack("<I", 256)),
        ("qwen3.feed_forward_length", 4, struct.pack("<I", 256)),
        ("qwen3.attention.head_count", 4, struct.pack("<I", 4)),
        ("qwen3.context_length", 4, struct.pack("<I", 64)),
        ("qwen3.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6)),
        ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + string("yes") + string("no")),
        ("tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0.5, 1.5)),
        ("flag", 7, b"\x01"),
    ]
    tensors = [("token_embd.weight", (256, 2), 8), ("blk.0.attn_q.weight", (256, 8), 12),
               ("blk.0.attn_norm.weight", (256,), 0), ("cls.output.weight", (256, 2), 1)]  # fmt: skip
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    out += b"".join(string(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    at = 0
    for name, sides, kind in tensors:
        out += string(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, at)
        block = BLOCK_TYPES[kind]
        at += -(-(torch.Size(sides).numel() // block.values * block.num_bytes) // 32) * 32
    out += b"\x00" * (-len(out) % 32)
    return out + bytes(random.Random(0).randbytes(at))


def damaged(data: bytes, rng: random.Random, *, header: int) -> bytes:
    """A few bytes of the header changed, numbers put in, a piece cut out or doubled, or the end missing."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(max(1, min(header, len(out)))), rng.randrange(6)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at : at + 8] = struct.pack("<Q", rng.choice(INTERESTING) & ((1 << 64) - 1))
        elif kind == 2:
            out[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
        elif kind == 3:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        else:
            del out[rng.randrange(len(out)) :]
        if not out:
            break
    return bytes(out)


def read_all(tensors: Any) -> None:
    with TensorReader() as reader:
        for source in tensors.values():
            assert torch.Size(source.shape).numel() <= MAX_NUMBERS, "a file cannot hold so many numbers"
            for _ in source.rows(reader):
                pass
            if isinstance(source, QuantizedTensor) and source.layout is not None:
                for _ in source.grouped(reader):
                    pass


class Targets:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = small_gguf()
        self.header = self.gguf.index(b"cls.output.weight") + 60
        self.formats = quantised()
        self.torchao_files = torchao_files()
        self.modelslim_files = modelslim_files()

    def gguf_header(self, rng: random.Random) -> None:
        path = self.folder / "m.gguf"
        path.write_bytes(damaged(self.gguf, rng, header=self.header))
        file = read_gguf(path)
        config = config_of(file)
        read_all(open_gguf(path, config)[0])

    def gguf_blocks(self, rng: random.Random) -> None:
        block = BLOCK_TYPES[rng.choice([number for number, kind in BLOCK_TYPES.items() if kind.name in DECODERS])]
        raw = torch.frombuffer(bytearray(rng.randbytes(4 * block.num_bytes)), dtype=torch.uint8)
        found = DECODERS[block.name](raw.view(2, 2, -1)).numbers()
        assert found.shape == (2, 2 * block.values)

    def quantised_header(self, rng: random.Random) -> None:
        self._header(rng.choice(self.formats), rng)

    def quantised_data(self, rng: random.Random) -> None:
        self._data(rng.choice(self.formats), rng)

    def torchao(self, rng: random.Random) -> None:
        self._either(rng.choice(self.torchao_files), rng)

    def modelslim(self, rng: random.Random) -> None:
        self._either(rng.choice(self.modelslim_files), rng)

    def _either(self, sample: Sample, rng: random.Random) -> None:
        (self._header if rng.random() < 0.7 else self._data)(sample, rng)

    def _header(self, sample: Sample, rng: random.Random) -> None:
        header, data = _layout(sample.tensors)
        settings, metadata = json.loads(json.dumps([sample.settings, sample.metadata]))
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.5:
                _change(header[rng.choice(list(header))], rng)
            elif metadata and rng.random() < 0.8:
                _change(metadata, rng)
            else:
                _change(settings, rng)
        if rng.random() < 0.2:
            header.pop(rng.choice(list(header)))
        self._read(sample, header, data, settings, metadata)

    def _data(self, sample: Sample, rng: random.Random) -> None:
        header, data = _layout(sample.tensors)
        out = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(len(out))] = rng.randrange(256)
        self._read(sample, header, bytes(out), sample.settings, sample.metadata)

    def _read(
        self, sample: Sample, header: dict[str, Any], data: bytes, settings: Any, metadata: dict[str, Any]
    ) -> None:
        if metadata:  # JSON inside of strings, unless it was damaged
            texts = {name: entry if isinstance(entry, str) else json.dumps(entry) for name, entry in metadata.items()}
            header = {"__metadata__": texts, **header}
        raw = json.dumps(header).encode()
        (self.folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        config = {"quantization_config": settings}
        if sample.settings_file is not None:
            (self.folder / sample.settings_file).write_text(json.dumps(settings))
            config = {}
        read_all(open_model(str(self.folder), config, "model.").tensors)


def _layout(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], bytes]:
    names = {torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}
    names |= {torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8"}
    header: dict[str, Any] = {}
    data = b""
    for ending, tensor in tensors.items():
        raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        place = [len(data), len(data) + len(raw)]
        name = f"{MODULE}.{ending}"
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        data += raw
    return header, data


def _change(value: Any, rng: random.Random) -> None:
    """Somewhere inside, another number, word or nothing."""
    while isinstance(value, dict | list) and value:
        key: Any = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            value = inner
            continue
        value[key] = rng.choice(
            [*INTERESTING, *WORDS, None, True, [], {}, 0.5, "I32", "F16", "U8", "F8_E4M3", "BF16", 64, 16, 4]
        )
        return


def run(executions: int, *, seed: int = 0, seconds: float = 3600.0, only: Sequence[str] = TARGETS) -> Counter[str]:
    """How the executions ended; raises ``AssertionError`` with the first one that ended in any other way."""
    ended: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    logging.getLogger("engine").setLevel(logging.ERROR)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        targets: list[Callable[[random.Random], None]] = []
        for name in only:
            (inner := Path(folder) / name).mkdir()
            targets.append(getattr(Targets(inner), name))
        for number in range(executions):
            if time.monotonic() > deadline:
                break
            target = targets[number % len(targets)]
            try:
                target(random.Random(f"{seed}:{number}"))
                ended[f"{target.__name__}: read"] += 1
            except ModelLoadError:
                ended[f"{target.__name__}: refused"] += 1
            except Exception as error:
                text = traceback.format_exc()
                raise AssertionError(f"execution {number} of seed {seed} ({target.__name__}):\n{text}") from error
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    ended = run(options.executions, seed=options.seed, seconds=options.seconds, only=options.targets)
    seconds = round(time.monotonic() - started, 1)
    print(
        json.dumps({"executions": sum(ended.values()), "seed": options.seed, "seconds": seconds, "ended": dict(ended)})
    )


if __name__ == "__main__":
    main()
