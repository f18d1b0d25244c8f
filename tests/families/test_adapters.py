"""LoRA adapters score like the checkpoint that they were merged into, and leave the base alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import LLM
from engine.backends.cpu.backend import KERNELS_VARIABLE
from engine.errors import ConfigError, ModelLoadError
from tests.families.cases import FAMILIES
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import make_qwen3
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENTS = list(TEXTS[:10])

# Family and shape, what is adapted, tensors of the head that are replaced, settings of the adapter.
CASES: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "Qwen3: attention and MLP": (
        "qwen3", "tied", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), (), {},
    ),
    "Gemma: only the gate, scaled by the root": ("gemma", "one key head", ("gate_proj",), (), {"use_rslora": True}),
    "Llama: queries and the head": (
        "llama", "grouped, no biases", ("q_proj",), ("score.weight",), {"rank": 1},
    ),
    "Phi-3: fused projections, a head of which part rotates": (
        "phi3", "three quarters of a head rotate, longrope", ("qkv_proj", "gate_up_proj", "o_proj"), (), {},
    ),
    "Qwen3-MoE: attention and experts": (
        "qwen3_moe", "two of six experts, the first layer dense", ("q_proj", "up_proj", "down_proj"), (), {},
    ),
    "XLM-R: a new head": (
        "xlm-roberta", "three layers", ("query", "value", "output.dense"),
        tuple(f"classifier.{name}" for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")), {},
    ),
    "BERT: factors in the head": ("bert", "three layers", ("intermediate.dense", "pooler.dense", "classifier"), (), {}),
    "ModernBERT: fused projections": ("modernbert", "as published", ("Wqkv", "Wi", "mlp.Wo"), (), {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(folder: Path, **settings: Any) -> LLM:
    return LLM(model=str(folder), device="cpu", cpu_threads=1, **settings)


def logits(llm: LLM, adapter: str | None = None) -> list[float]:
    return [o.outputs.logit for o in llm.score(QUERY, DOCUMENTS, use_tqdm=False, lora_request=adapter)]


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_scores_like_the_merged_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, shape, modules, whole, settings = CASES[name]
    base = FAMILIES[family].make(tmp_path / "base", shape)
    adapter = make_adapter(tmp_path / "adapter", base, modules, whole=whole, **settings)
    more = FAMILIES[family].settings
    with load(merge(tmp_path / "merged", base, adapter), **more) as merged, load(base, **more) as plain:
        expected, expected_of_base = logits(merged), logits(plain)
    assert max(abs(a - b) for a, b in zip(expected, expected_of_base, strict=True)) > 0.01
    for kernels in ("compiled", "torch"):
        monkeypatch.setenv(KERNELS_VARIABLE, kernels)
        with load(base, lora_modules={"mine": str(adapter)}, **more) as llm:
            assert logits(llm, "mine") == pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert logits(llm) == pytest.approx(expected_of_base, rel=1e-5, abs=1e-5)


def test_rows_of_an_untied_language_model_head(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base", tied=False)
    adapter = make_adapter(tmp_path / "adapter", base, ["v_proj", "lm_head"])
    with load(merge(tmp_path / "merged", base, adapter)) as merged:
        expected = logits(merged)
    with load(base, lora_modules={"mine": str(adapter)}) as llm:
        assert logits(llm, "mine") == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_several_adapters_and_chunked_documents(tmp_path: Path) -> None:
    """They share steps with nobody else, and no key or value of one is read for another."""
    base = make_qwen3(tmp_path / "base")
    adapters = {n: make_adapter(tmp_path / n, base, ["k_proj", "v_proj"], seed=i) for i, n in enumerate("abc")}
    alone = {}
    for name, folder in adapters.items():
        with load(merge(tmp_path / f"merged {name}", base, folder)) as merged:
            alone[name] = logits(merged)
    modules = {name: str(folder) for name, folder in adapters.items()}
    with load(base, lora_modules=modules, max_num_batched_tokens=96, prefix_cache="query") as llm:
        for name in ("a", "c", "b", "a", "b"):
            assert logits(llm, name) == pytest.approx(alone[name], rel=1e-4, abs=1e-4)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_qwen3(tmp_path / "base", layers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "uses use_dora=True"),
        ({"bias": "all"}, "uses bias='all'"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"modules": ["embed_tokens"]}, "cannot change here: embed_tokens"),
        ({"whole": ["model.layers.0.mlp.up_proj.weight"]}, r"cannot change here: layers\.0\.mlp\.up_proj"),
        (
            {"tensors_changes": {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 7)}},
            r"layers\.0\.self_attn\.q_proj has 128 x 64 weights, and the adapter's factors make 128 x 7",
        ),
        ({"r": 0}, "r in its adapter_config.json is a whole number"),
        ({"r": 10**9}, "r in its adapter_config.json is a whole number"),
        ({"r": "4"}, "r in its adapter_config.json is a whole number"),
        ({"r": None}, "r in its adapter_config.json is a whole number"),
        ({"alpha": math.nan}, "lora_alpha in its adapter_config.json is a finite number"),
        ({"alpha": 10**400}, "lora_alpha in its adapter_config.json is a finite number"),
        ({"use_rslora": "yes"}, "use_rslora in its adapter_config.json is true or false"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern in its adapter_config.json is a whole number"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern in its adapter_config.json has at most"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern in its adapter_config.json names modules"),
        ({"alpha_pattern": {".*.*.*.*x": 4}}, "alpha_pattern in its adapter_config.json names modules"),
        ({"alpha_pattern": {"q_proj[": 4}}, "alpha_pattern in its adapter_config.json names modules"),
        ({"peft_type": "x" * 10**6}, "of the kind x{60};"),
        ({"modules": ()}, "holds no tensors"),
        ({"modules": ["no_proj"], "tensors_changes": {"x": torch.ones(1)}}, "cannot change here: x"),
        (
            {"tensors_changes": {"base_model.model.score.weight": torch.ones(3, 64)}},
            "cannot change here: score.weight",
        ),
    ],
)
def test_adapters_that_do_not_fit(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_adapter(tmp_path / "adapter", base, **({"modules": ["q_proj"]} | changes))
    with pytest.raises(ModelLoadError, match=message):
        load(base, lora_modules={"mine": str(folder)})


def test_settings_that_cannot_work(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of a LoRA adapter"):
        load(base, lora_modules={"mine": str(tmp_path)})
    folder = make_adapter(tmp_path / "adapter", base, ["q_proj"])
    with pytest.raises(ConfigError, match="the model itself has this name"):
        load(base, lora_modules={str(base): str(folder)})
    with pytest.raises(ConfigError, match="write name=path"):
        load(base, lora_modules=["mine"])
    with load(base, lora_modules=[f"mine={folder}"]) as llm, pytest.raises(ValueError, match="named there are mine"):
        llm.score("a", "b", lora_request="other")
    deberta = FAMILIES["deberta-v2"].make(tmp_path / "deberta", "as published")
    folder = make_adapter(tmp_path / "deberta adapter", deberta, ["query_proj"])
    with pytest.raises(ConfigError, match="LoRA adapters on deberta-v2 models are not supported"):
        load(deberta, lora_modules={"mine": str(folder)})
