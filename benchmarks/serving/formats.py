"""Every format that weights come in, at full size: made, loaded, served; memory, seconds to load, processor time.

``python -m benchmarks.serving.formats --folder FOLDER --output FILE [--formats NAME ...]`` makes the 0.6B-shaped
checkpoint of ``full_size`` once, and then for each format one with the same tensors outside of the linear layers and
random codes with small scales inside them: the same bytes and work as a real file, and scores that mean nothing. Each
is served on the CPU by ``engine serve`` as a user would, gets a call of ``--documents`` documents twice, and is
removed. One line of JSON a format. On a machine that others use too, compare the processor times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.serving.full_size import QUERY, call, children, documents, peak_mb, wait_ready
from tests.quantized.gguf_writer import write_gguf
from tests.support.checkpoints import dims_0_6b

GROUP = 128
FP8 = torch.float8_e4m3fn
Made = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""What a linear weight becomes, by endings, and the settings."""
FLAGS = {"bf16 to int4": ("--quantization", "int4"), "bf16 to int8": ("--quantization", "int8")}


def words(*shape: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), (1 << 31) - 1, shape, dtype=torch.int32)


def packed(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def scales(*shape: int, size: float, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return ((torch.rand(shape) + 0.5) * size).to(dtype)


def fp8_codes(n: int, k: int) -> torch.Tensor:
    return torch.randn(n, k).to(FP8)


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "type": "int", **weights}}
    return {
        "quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }  # fmt: skip


def gptq(n: int, k: int, bits: int) -> Made:
    tensors = {
        "qweight": words(k * bits // 32, n), "scales": scales(k // GROUP, n, size=0.3 / (1 << bits) / k**0.5),
        "qzeros": torch.full((k // GROUP, n * bits // 32), 0x77777777 if bits == 4 else 0x7F7F7F7F, dtype=torch.int32),
        "g_idx": torch.arange(k, dtype=torch.int32) // GROUP,
    }  # fmt: skip
    return tensors, {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": False, "sym": True}


def nf4(n: int, k: int) -> Made:
    table = torch.cat([-torch.linspace(1, 0.1, 7), torch.zeros(1), torch.linspace(0.08, 1, 8)])
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k],
                        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.02})  # fmt: skip
    tensors = {
        "weight": packed(n * k // 2, 1), "weight.absmax": packed(n * k // 64), "weight.quant_map": table,
        "weight.nested_absmax": scales(-(-n * k // 64 // 256), size=0.01, dtype=torch.float32),
        "weight.nested_quant_map": torch.linspace(-1, 1, 256),
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state.encode()), dtype=torch.uint8),
    }  # fmt: skip
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return tensors, {"quant_method": "bitsandbytes", **settings}


MAKERS: dict[str, Callable[[int, int], Made]] = {
    "compressed-tensors int8": lambda n, k: (
        {"weight": packed(n, k).view(torch.int8), "weight_scale": scales(n, 1, size=0.01 / k**0.5)},
        compressed("int-quantized", num_bits=8, strategy="channel"),
    ),
    "compressed-tensors fp8": lambda n, k: (
        {"weight": fp8_codes(n, k), "weight_scale": scales(n, 1, size=k**-0.5)},
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    ),
    "fp8 blocks": lambda n, k: (
        {"weight": fp8_codes(n, k), "weight_scale_inv": scales(n // 128, k // 128, size=k**-0.5, dtype=torch.float32)},
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    ),
    "compressed-tensors int4": lambda n, k: (
        {"weight_packed": words(n, k // 8), "weight_scale": scales(n, k // GROUP, size=0.2 / k**0.5),
         "weight_shape": torch.tensor([n, k])},
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=GROUP),
    ),
    "AWQ": lambda n, k: (
        {"qweight": words(k, n // 8), "scales": scales(k // GROUP, n, size=0.2 / k**0.5),
         "qzeros": torch.full((k // GROUP, n // 8), -0x77777778, dtype=torch.int32)},
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    ),
    "GPTQ 4 bits": lambda n, k: gptq(n, k, 4),
    "GPTQ 8 bits": lambda n, k: gptq(n, k, 8),
    "NVFP4": lambda n, k: (
        {"weight_packed": packed(n, k // 2), "weight_scale": scales(n, k // 16, size=1.0).to(FP8),
         "weight_global_scale": torch.tensor([3 * k**0.5])},
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
    ),
    "MXFP4": lambda n, k: (
        {"weight_packed": packed(n, k // 2), "weight_scale": torch.full((n, k // 32), 120, dtype=torch.uint8)},
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
    ),
    "bitsandbytes nf4": nf4,
    "bitsandbytes int8": lambda n, k: (
        {"weight": packed(n, k).view(torch.int8), "SCB": scales(n, size=k**-0.5, dtype=torch.float32),
         "weight_format": torch.tensor(0, dtype=torch.uint8)},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ),
    "HQQ": lambda n, k: (
        {"W_q": packed(n * k // 128, 64), "scale": scales(n * k // 64, 1, size=0.2 / k**0.5),
         "zero": torch.full((n * k // 64, 1), 7.5, dtype=torch.float16), "shape": torch.tensor([n, k]),
         "nbits": torch.tensor(4), "group_size": torch.tensor(64), "axis": torch.tensor(1)},
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}},
    ),
}  # fmt: skip
GGUF = {"GGUF Q8_0": ("Q8_0", "Q8_0"), "GGUF Q4_0": ("Q4_0", "Q6_K"), "GGUF Q4_K": ("Q4_K", "Q6_K")}
"""Types of linear weights and of the embedding."""
NAMES = ("bf16", *FLAGS, *MAKERS, *GGUF)


def make(base: Path, folder: Path, name: str) -> Path:
    """What ``engine serve`` takes: a folder or a file."""
    if name in GGUF:
        linear, table = GGUF[name]
        kind = {"token_embd.weight": table}
        return write_gguf(
            base, lambda stored: kind.get(stored, linear), file=f"{folder.name}.gguf", head="cls", with_twin=False
        )[0]
    if name not in MAKERS:
        return base
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for stored, tensor in load_file(base / "model.safetensors").items():
        if tensor.ndim == 2 and ".layers." in stored:
            made, settings = MAKERS[name](*tensor.shape)
            tensors |= {f"{stored.removesuffix('.weight')}.{ending}": value for ending, value in made.items()}
        else:
            tensors[stored] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def served(path: Path, flags: tuple[str, ...], port: int, num_documents: int, log: Path) -> dict[str, Any]:
    """Figures of a server of its own."""
    command = [str(Path(sys.executable).with_name("engine")), "serve", str(path), "--port", str(port)]
    started = time.perf_counter()
    with log.open("wb") as out:
        server = subprocess.Popen([*command, "--device", "cpu", *flags], stdout=out, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_ready(base, server)
        ready = time.perf_counter() - started
        worker = children(children(server.pid)[0])[0]
        loaded_mb, load_cpu = peak_mb(worker), cpu_seconds(worker)
        body = {"query": QUERY, "documents": documents(20)[:num_documents], "return_documents": False}
        seconds, cpu = [], []
        for _ in range(2):
            begin, used = time.perf_counter(), cpu_seconds(worker)
            call(base, "/v1/rerank", body)
            seconds.append(time.perf_counter() - begin)
            cpu.append(cpu_seconds(worker) - used)
        peak = peak_mb(worker)
    finally:
        server.terminate()
        server.wait()
    text = log.read_text()
    file = path if path.is_file() else path / "model.safetensors"
    bits = re.search(r"\(([0-9.]+) bits a weight\)", text)
    took = re.search(r"loaded in ([0-9.]+) ?s", text)
    return {
        "file_mb": round(file.stat().st_size / 2**20),
        "bits_a_weight": None if bits is None else float(bits[1]),
        "ready_s": round(ready, 1),
        "load_s": None if took is None else float(took[1]),
        "load_cpu_s": round(load_cpu, 1),
        "worker_peak_mb_loaded": round(loaded_mb),
        "worker_peak_mb": round(peak),
        "pairs_per_s": round(num_documents / min(seconds), 2),
        "cpu_s_a_pair": round(min(cpu) / num_documents, 3),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    base = options.folder / "base"
    if not (base / "config.json").exists():
        dims_0_6b(base)
    torch.manual_seed(0)
    for name in options.formats:
        path = make(base, options.folder / re.sub(r"\W+", "-", name), name)
        flags = FLAGS.get(name, ())
        found = {"format": name, **served(path, flags, options.port, options.documents, options.folder / "serve.log")}
        print(json.dumps(found), flush=True)
        if options.output:
            with options.output.open("a") as out:
                out.write(json.dumps(found) + "\n")
        if path != base:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
