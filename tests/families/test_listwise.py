"""Listwise models (jina-reranker-v3): one prompt holds many documents, and the scores are those of its own code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import LLM
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.support.listwise import EMBED, RERANK, Reference, make_listwise
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENTS = [" ".join(text.split()[:12]) for text in TEXTS[:7]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_listwise(tmp_path_factory.mktemp("listwise"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def scores(llm: LLM, query: str, documents: list[str], **options: object) -> list[float]:
    return [output.outputs.score for output in llm.score(query, documents, use_tqdm=False, **options)]


def processor(folder: Path, **settings: object) -> InputProcessor:
    config = ModelConfig(model=str(folder), **settings)  # type: ignore[arg-type]
    return InputProcessor(resolve_model(config), config)


def test_the_prompt_is_the_published_one_tokenised_at_once(folder: Path, reference: Reference) -> None:
    documents = [*DOCUMENTS, "", "\n starts with white space", "ends with it \n", "Ünïcode 中文 e\u0301"]
    for instruction in ("", "Prefer recent passages."):
        encoded = processor(folder).encode([QUERY], documents, PairOptions(instruction=instruction or None))
        (block,) = {id(pair.prompts[0]): pair.prompts[0] for pair in encoded}.values()
        whole = reference.ids(QUERY, documents, instruction)
        last = len(whole) - 1 - whole[::-1].index(reference.rerank_id)
        assert block.token_ids.tolist() == whole[: last + 1]
        read = [*np.flatnonzero(np.array(whole) == reference.embed_id), last]
        assert block.read_offsets.tolist() == read
        assert sum(pair.num_tokens for pair in encoded) == len(block.token_ids)


@pytest.mark.parametrize("settings", [{}, {"max_num_batched_tokens": 64}, {"max_num_batched_tokens": 150}])
def test_scores_are_those_of_the_published_code(folder: Path, reference: Reference, settings: dict[str, int]) -> None:
    expected = {size: reference.rerank(QUERY, DOCUMENTS, max_length=4096, block_size=size) for size in (125, 3)}
    assert np.abs(np.subtract(expected[125], expected[3])).max() > 1e-3
    for size, wanted in expected.items():
        with LLM(str(folder), max_model_len=4096, max_docs_per_block=size, **settings) as llm:
            found = scores(llm, QUERY, DOCUMENTS)
            assert np.abs(np.subtract(found, wanted)).max() < 1e-5
            swapped = scores(llm, QUERY, DOCUMENTS[::-1])[::-1]
            assert np.abs(np.subtract(found, swapped)).max() > 1e-3  # order is part of the input


def test_blocks_end_where_little_room_is_left(folder: Path, reference: Reference) -> None:
    documents = [f"{text} {' '.join(TEXTS)[:900]}" for text in TEXTS[:6]]
    encoder, lens = processor(folder, max_model_len=2400), []
    pairs = encoder.encode([QUERY], documents)
    for block in {id(pair.prompts[0]): pair.prompts[0] for pair in pairs}.values():
        lens.append(len(block.read_offsets) - 1)
        assert len(block.token_ids) <= 2400
    assert len(lens) > 1
    with LLM(str(folder), max_model_len=2400) as llm:
        found = scores(llm, QUERY, documents)
    assert np.abs(np.subtract(found, reference.rerank(QUERY, documents, max_length=2400))).max() < 1e-5


def test_other_calls_in_the_step_do_not_matter(folder: Path) -> None:
    with LLM(str(folder), max_model_len=4096) as llm:
        alone = scores(llm, QUERY, DOCUMENTS)
        queries = [QUERY, "Another question", "A third one"]
        rankings = llm.rerank(queries, DOCUMENTS)
        found = {result.index: result.score for result in rankings[0]}
    assert max(abs(found[i] - score) for i, score in enumerate(alone)) < 1e-6


def test_a_list_of_pairs_is_one_prompt_each(folder: Path, reference: Reference) -> None:
    with LLM(str(folder), max_model_len=4096) as llm:
        queries = [QUERY] * len(DOCUMENTS)
        found = [output.outputs.score for output in llm.score(queries, DOCUMENTS, use_tqdm=False)]
    alone = [reference.rerank(QUERY, [document], max_length=4096)[0] for document in DOCUMENTS]
    assert np.abs(np.subtract(found, alone)).max() < 1e-5


def test_special_tokens_in_texts_move_no_score(folder: Path, reference: Reference) -> None:
    hostile = [DOCUMENTS[0] + EMBED, f"{RERANK}{EMBED} {DOCUMENTS[1]}", DOCUMENTS[2] + "<|im_end|>", EMBED]
    pairs = processor(folder).encode([QUERY + RERANK], hostile)
    block = pairs[0].prompts[0]
    marks = np.isin(block.token_ids, [reference.embed_id, reference.rerank_id])
    assert np.flatnonzero(marks).tolist() == block.read_offsets.tolist()
    assert (block.token_ids == reference.tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 1
    with LLM(str(folder), max_model_len=4096) as llm:
        found = scores(llm, QUERY + RERANK, hostile[:2])
    wanted = reference.rerank(QUERY, [DOCUMENTS[0], f" {DOCUMENTS[1]}"], max_length=4096)
    assert np.abs(np.subtract(found, wanted)).max() < 1e-5


def test_what_is_too_long_is_cut_or_refused_alone(folder: Path) -> None:
    encoder = processor(folder, max_model_len=300)
    long = " ".join(TEXTS)
    pairs = encoder.encode([QUERY], [DOCUMENTS[0], long, DOCUMENTS[1]])
    assert [pair.truncated_document for pair in pairs] == [False, True, False]
    assert all(len(pair.token_ids) <= 300 for pair in pairs)
    found = encoder.encode_each([QUERY], [DOCUMENTS[0], long, DOCUMENTS[1]], PairOptions(truncate=False))
    assert [isinstance(one, Exception) for one in found] == [False, True, False]
    with pytest.raises(ConfigError, match="leaves no room"):
        processor(folder, max_model_len=64)


def test_what_is_no_projector_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_listwise(tmp_path / "model")
    stored = load_file(folder / "model.safetensors")

    def resolved(changes: dict[str, torch.Tensor | None]) -> None:
        tensors = {name: tensor for name, tensor in (stored | changes).items() if tensor is not None}
        save_file(tensors, folder / "model.safetensors")
        resolve_model(ModelConfig(model=str(folder)))

    with pytest.raises(ModelLoadError, match=r"no projector\.2\.weight"):
        resolved({"projector.2.weight": None})
    with pytest.raises(ConfigError, match=r"projector\.0\.bias"):
        resolved({"projector.0.bias": torch.zeros(24)})
    with pytest.raises(ModelLoadError, match="does not fit"):
        resolved({"projector.0.weight": torch.zeros(24, 20)})
    resolved({})
    with pytest.raises(ConfigError, match="listwise"):
        resolve_model(ModelConfig(model=str(folder), hf_overrides={"classifier_from_token": ["no", "yes"]}))
    with pytest.raises(ConfigError, match="score-template"):
        resolve_model(ModelConfig(model=str(folder), score_template="qwen3-reranker"))
    config = json.loads((folder / "tokenizer.json").read_text())
    config["added_tokens"] = [token for token in config["added_tokens"] if token["content"] != EMBED]
    (folder / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="embed_token"):
        processor(folder)


def test_windows_in_some_layers(tmp_path: Path) -> None:
    """As jina-reranker-v3.5 has them; the window is shorter than a document, so it bites."""
    kinds = ["full_attention", "sliding_attention"]
    windows = {"layer_types": kinds, "sliding_window": 8, "use_sliding_window": True}
    folder = make_listwise(tmp_path / "windows", **windows)
    assert processor(folder)._listwise._limits.document_tokens == 8192  # type: ignore[union-attr]
    reference = Reference(folder)
    for budget in (None, 64):
        with LLM(str(folder), max_model_len=4096, max_docs_per_block=3, max_num_batched_tokens=budget) as llm:
            found = scores(llm, QUERY, DOCUMENTS[:4])
        # With less room than a document of 8192 tokens may need, every block has one.
        expected = reference.rerank(QUERY, DOCUMENTS[:4], max_length=4096, max_document=8192)
        assert np.abs(np.subtract(found, expected)).max() < 1e-5
