"""A full-sized 8B reranker in 4 bits on a CPU: written shard by shard, planned, loaded, served; memory and seconds.

``python -m benchmarks.serving.eight_billion --folder FOLDER --output FILE`` writes a checkpoint of Qwen3-Reranker-8B's
shape with ``quantization_config`` of compressed-tensors (4 bits in groups of 128, a file a layer, so that writing takes
the memory of one tensor; embedding and lm_head in bf16, 6.1 GB in all) with random codes: the bytes and the work of a
real file, and scores that mean nothing. It is removed afterwards unless ``--keep`` is given.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.serving.formats import MAKERS, cpu_seconds
from benchmarks.serving.full_size import QUERY, call, children, documents, peak_mb, wait_ready
from tests.support.checkpoints import make_qwen3

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY = 4096, 36, 32, 8, 128, 12288, 151_669
FORMAT = "compressed-tensors int4"
GIB = 1 << 30


def linears() -> Iterator[tuple[str, int, int]]:
    for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        yield f"self_attn.{name}_proj", rows * HEAD_DIM, HIDDEN
    yield "self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM
    yield "mlp.gate_proj", INTERMEDIATE, HIDDEN
    yield "mlp.up_proj", INTERMEDIATE, HIDDEN
    yield "mlp.down_proj", HIDDEN, INTERMEDIATE


def make(folder: Path) -> None:
    """Configuration and tokenizer come from a tiny model, whose tensors are replaced by full-sized ones."""
    make_qwen3(folder, hidden=64, layers=1, tied=False, dtype="bfloat16", name="Qwen/Qwen3-Reranker-8B")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "head_dim": HEAD_DIM,
        "num_key_value_heads": KV_HEADS, "intermediate_size": INTERMEDIATE, "vocab_size": VOCABULARY,
        "max_window_layers": LAYERS, "quantization_config": MAKERS[FORMAT](128, 128)[1],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    places: dict[str, str] = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = torch.empty(VOCABULARY, HIDDEN, dtype=torch.bfloat16).normal_(std=0.02)
        save(folder, f"{name}.safetensors", {name: table}, places)
        del table
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        tensors: dict[str, torch.Tensor] = {}
        for name, rows, columns in linears():
            made, _ = MAKERS[FORMAT](rows, columns)
            tensors |= {f"{block}.{name}.{ending}": value for ending, value in made.items()}
        norms = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN}
        for name, size in (norms | {"self_attn.q_norm": HEAD_DIM, "self_attn.k_norm": HEAD_DIM}).items():
            tensors[f"{block}.{name}.weight"] = torch.ones(size, dtype=torch.bfloat16)
        save(folder, f"layer-{layer:02d}.safetensors", tensors, places)
    save(folder, "norm.safetensors", {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)}, places)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def save(folder: Path, file: str, tensors: dict[str, torch.Tensor], places: dict[str, str]) -> None:
    save_file(tensors, folder / file, {"format": "pt"})
    places |= dict.fromkeys(tensors, file)


def resident_mb(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+)", text)[1]) // 1024 for name in ("VmRSS", "RssAnon", "RssFile")}  # type: ignore[index]


def engine(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("engine")), *arguments]


def plan(folder: Path, device: str) -> Any:
    command = engine("plan", str(folder), "--device", device, "--max-model-len", "1024", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def serve(folder: Path, flags: list[str], port: int, num_documents: int, log: Path) -> dict[str, Any]:
    """Figures of a server of its own, as a user starts it."""
    command = engine("serve", str(folder), "--device", "cpu", "--port", str(port), "--max-model-len", "1024", *flags)
    started = time.perf_counter()
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_ready(base, server)
        found: dict[str, Any] = {"flags": flags, "ready_s": round(time.perf_counter() - started, 1)}
        worker = children(children(server.pid)[0])[0]
        found |= {"load_cpu_s": round(cpu_seconds(worker), 1), "loaded_mb": resident_mb(worker)}
        body = {"query": QUERY, "documents": documents(60)[:num_documents], "return_documents": False}
        for name in ("first", "second"):
            begin, used = time.perf_counter(), cpu_seconds(worker)
            answer = json.loads(call(base, "/v1/rerank", body))
            taken = time.perf_counter() - begin
            found[f"{name}_call"] = {"s": round(taken, 1), "cpu_s": round(cpu_seconds(worker) - used, 1)}
        found |= {"usage": answer.get("usage"), "documents": num_documents, "after_calls_mb": resident_mb(worker)}
        found |= {"worker_peak_mb": round(peak_mb(worker)), "load_average": round(os.getloadavg()[0], 1)}
    finally:
        server.terminate()
        server.wait()
    return found | {"log": [line for line in log.read_text().splitlines() if "GB" in line or "loaded" in line]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--port", type=int, default=8767)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("serve_flags", nargs="*", help="after --: further flags of engine serve")
    options = parser.parse_args()
    folder = options.folder / "Qwen3-Reranker-8B-int4"
    if not (folder / "model.safetensors.index.json").exists():
        make(folder)
    try:
        found = {"file_gib": round(sum(f.stat().st_size for f in folder.iterdir()) / GIB, 2)}
        found |= {f"plan_{device}": plan(folder, device) for device in ("cpu", "l4")}
        found |= serve(folder, options.serve_flags, options.port, options.documents, options.folder / "serve.log")
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(json.dumps(found, indent=1))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
