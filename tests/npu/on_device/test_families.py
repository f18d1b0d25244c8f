"""Encoders and the other decoders on the device, against transformers: whole texts, no graphs where none can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from engine.backends.worker import Worker
from engine.checkpoint.families import FAMILIES
from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.step import SchedulerOutput
from tests.families.cases import FAMILIES as CASES
from tests.npu.on_device.recording import recording
from tests.support.checkpoints import make_bert, make_xlm_roberta

LENGTHS = (5, 31, 1, 18, 64, 40)
MAKERS = {"bert": make_bert, "xlm_roberta": make_xlm_roberta}
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 4e-2}
"""Of the logit."""

DECLARED = {
    *("npu::npu_fusion_attention", "npu::npu_gelu"),  # aten::gelu would be the tanh form on this device
    *("aten::addmm", "aten::t", "aten::native_layer_norm", "aten::add", "aten::tanh"),
    *("aten::embedding", "aten::index_select", "aten::select", "aten::clone", "aten::_to_copy", "aten::copy_"),
    *("aten::view", "aten::_unsafe_view", "aten::slice", "aten::split_with_sizes"),
}
"""Everything that may reach the device in a step of an encoder."""


def load(folder: Path, dtype: str, device: str = "npu", **settings: Any) -> Worker:
    model = ModelConfig(model=str(folder), dtype=dtype, **settings)  # type: ignore[arg-type]
    config = EngineConfig(
        model=model, scheduler=SchedulerConfig(max_num_batched_tokens=600), device=DeviceConfig(device=device)
    )
    worker = Worker(config, resolve_model(model))
    worker.info = worker.load()  # type: ignore[attr-defined]
    return worker


def random_step(vocab_size: int, num_types: int) -> SchedulerOutput:
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    return SchedulerOutput(
        step_id=0,
        token_ids=rng.integers(5, vocab_size, total).astype(np.int32),
        segment_lens=np.array(LENGTHS, np.int32),
        context_ids=np.full(len(LENGTHS), -1, np.int32),
        context_indptr=np.zeros(1, np.int32),
        context_ranges=np.zeros((0, 2), np.int32),
        keep_ranges=np.zeros((0, 3), np.int32),
        read_segments=np.arange(len(LENGTHS), dtype=np.int32),
        token_type_ids=rng.integers(0, 2, total).astype(np.int32) if num_types == 2 else None,
    )


def expected(folder: Path, plan: SchedulerOutput) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ends = np.cumsum(plan.segment_lens)
    logits = []
    for first, last in zip(ends - plan.segment_lens, ends, strict=True):
        inputs = {"input_ids": torch.from_numpy(plan.token_ids[first:last]).long()[None]}
        if plan.token_type_ids is not None:
            inputs["token_type_ids"] = torch.from_numpy(plan.token_type_ids[first:last]).long()[None]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0].numpy())
    return np.array(logits)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_encoders(family: str, dtype: str, tmp_path: Path) -> None:
    MAKERS[family](tmp_path)
    worker = load(tmp_path, dtype)
    spec = worker.spec
    plan = random_step(spec.vocab_size, spec.config["type_vocab_size"])
    with recording() as log:
        values = worker.execute(plan).values
    np.testing.assert_allclose(values, expected(tmp_path, plan), atol=TOLERANCE[dtype], rtol=0)
    assert log.count("npu::npu_fusion_attention") == spec.config["num_hidden_layers"]
    assert set(log) <= DECLARED, sorted(set(log) - DECLARED)
    notes = worker.info.notes  # type: ignore[attr-defined]
    assert any(note.startswith("no ACL graphs") and "bidirectional" in note for note in notes), notes


OTHERS = ("modernbert", "deberta-v2", "new", "gte", "mpnet", "jina_bert", "eurobert", "llama_bidirec")
"""Families whose attention or activations need torch's own operators as well; each in its first shape."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_encoders(name: str, tmp_path: Path) -> None:
    family = CASES[name]
    folder = family.make(tmp_path, next(iter(family.shapes)))
    worker, on_cpu = load(folder, "float32", max_model_len=128), load(folder, "float32", "cpu", max_model_len=128)
    plan = random_step(worker.spec.vocab_size, worker.spec.config.get("type_vocab_size", 1))
    with recording() as log:
        values = worker.execute(plan).values
    np.testing.assert_allclose(values, on_cpu.execute(plan).values, atol=2e-5, rtol=0)
    assert "aten::gelu" not in log  # it would be the tanh form on this device


def test_encoder_in_w8a8(tmp_path: Path) -> None:
    make_xlm_roberta(tmp_path)
    worker = load(tmp_path, "bfloat16", quantization="w8a8")
    plan = random_step(worker.spec.vocab_size, 1)
    np.testing.assert_allclose(worker.execute(plan).values, expected(tmp_path, plan), atol=0.15, rtol=0)


@pytest.mark.usefixtures("simulator")
def test_encoder_on_310p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    make_bert(tmp_path)
    worker = load(tmp_path, "float16")
    plan = random_step(worker.spec.vocab_size, 2)
    np.testing.assert_allclose(worker.execute(plan).values, expected(tmp_path, plan), atol=8e-3, rtol=0)


DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0},
    "qwen2": {"use_sliding_window": False},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
}


@pytest.mark.parametrize("model_type", sorted(set(DECODERS) & set(FAMILIES)))
def test_decoders(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        model_type,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=2048,
        max_position_embeddings=256,
        num_labels=1,
        pad_token_id=0,
        **DECODERS[model_type],
    )
    torch.manual_seed(1)
    reference = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(3.0) if parameter.ndim == 2 else parameter.add_(torch.randn_like(parameter) * 0.1)
    reference.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(_any_tokenizer())
    worker = load(tmp_path, "float32", max_model_len=128)
    plan = random_step(2048, 1)
    np.testing.assert_allclose(worker.execute(plan).values, expected(tmp_path, plan), atol=1e-4, rtol=0)


def _any_tokenizer() -> str:
    from tests.support.tokenizer_files import qwen_tokenizer_json

    return qwen_tokenizer_json()
