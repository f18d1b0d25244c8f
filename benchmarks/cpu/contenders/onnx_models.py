"""ONNX Runtime in fp32 and with dynamically quantised int8 weights, and OpenVINO, all on one exported graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cpu.contenders.base import Contender, left_padded, padded_batches
from benchmarks.cpu.contenders.transformers_model import head_vector, load_model
from benchmarks.cpu.workloads import Workload


class _Scorer(torch.nn.Module):
    """ids and mask (left-padded) to one logit a row."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        network = load_model(folder, attn_implementation="sdpa")
        self.body = network.model
        self.register_buffer("vector", head_vector(network, folder))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
        hidden = self.body(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return hidden[:, -1] @ self.vector


def export(model: Path, work: Path) -> Path:
    """The graph with its weights beside it."""
    path = work / "onnx" / "model.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.randint(4, 100, (3, 17)), torch.ones(3, 17, dtype=torch.int64))
    example[1][1, :5] = 0
    batch, length = torch.export.Dim("batch", min=1, max=256), torch.export.Dim("length", min=2, max=16384)
    shapes = {0: batch, 1: length}
    with torch.inference_mode():
        program = torch.onnx.export(
            _Scorer(model).eval(),
            example,
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(shapes, shapes),
        )
    assert program is not None
    program.save(str(path), external_data=True)
    return path


def quantised(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("model-int8.onnx")
    if not target.exists():
        quantize_dynamic(
            str(path),
            str(target),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
        )
    return target


class _Batched(Contender):
    infer: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        logits = [0.0] * len(prompts)
        for batch in padded_batches(prompts, batch_size):
            ids, mask = left_padded([prompts[i] for i in batch])
            for i, logit in zip(batch, self.infer(ids, mask).tolist(), strict=True):
                logits[i] = logit
        return logits


class OnnxRuntime(_Batched):
    def __init__(self, model: Path, num_threads: int, work: Path, int8: bool = False) -> None:
        import onnxruntime

        super().__init__(model, num_threads)
        path = export(model, work)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        session = onnxruntime.InferenceSession(
            str(quantised(path) if int8 else path), options, providers=["CPUExecutionProvider"]
        )
        self.infer = lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


class OpenVino(_Batched):
    def __init__(self, model: Path, num_threads: int, work: Path) -> None:
        import openvino

        super().__init__(model, num_threads)
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(str(export(model, work)), "CPU", settings)
        request = compiled.create_infer_request()
        self.infer = lambda ids, mask: request.infer([ids, mask])[0]
