"""Checkpoints of known networks under other tensor names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import LLM
from engine.errors import ConfigError, ModelLoadError
from tests.families.cases import FAMILIES
from tests.families.oracles import pair_logits
from tests.support.checkpoints import make_bert, make_xlm_roberta
from tests.support.texts import TEXTS

TEXT = list(TEXTS[:8])
JINA = {
    "embeddings.LayerNorm": "emb_ln",
    "encoder.layer.": "encoder.layers.",
    "attention.output.dense": "mixer.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "norm2",
}


def logits(folder: Path, query: str = "capital") -> list[float]:
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as llm:
        return [output.outputs.logit for output in llm.score(query, TEXT, use_tqdm=False)]


def resave(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_jina_reranker_v2(tmp_path: Path) -> None:
    folder = make_xlm_roberta(tmp_path, layers=3)
    expected = pair_logits(folder, "capital", TEXT)
    renamed: dict[str, torch.Tensor] = {}
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if ".attention.self." in name:
            place, kind = name.split(".attention.self.")
            parts = [
                tensors[f"{place}.attention.self.{part}.{kind.split('.')[1]}"] for part in ("query", "key", "value")
            ]
            fused = f"{place.replace('encoder.layer.', 'encoder.layers.')}.mixer.Wqkv.{kind.split('.')[1]}"
            renamed[fused] = torch.cat(parts)
            continue
        for old, new in JINA.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    resave(folder, renamed)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]  # as published
    config["auto_map"] = {
        "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
    }
    (folder / "config.json").write_text(json.dumps(config | {"use_flash_attn": True}))
    assert logits(folder) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_two_names_of_one_number(tmp_path: Path) -> None:
    folder = FAMILIES["distilbert"].make(tmp_path, "three layers")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ConfigError, match="dim = 48 and hidden_size = 64"):
        logits(folder)


def test_what_pretraining_left_behind_is_not_in_the_way(tmp_path: Path) -> None:
    folder = make_bert(tmp_path)
    before = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.transform.dense.weight"] = torch.ones(48, 48)
    tensors["bert.embeddings.position_ids"] = torch.arange(512)
    resave(folder, tensors)
    assert logits(folder) == before


def test_a_tensor_that_belongs_nowhere_is_an_error(tmp_path: Path) -> None:
    folder = make_bert(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.7.attention.self.query.weight"] = torch.ones(48, 48)
    resave(folder, tensors)
    with pytest.raises(ModelLoadError, match=r"not part of this model: encoder\.layer\.7"):
        logits(folder)


def test_deberta_of_forms_that_are_not_implemented_says_so(tmp_path: Path) -> None:
    folder = FAMILIES["deberta-v2"].make(tmp_path, "as published")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"conv_kernel_size": 3}))
    with pytest.raises(ModelLoadError, match="convolution"):
        logits(folder)
