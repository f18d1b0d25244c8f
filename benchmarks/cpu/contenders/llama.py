"""llama.cpp through llama-cpp-python: packed sequences in one batch, the last token's embedding times the head vector.

That is what its server's reranking computes. ``convert_hf_to_gguf.py`` is in the source archive of llama-cpp-python;
``LLAMA_CPP_SOURCE`` names the folder that holds it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.cpu.contenders.base import Contender
from benchmarks.cpu.contenders.transformers_model import head_vector, load_model
from benchmarks.cpu.workloads import Workload

SOURCE_VARIABLE = "LLAMA_CPP_SOURCE"
MAX_TOKENS = 8192
CONVERTER = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: "qwen2"
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""
"""The script knows published tokenizers by a hash; the benchmark's is Qwen's in kind, and only token ids are sent."""


def convert(model: Path, work: Path, form: str) -> Path:
    """The checkpoint as GGUF in one of f32, f16, bf16, q8_0."""
    target = work / f"model-{form}.gguf"
    if not target.exists():
        source = os.environ.get(SOURCE_VARIABLE)
        if not source:
            raise RuntimeError(f"set {SOURCE_VARIABLE} to llama.cpp's source folder (inside llama-cpp-python's sdist)")
        command = [sys.executable, "-c", CONVERTER, source, str(model), "--outfile", str(target), "--outtype", form]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return target


class Llama(Contender):
    batch_sizes = (1, 4, 16)

    def __init__(self, model: Path, num_threads: int, work: Path, form: str) -> None:
        import llama_cpp

        super().__init__(model, num_threads)
        self.api = llama_cpp
        self.vector = head_vector(load_model(model), model).numpy()
        llama_cpp.llama_backend_init()
        path = convert(model, work, form)
        self.network = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = MAX_TOKENS
        settings.n_seq_max = max(self.batch_sizes)
        settings.n_threads = settings.n_threads_batch = num_threads
        settings.embeddings = True
        settings.kv_unified = True
        settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_LAST
        self.context = llama_cpp.llama_init_from_model(self.network, settings)
        self.size = llama_cpp.llama_model_n_embd(self.network)

    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        logits: list[float] = []
        for start in range(0, len(prompts), batch_size):
            logits += self._decode(prompts[start : start + batch_size])
        return logits

    def _decode(self, prompts: Sequence[Sequence[int]]) -> list[float]:
        api, num_tokens = self.api, sum(map(len, prompts))
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        batch = api.llama_batch_init(num_tokens, 0, 1)
        at = 0
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
                batch.seq_id[at][0], batch.logits[at] = sequence, 1
                at += 1
        batch.n_tokens = num_tokens
        code = api.llama_decode(self.context, batch)
        api.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with {code}")
        rows = (api.llama_get_embeddings_seq(self.context, sequence) for sequence in range(len(prompts)))
        return [float(np.ctypeslib.as_array(_floats(row), (self.size,)) @ self.vector) for row in rows]


def _floats(pointer: object) -> ctypes._Pointer[ctypes.c_float]:
    return ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))  # type: ignore[arg-type]
