"""Late-interaction models (ColBERT) in their three layouts: MaxSim as sentence-transformers computes it."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import LLM
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, InvalidRequestError, ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from engine.scoring.late_interaction import LateScores, max_sim
from tests.support.late_interaction import Reference, make_native, make_pylate, make_stanford
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENTS = [*TEXTS[:6], "", "!?", " ".join(TEXTS)[:800], "Wörter, 中文 (and more)."]
QUERIES = [QUERY, "short", " ".join(TEXTS)[:400]]
PUNCTUATION = list(string.punctuation)
EXPANSION = {"strategy": "fixed", "length": 16}
LAYOUTS: dict[str, Any] = {
    "Stanford": lambda folder: make_stanford(folder),
    "Stanford, attends, punctuation counts": lambda folder: make_stanford(
        folder, attend_to_mask_tokens=True, mask_punctuation=False, query_maxlen=20
    ),
    "PyLate, BERT": lambda folder: make_pylate(
        folder, "BertModel", "bert", query_prefix="[Q] ", document_prefix="[D] ", query_length=20, document_length=30
    ),
    "PyLate, ModernBERT, no expansion": lambda folder: make_pylate(
        folder, "ModernBertModel", "modernbert", query_prefix="[Q] ", document_prefix="[D] ", query_length=20,
        document_length=30, do_query_expansion=False, skiplist_words=[",", "."],
    ),
    "PyLate, ModernBERT, attends": lambda folder: make_pylate(
        folder, "ModernBertModel", "modernbert", query_prefix="[Q] ", document_prefix="[D] ", query_length=24,
        document_length=100, attend_to_expansion_tokens=True,
    ),
    "native, ModernBERT": lambda folder: make_native(
        folder, "ModernBertModel", "modernbert", prompts={"query": "query: ", "document": "document: "},
        document_length=100, query_expansion=EXPANSION, skiplist=PUNCTUATION,
    ),
    "native, BERT, min, skiplist on both sides, mean": lambda folder: make_native(
        folder, "BertModel", "bert", prompts={"query": "", "document": ""}, similarity="meanmaxsim", document_length=25,
        query_length=40, query_expansion={"strategy": "min", "length": 12}, skiplist=PUNCTUATION,
        tasks=("query", "document"),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stanford(tmp_path_factory.mktemp("late") / "model")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_those_of_sentence_transformers(layout: str, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path)
    reference = Reference(folder)
    with LLM(str(folder)) as llm:
        for query in QUERIES:
            outputs = llm.score(query, DOCUMENTS, use_tqdm=False)
            found = np.array([output.outputs.score for output in outputs])
            expected = reference.scores(query, DOCUMENTS)
            assert np.abs(found - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
            assert outputs[8].truncated


def test_the_batch_changes_nothing(folder: Path) -> None:
    with LLM(str(folder)) as llm:
        together = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS, use_tqdm=False)]
        alone = [llm.score(QUERY, document, use_tqdm=False)[0].outputs.score for document in DOCUMENTS]
        rankings = llm.rerank([QUERY, "another query"], DOCUMENTS)
    assert np.abs(np.subtract(together, alone)).max() < 1e-6 * 32
    assert {one.index: one.score for one in rankings[0]} == pytest.approx(dict(enumerate(together)), abs=1e-5)


def test_marks_in_texts_are_text(tmp_path: Path) -> None:
    folder = make_pylate(
        tmp_path, "BertModel", "bert", query_prefix="[Q] ", document_prefix="[D] ", document_length=30
    )  # fmt: skip
    config = ModelConfig(model=str(folder))
    spec = resolve_model(config)
    assert spec.late is not None
    (pair,) = InputProcessor(spec, config).encode(["[Q] [MASK] what"], ["[D] [MASK] [SEP] this [D] "])
    query, document = pair.prompts
    assert (query.token_ids == spec.late.query.mark_id).sum() == 1
    assert (document.token_ids == spec.late.document.mark_id).sum() == 1
    assert (document.token_ids[2:-1] < 5).sum() == 0  # no special token inside
    assert spec.late.expansion is not None
    assert query.num_keys == len(query.token_ids) - (query.token_ids == spec.late.expansion.token_id).sum()


def test_each_distinct_text_is_computed_once(folder: Path) -> None:
    config = ModelConfig(model=str(folder))
    spec = resolve_model(config)
    pairs = InputProcessor(spec, config).encode(["a", "b", "a"], ["a", "c", "c"])
    assert len(LateScores(pairs, mean=False).prompts) == 4  # two queries, two documents; "a" is another text as each


def test_what_may_not_be_cut_or_has_nothing_to_compare_fails_alone(folder: Path, tmp_path: Path) -> None:
    with LLM(str(folder)) as llm:
        outputs = llm.score(QUERY, ["short", " ".join(TEXTS)], truncate=False, use_tqdm=False)
        assert [output.error is None for output in outputs] == [True, False]
        with pytest.raises(InvalidRequestError, match="token ids"):
            llm.score([1, 2], [[3, 4]], use_tqdm=False)
    bare = make_native(
        tmp_path, "BertModel", "bert", prompts={"query": "", "document": ""}, skiplist=["[CLS]", "[SEP]", "!"]
    )  # fmt: skip
    config = ModelConfig(model=str(bare))
    found = InputProcessor(resolve_model(config), config).encode_each([QUERY], ["word", "!!", ""], PairOptions())
    assert [isinstance(one, Exception) for one in found] == [False, True, True]


def test_max_sim_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((5, 8)).astype(np.float32)
    documents = [rng.standard_normal((length, 8)).astype(np.float32) for length in (1, 7, 3)]
    expected = [sum(max(float(q @ d) for d in document) for q in query) for document in documents]
    assert max_sim(query, documents) == pytest.approx(expected, abs=1e-5)


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_stanford(tmp_path / "stanford")
    for key, value, match in (
        ("classifier_from_token", ["no", "yes"], "late-interaction"),
        ("num_labels", 1, "late-interaction"),
    ):
        with pytest.raises(ConfigError, match=match):
            resolve_model(ModelConfig(model=str(folder), hf_overrides={key: value}))
    (folder / "artifact.metadata").write_text("[1]")
    with pytest.raises(ModelLoadError, match="JSON object"):
        resolve_model(ModelConfig(model=str(folder)))
    pylate = make_pylate(tmp_path / "pylate", "BertModel", "bert", query_prefix="[Q] ", document_prefix="[D] ")
    dense = json.loads((pylate / "1_Dense" / "config.json").read_text())
    (pylate / "1_Dense" / "config.json").write_text(json.dumps(dense | {"module_input_name": "sentence_embedding"}))
    with pytest.raises(ConfigError, match="sentence_embedding"):
        resolve_model(ModelConfig(model=str(pylate)))
    decoder = make_pylate(
        tmp_path / "decoder", "Qwen3Model", "qwen", query_prefix="[Q] ", document_prefix="[D] "
    )  # fmt: skip
    with pytest.raises(ConfigError, match="decoder"):
        resolve_model(ModelConfig(model=str(decoder)))
