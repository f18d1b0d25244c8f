"""jina-reranker-m0 scores pictures and texts as transformers' Qwen2-VL with its head does, whatever names it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import LLM
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError
from tests.families.test_pictures import DOCUMENTS, IN_A_BATCH, QUERIES, WITH_TRANSFORMERS, form
from tests.support.jina_m0 import Reference, save_jina_m0

LAYOUTS = {"as published": False, "names of transformers 5": True}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}


@pytest.mark.parametrize("newer", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("steps", [{}, {"max_num_batched_tokens": 64, "max_segment_tokens": 17}], ids=["whole", "cut"])
def test_scores_are_those_of_transformers(tmp_path: Path, newer: bool, steps: dict[str, int]) -> None:
    folder = save_jina_m0(tmp_path / "any name", "JinaVLForRanking", "qwen", newer=newer, **SIZES)
    reference = Reference(folder)
    with LLM(str(folder), device="cpu", max_model_len=1024, cpu_threads=1, **steps) as llm:
        for query in QUERIES:
            outputs = llm.score(form(query), [form(document) for document in DOCUMENTS], use_tqdm=False)
            assert [output.error for output in outputs] == [None] * len(DOCUMENTS)
            scores = [output.outputs.score for output in outputs]
            expected = [reference.score(query, document) for document in DOCUMENTS]
            assert scores == pytest.approx(expected, abs=WITH_TRANSFORMERS)
            alone = [llm.score(form(query), form(document), use_tqdm=False)[0] for document in DOCUMENTS[1:3]]
            assert [output.outputs.score for output in alone] == pytest.approx(scores[1:3], abs=IN_A_BATCH)


def test_nemotron_with_pictures_is_refused_by_name(tmp_path: Path) -> None:
    """Its tower is another one; what is supported is said before any weight is read."""
    config = {"architectures": ["LlamaNemotronVLForSequenceClassification"], "model_type": "llama_nemotron_vl"}
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"vision_config": {}, "text_config": {"hidden_size": 64}})
    )
    named = "LlamaNemotronVLForSequenceClassification .* is not supported. These are: .*Qwen3VL .*JinaVLForRanking"
    with pytest.raises(ConfigError, match=named):
        resolve_model(ModelConfig(model=str(tmp_path), load_format="dummy"))
