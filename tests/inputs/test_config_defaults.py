"""What config.json leaves out is what transformers fills in: each key of each family is dropped in turn."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from engine import LLM
from engine.checkpoint.config_keys import complete_config, computed_keys
from engine.checkpoint.config_names import usual_config
from engine.checkpoint.families import FAMILIES, body_sizes, rope_of
from engine.checkpoint.overrides import apply_overrides
from engine.errors import ConfigError
from tests.families.cases import FAMILIES as CASES
from tests.families.family import Family
from tests.support.random_models import save_random

QUERY, DOCUMENTS = "where do pandas live", ["in the forests of China", "the price of bamboo", "yes", ""]
TYPES = sorted(set(FAMILIES) - {"new", "jina_bert", "llama_bidirec", "qwen2_vl", "qwen3_vl"})
"""Without those that transformers has no class of, and two whose config.json is nested."""
SIZES = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
OTHERS = {
    "qwen3": {"num_attention_heads": 32},  # as many as its class has key and value heads
    "qwen2": {"num_attention_heads": 32},
    "mistral": {"num_attention_heads": 8},
    "ministral": {"num_attention_heads": 8, "head_dim": 24},  # transformers cannot do without its head size
    "ministral3": {"num_attention_heads": 8},
    "gemma": {"num_attention_heads": 16},
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "modernbert": {"pad_token_id": 3},
    "eurobert": {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 4},
    "llama": {"pad_token_id": 1957},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}
"""Heads as the class has them where they are left out; padding that is in the vocabulary; what is supported."""


def stored(model_type: str) -> dict[str, Any]:
    """config.json of a small network whose every other key is the default of its class."""
    return {**sizes(model_type), "model_type": model_type, "vocab_size": 999}


def sizes(model_type: str) -> dict[str, Any]:
    """Under the names that transformers has for them."""
    own = {usual: name for name, usual in FAMILIES[model_type].own_keys.items()} if model_type == "distilbert" else {}
    return {own.get(key, key): value for key, value in {**SIZES, **OTHERS.get(model_type, {})}.items()}


@pytest.mark.parametrize("model_type", TYPES)
def test_each_key_left_out_is_as_transformers_has_it(model_type: str) -> None:
    whole = {**transformers.AutoConfig.for_model(model_type).to_dict(), **stored(model_type)}
    for name in (
        "layer_types",
        "pooler_hidden_size",
        *(["head_dim"] if model_type == "nomic_bert" else []),
    ):  # worked out from the sizes
        whole.pop(name, None)
    for key in (*computed_keys(model_type), "nothing"):
        config = {name: value for name, value in whole.items() if name != key}
        for part in ("rope_parameters", "head_dim") if key.startswith(("rope", "hidden", "num_att")) else ():
            config.pop(part, None)
        theirs = transformers.AutoConfig.for_model(**config)
        ours = complete_config("x", usual_config("x", config))
        for name in computed_keys(model_type):
            if name in ours and hasattr(theirs, name) and name not in ("dtype", "torch_dtype", "rope_parameters"):
                assert ours[name] == getattr(theirs, name), f"{model_type} without {key}: {name}"
        if model_type not in ("modernbert", "gemma3_text") and hasattr(theirs, "rope_parameters"):
            base = rope_of(ours).get("rope_theta", ours.get("rope_theta"))
            assert base == theirs.rope_parameters["rope_theta"], f"{model_type} without {key}"


def bare(folder: Path, family: Family) -> Path:
    """A checkpoint made from the defaults of its class, whose config.json states its sizes only."""
    settings = sizes(family.model_type)
    folder = save_random(folder, family.architecture, family.tokenizer, name=family.name, **settings)
    config = json.loads((folder / "config.json").read_text())
    kept = {*settings, "vocab_size", "model_type", "architectures", "id2label"}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key in kept}))
    return folder


@pytest.mark.parametrize("model_type", TYPES)
def test_scores_of_a_bare_config(model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family = CASES[model_type]
    folder = bare(tmp_path, family)
    expected = family.expected(folder, QUERY, DOCUMENTS)
    overrides = {**family.settings.get("hf_overrides", {}), "use_sep_token": False} if family.tokens else {}
    settings = {"hf_overrides": overrides, "max_model_len": 500, "cpu_threads": 1}
    with caplog.at_level(logging.INFO), LLM(model=str(folder), device="cpu", dtype="float32", **settings) as llm:
        found = [output.outputs.logit for output in llm.score(QUERY, DOCUMENTS, use_tqdm=False)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert "config.json leaves out what its class has a default for" in caplog.text


def test_a_window_of_the_class() -> None:
    """``use_sliding_window`` without a width: 4096 tokens, as the class has it before it takes it back."""
    config = {**stored("qwen3"), "use_sliding_window": True}
    assert complete_config("x", config)["sliding_window"] == 4096
    assert transformers.AutoConfig.for_model(**config).sliding_window == 4096


def test_a_null_where_a_value_is_needed() -> None:
    with pytest.raises(ConfigError, match="rms_norm_eps = null, where a qwen3 network needs a value"):
        complete_config("x", {**stored("qwen3"), "rms_norm_eps": None})
    config = {**stored("llama"), "head_dim": None, "num_key_value_heads": None}
    assert body_sizes("llama", complete_config("x", config)).head_dim == 48


def test_both_names_of_the_rotation() -> None:
    """``rope_scaling`` replaces ``rope_parameters``, and a flag replaces both."""
    linear, yarn = {"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}
    config = {**stored("llama"), "rope_scaling": dict(linear), "rope_parameters": dict(yarn)}
    theirs = transformers.AutoConfig.for_model(
        **{**config, "rope_scaling": dict(linear), "rope_parameters": dict(yarn)}
    )
    assert theirs.rope_parameters["rope_type"] == rope_of(complete_config("x", config))["rope_type"] == "linear"
    asked = apply_overrides({"rope_scaling": dict(linear)}, {"rope_parameters": dict(yarn)})
    assert rope_of(asked) == yarn


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_unknown_keys_of_the_rotation(name: str) -> None:
    config = {**stored("qwen3"), name: {"rope_type": "default", "mrope_section": [8, 8]}}
    with pytest.raises(ConfigError, match=f"mrope_section in {name}, which is not supported"):
        complete_config("x", config)
    complete_config("x", config, (name,))
