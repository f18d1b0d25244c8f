"""One contender's process: ``python -m benchmarks.cpu.contenders NAME MODEL THREADS WORK``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.cpu.contenders.base import Contender, serve

Make = Callable[[Path, int, Path], Contender]


def _engine(quantization: str | None) -> Make:
    def make(model: Path, num_threads: int, work: Path) -> Contender:
        from benchmarks.cpu.contenders.ours import Engine

        return Engine(model, num_threads, quantization)

    return make


def _transformers(model: Path, num_threads: int, work: Path) -> Contender:
    from benchmarks.cpu.contenders.transformers_model import Transformers

    return Transformers(model, num_threads)


def _cross_encoder(model: Path, num_threads: int, work: Path) -> Contender:
    from benchmarks.cpu.contenders.cross_encoder import CrossEncoderModel

    return CrossEncoderModel(model, num_threads, work)


def _onnx(int8: bool) -> Make:
    def make(model: Path, num_threads: int, work: Path) -> Contender:
        from benchmarks.cpu.contenders.onnx_models import OnnxRuntime

        return OnnxRuntime(model, num_threads, work, int8)

    return make


def _openvino(model: Path, num_threads: int, work: Path) -> Contender:
    from benchmarks.cpu.contenders.onnx_models import OpenVino

    return OpenVino(model, num_threads, work)


def _llama(form: str) -> Make:
    def make(model: Path, num_threads: int, work: Path) -> Contender:
        from benchmarks.cpu.contenders.llama import Llama

        return Llama(model, num_threads, work, form)

    return make


CONTENDERS: dict[str, Make] = {
    "engine-fp32": _engine(None),
    "engine-int16": _engine("int16"),
    "engine-int8": _engine("int8"),
    "transformers": _transformers,
    "sentence-transformers": _cross_encoder,
    "onnxruntime": _onnx(False),
    "onnxruntime-int8": _onnx(True),
    "openvino": _openvino,
    "llama.cpp-f32": _llama("f32"),
    "llama.cpp-f16": _llama("f16"),
    "llama.cpp-q8_0": _llama("q8_0"),
}


def main() -> None:
    name, model, threads, work = sys.argv[1:]
    os.environ |= {"OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    serve(lambda: CONTENDERS[name](Path(model), int(threads), Path(work)))


if __name__ == "__main__":
    main()
