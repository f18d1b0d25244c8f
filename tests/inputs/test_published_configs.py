"""config.json of published models, as copies of them on GitHub have it: none is refused for a harmless key.

``published_configs.json`` holds facts only: each entry names the model, where its copy lies, and what is expected of it
(activation, prompt, length; or the error). Some were saved again by a later version of a library, as people do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from engine.checkpoint.config_keys import complete_config, computed_keys
from engine.checkpoint.config_names import usual_config
from engine.checkpoint.families import rope_of
from engine.checkpoint.published_models import by_id
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import StartupError
from tests.support.tokenizer_files import TOKENIZERS

ENTRIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("published_configs.json").read_text())
SERVED = [entry for entry in ENTRIES if isinstance(entry["expected"], list)]
REFUSED = [entry for entry in ENTRIES if isinstance(entry["expected"], str)]
KINDS = {
    "qwen2": "qwen",
    "qwen3": "qwen",
    "qwen3_vl": "qwen",
    "bert": "bert",
    "modernbert": "modernbert",
    "xlm-roberta": "xlm-roberta",
}
"""Tokenizers of the same kind, with small vocabularies: the published ones lie nowhere in this repository."""


def name(entry: dict[str, Any]) -> str:
    return f"{entry['model']} ({entry['source'].partition('@')[0]})"


def folder_of(entry: dict[str, Any], folder: Path) -> Path:
    folder = folder / entry["model"].rpartition("/")[2]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(entry["config"]))
    tokenizer, settings = TOKENIZERS[KINDS[entry["config"].get("model_type", "xlm-roberta")]]()
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": int(1e30)}))
    return folder


@pytest.mark.parametrize("entry", SERVED, ids=name)
def test_a_published_config_is_served_as_published(entry: dict[str, Any], tmp_path: Path) -> None:
    spec = resolve_model(ModelConfig(model=str(folder_of(entry, tmp_path)), load_format="dummy"))
    activation, template, length = entry["expected"]
    assert (spec.head.activation, spec.template, spec.max_model_len) == (activation, template, length)
    assert f"known as {entry['model']} by the name of its folder" in spec.decision
    assert spec.head.num_labels == 1


@pytest.mark.parametrize("entry", SERVED, ids=name)
def test_its_keys_mean_what_transformers_makes_of_them(entry: dict[str, Any]) -> None:
    ours = complete_config("x", usual_config("x", entry["config"]))
    theirs = transformers.AutoConfig.for_model(**{**entry["config"], "model_type": ours["model_type"]})
    theirs = getattr(theirs, "text_config", theirs)
    for key in computed_keys(ours["model_type"]):
        if (
            key in ours
            and hasattr(theirs, key)
            and key not in ("dtype", "torch_dtype", "rope_parameters", "rope_scaling")
        ):
            assert ours[key] == getattr(theirs, key), key
    if "rope_theta" in ours:
        assert rope_of(ours).get("rope_theta", ours["rope_theta"]) == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("entry", REFUSED, ids=name)
def test_a_damaged_copy_is_refused_by_name(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=entry["expected"]):
        resolve_model(ModelConfig(model=str(folder_of(entry, tmp_path)), load_format="dummy"))


def test_the_models_are_rows_of_the_table() -> None:
    assert all(by_id(entry["model"]) for entry in ENTRIES)
