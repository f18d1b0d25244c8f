"""Damaged checkpoint files: whatever their bytes, reading ends in numbers or in a ``ModelLoadError``, never in anything
else.

``python -m benchmarks.reliability.fuzz_files --executions 1000000 [--seconds N]``. A quarter of the executions each:
bytes of GGUF headers, blocks of GGUF tensors, headers and settings of quantised safetensors, and their data. Every
execution depends on the seed and its number alone, so that a failure can be repeated.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
WORDS = (
    "awq",
    "gptq",
    "fp8",
    "hqq",
    "modelopt",
    "bitsandbytes",
    "compressed-tensors",
    "auto-round",
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
        self.formats = [(tensors, settings) for tensors, settings in quantised()]

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
        tensors, settings = rng.choice(self.formats)
        header, data = _layout(tensors)
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.5:
                entry = header[rng.choice(list(header))]
                _change(entry, rng)
            else:
                settings = json.loads(json.dumps(settings))
                _change(settings, rng)
        if rng.random() < 0.2:
            header.pop(rng.choice(list(header)))
        self._read(header, data, settings)

    def quantised_data(self, rng: random.Random) -> None:
        tensors, settings = rng.choice(self.formats)
        header, data = _layout(tensors)
        out = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(len(out))] = rng.randrange(256)
        self._read(header, bytes(out), settings)

    def _read(self, header: dict[str, Any], data: bytes, settings: dict[str, Any]) -> None:
        raw = json.dumps(header).encode()
        (self.folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        read_all(open_model(str(self.folder), {"quantization_config": settings}, "model.").tensors)


def quantised() -> list[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """One small module in each format, as random words in the right shapes."""
    generator = torch.Generator().manual_seed(0)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(1 << 31), (1 << 31) - 1, shape, generator=generator, dtype=torch.int64).int()

    def numbers(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) + 0.1).to(dtype)

    def packed(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def compressed(layout: str, **weights: Any) -> dict[str, Any]:
        group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
        return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}

    fp8 = torch.float8_e4m3fn
    shape = torch.tensor([16, 64])
    grouped = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    return [
        ({"qweight": words(64, 2), "qzeros": words(2, 2), "scales": numbers(2, 16)},
         {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
        ({"qweight": words(8, 16), "qzeros": words(2, 2), "scales": numbers(2, 16),
          "g_idx": torch.arange(64).int() // 32}, {"quant_method": "gptq", "bits": 4, "group_size": 32}),
        ({"weight_packed": words(16, 8), "weight_scale": numbers(16, 2), "weight_shape": shape},
         compressed("pack-quantized", **grouped)),
        ({"weight_packed": packed(16, 32), "weight_scale": numbers(16, 4).to(fp8),
          "weight_global_scale": numbers(1).float()},
         compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)),
        ({"weight": numbers(16, 64).to(fp8), "weight_scale": numbers(16, 1)},
         compressed("float-quantized", num_bits=8, type="float", strategy="channel")),
        ({"weight": numbers(16, 64).to(fp8), "weight_scale_inv": numbers(1, 1).float()},
         {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ({"weight": packed(16, 32), "weight_scale": numbers(16, 4).to(fp8), "weight_scale_2": numbers().float()},
         {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
        ({"W_q": packed(16, 32), "scale": numbers(32, 1), "zero": numbers(32, 1), "shape": shape},
         {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 32, "axis": 1}}}),
        ({"weight": packed(512, 1), "weight.absmax": numbers(16).float(), "weight.quant_map": numbers(16).float(),
          "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(b'{"shape": [16, 64], "blocksize": 64}')).byte()},
         {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ]  # fmt: skip


def _layout(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], bytes]:
    names = {torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}
    names[torch.float8_e4m3fn] = "F8_E4M3"
    header: dict[str, Any] = {}
    data = b""
    for ending, tensor in tensors.items():
        raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        place = [len(data), len(data) + len(raw)]
        name = f"model.layers.0.mlp.up_proj.{ending}"
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


def run(executions: int, *, seed: int = 0, seconds: float = 3600.0) -> Counter[str]:
    """How the executions ended; raises ``AssertionError`` with the first one that ended in any other way."""
    ended: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    logging.getLogger("engine").setLevel(logging.ERROR)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        for inner in ("gguf", "safetensors"):
            (Path(folder) / inner).mkdir()
        first, second = Targets(Path(folder) / "gguf"), Targets(Path(folder) / "safetensors")
        targets: list[Callable[[random.Random], None]] = [
            first.gguf_header, first.gguf_blocks, second.quantised_header, second.quantised_data,
        ]  # fmt: skip
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
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    ended = run(options.executions, seed=options.seed, seconds=options.seconds)
    seconds = round(time.monotonic() - started, 1)
    print(
        json.dumps({"executions": sum(ended.values()), "seed": options.seed, "seconds": seconds, "ended": dict(ended)})
    )


if __name__ == "__main__":
    main()
