"""config.json of every row of the table as ``save_pretrained`` writes it, with each key that a real one has.

``published_configs.json`` holds files as published. Here the rest is made: what is stated of a model (labels, lengths,
sizes, its own keys: ``saved_configs.json``), and the defaults of its class in the installed transformers, which is what
publishers upload. Once as version 5 writes it, without what is usual, and once with all keys of the class and of its
base in versions 2 to 4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from engine.checkpoint.families import FAMILIES, RANKERS
from engine.checkpoint.published_models import Published, published_models
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import StartupError
from engine.model_spec import ModelSpec
from tests.support.tokenizer_files import TOKENIZERS

SAVED: dict[str, Any] = json.loads(Path(__file__).with_name("saved_configs.json").read_text())
OF_THE_BASE: dict[str, Any] = SAVED["of the base"]
"""What ``PretrainedConfig`` itself has written in one version or another."""
STATED: dict[str, dict[str, Any]] = SAVED["stated"]
"""By the first model of a row: what the page of published models, or the model's card, states of it."""
TOKENIZER = dict.fromkeys(("qwen2", "qwen2_vl", "qwen3_vl"), "qwen") | {"qwen3": "answers", "llama_bidirec": "llama"}
TOKENIZER |= {name: name for name in ("mistral", "gemma", "distilbert", "roberta", "xlm-roberta", "modernbert")}
TOKENIZER |= dict.fromkeys(("camembert", "new"), "xlm-roberta") | {"deberta-v2": "deberta"}
LABELS = {"michaelfeil/mxbai-rerank-base-v2-seq": ("0", "1")}


def config_of(row: Published, *, whole: bool) -> dict[str, Any]:
    architecture = row.architectures[0]
    body = architecture.removesuffix("Model").partition("For")[0]
    model_type = next(
        (name for name, family in FAMILIES.items() if family.body == body), RANKERS.get(architecture, ("", ""))[0]
    )
    known = {"llama_bidirec": "llama", "jina_bert": "bert", "new": "gte"}.get(model_type, model_type)
    stated = STATED.get(row.ids[0], {})
    own = {key: value for key, value in stated.items() if key not in ("auto_map", "rope_scaling", "model_type")}
    names = LABELS.get(row.ids[0], ("LABEL_0",))
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    written = transformers.AutoConfig.for_model(known, architectures=[architecture], **labels, **own)
    saved = json.loads(written.to_json_string(use_diff=not whole))
    return {**(OF_THE_BASE if whole else {}), **saved, "model_type": model_type, **stated}


def folder_of(row: Published, config: dict[str, Any], folder: Path) -> Path:
    folder = folder / row.ids[0].rpartition("/")[2]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer, settings = TOKENIZERS[TOKENIZER.get(config["model_type"], "bert")]()
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": int(1e30)}))
    if row.architectures[0] == "ModernBertModel":
        save_chain(folder, config["hidden_size"])
    return folder


def save_chain(folder: Path, hidden: int) -> None:
    """Ettin's: CLS, Dense with GELU, LayerNorm, Dense to one score."""
    base = "sentence_transformers.base.modules"
    head = {"in_features": hidden, "out_features": 1, "bias": True, "module_output_name": "scores"}
    dense = {"in_features": hidden, "out_features": hidden, "bias": False}
    modules: list[tuple[str, str, dict[str, Any]]] = [
        ("", f"{base}.transformer.Transformer", {}),
        ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling", {"pooling_mode": "cls"}),
        ("2_Dense", f"{base}.dense.Dense", {**dense, "activation_function": "torch.nn.modules.activation.GELU"}),
        (
            "3_LayerNorm",
            "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
            {"dimension": hidden},
        ),
        ("4_Dense", f"{base}.dense.Dense", {**head, "activation_function": "torch.nn.modules.linear.Identity"}),
    ]
    for name, _, config in modules[1:]:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    entries = [{"idx": i, "name": str(i), "path": name, "type": kind} for i, (name, kind, _) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7999}))
    metadata = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize("whole", [False, True], ids=["as version 5 writes it", "with every key"])
@pytest.mark.parametrize("row", published_models(), ids=lambda row: row.ids[0])
def test_every_row_is_served_with_all_that_its_class_saves(row: Published, whole: bool, tmp_path: Path) -> None:
    folder = folder_of(row, config_of(row, whole=whole), tmp_path)
    spec = resolve_model(ModelConfig(model=str(folder), load_format="dummy"))
    assert (spec.head.activation, spec.head.logit_sigma, spec.template) == (row.activation, row.sigma, row.template)
    assert spec.head.num_labels == 1
    assert row.max_len is None or spec.max_model_len == row.max_len


@pytest.mark.parametrize(
    ("key", "value"),
    [("is_decoder", True), ("add_cross_attention", True), ("pruned_heads", {"0": [1]}), ("temperature", 0.5)],
)
def test_of_the_base_keys_those_that_change_scores_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    row = next(row for row in published_models() if "BAAI/bge-reranker-base" in row.ids)
    folder = folder_of(row, config_of(row, whole=True) | {key: value}, tmp_path)
    with pytest.raises(StartupError, match=f"has {key} = "):
        resolve_model(ModelConfig(model=str(folder), load_format="dummy"))


def test_eurobert_as_its_authors_publish_it_is_read(tmp_path: Path) -> None:
    names = {"AutoConfig": "configuration_eurobert.EuroBertConfig"}
    names |= {f"AutoModel{task}": f"modeling_eurobert.EuroBert{task or 'Model'}" for task in ("", "ForMaskedLM")}
    tokens = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[SEP]", "mask_token": "[MASK]"}
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    saved = transformers.EuroBertConfig(architectures=["EuroBertForSequenceClassification"], **labels).to_dict()
    tokenizer, settings = TOKENIZERS["modernbert"]()
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))

    def spec_of(**keys: str) -> ModelSpec:
        (tmp_path / "config.json").write_text(json.dumps({**saved, **tokens, **keys, "auto_map": names}))
        return resolve_model(ModelConfig(model=str(tmp_path), load_format="dummy"))

    assert spec_of(clf_pooling="late").head.pooling == "late"
    assert spec_of(clf_pooling="mean", classifier_pooling="mean").head.pooling == "mean"
    with pytest.raises(StartupError, match="has clf_pooling = 'mean'"):  # transformers would read late, the default
        spec_of(clf_pooling="mean")
