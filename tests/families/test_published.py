"""Every entry of the table of published models, built small: the score is the one that its authors publish.

Prompts and formulas are written here as their own code and cards have them, and not taken from the engine's table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import LLM
from engine.checkpoint.published_models import published_models
from engine.errors import ConfigError
from tests.families.cases import FAMILIES
from tests.families.family import Family
from tests.families.oracles import gemma_ids, joined_ids, loaded, mxbai_ids, qwen3_ids
from tests.families.test_chains import CASES as CHAINS
from tests.families.test_chains import save
from tests.support.checkpoints import QWEN3_OVERRIDES
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [text for text in TEXTS[:12] if text.strip() == text and text]
Ids = Callable[[Path, str, Sequence[str]], list[list[int]]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sigmoid(logits: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(logits)


def raw(logits: torch.Tensor) -> torch.Tensor:
    return logits


def fifth(logits: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(logits / 5)


def whole(text: str, *, begin: bool = False) -> Ids:
    """One text with {q} and {d}, tokenised at once; ``begin``: with what the tokenizer puts before a text."""

    def ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
        tokenizer, _ = loaded(folder)
        prompts = [text.replace("{q}", query).replace("{d}", document) for document in documents]
        return [list(tokenizer(prompt, add_special_tokens=begin)["input_ids"]) for prompt in prompts]

    return ids


JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    "provided. {note}<|im_end|>\n<|im_start|>user\n"
)
END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
SKILLROUTER = (
    JUDGE.replace("{note}", 'Note that the answer can only be "yes" or "no".')
    + "<Instruct>: Given a task description, judge whether the skill document is relevant and useful for completing "
    "the task\n\n<Query>: {q}\n\n<Document>: {d}" + END
)
PRISM = (
    JUDGE.replace("{note}", "")
    + "<Instruct>: Given a query and a document, judge whether the document is relevant to the query. Answer "
    '"yes" or "no", then provide in XML:\n1. <contribution>: what the document contributes to the query.\n2. '
    "<evidence>: a self-contained rewrite of relevant content.\n<Query>: {q}\n<Document>: {d}" + END
)
ZERANK = "<|im_start|>system\n{q}<|im_end|>\n<|im_start|>user\n{d}<|im_end|>\n<|im_start|>assistant\n"
CTXL = (
    "Check whether a given document contains information helpful to answer the query.\n<Document> {d}\n<Query> {q} ??"
)
LB = (
    "<|im_start|>system\nGiven a query and a piece of text, output a score of 1-7 based on how related the query is to "
    "the text. 1 means least related and 7 is most related.<|im_end|>\n<|im_start|>user\n<<<Query>>>\n{q}\n\n"
    "<<<Context>>>\n{d}<|im_end|>\n<|im_start|>assistant\n"
)
FOLLOWIR = (
    "<s> [INST] You are an expert Google searcher, whose job is to determine if the following document is relevant to "
    "the query (true/false). Answer using only one word, one of those two choices.\n\nQuery: {q}\nDocument: {d}\n"
    'Relevant (only output one word, either "true" or "false"): [/INST] '
)


@dataclass(frozen=True)
class Answer:
    """A language model's next token: the texts or ids that count, and what is made of their logits."""

    architecture: str
    tokenizer: str
    ids: Ids
    tokens: tuple[str | int, ...]
    score: Callable[[torch.Tensor], torch.Tensor]
    """Of the difference of two logits, of one, or, for more, of all."""


@dataclass(frozen=True)
class Classified:
    """A decoder with a classifier of one row, or of two of which the second means relevant."""

    architecture: str
    tokenizer: str
    ids: Ids
    score: Callable[[torch.Tensor], torch.Tensor]
    labels: tuple[str, ...] = ("LABEL_0",)


def one_to_seven(logits: torch.Tensor) -> torch.Tensor:
    return (torch.softmax(logits, -1) * torch.arange(1, 8)).sum(-1)


NO_YES = ("no", "yes")
DECODERS: dict[str, Answer | Classified] = {
    "Qwen/Qwen3-Reranker-0.6B": Answer("Qwen3ForCausalLM", "qwen", qwen3_ids, NO_YES, sigmoid),
    "tencent/R3-rerank-0.6b": Answer("Qwen3ForCausalLM", "qwen", qwen3_ids, NO_YES, sigmoid),
    "pipizhao/SkillRouter-Reranker-0.6B": Answer("Qwen3ForCausalLM", "qwen", whole(SKILLROUTER), NO_YES, raw),
    "infgrad/Prism-Qwen3-Reranker-4B-exp": Answer("Qwen3ForCausalLM", "qwen", whole(PRISM), NO_YES, sigmoid),
    "mixedbread-ai/mxbai-rerank-base-v2": Answer("Qwen2ForCausalLM", "qwen", mxbai_ids, ("0", "1"), raw),
    "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b": Answer("Qwen3ForCausalLM", "qwen", whole(CTXL), (0,), raw),
    "ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b": Answer(
        "MistralForCausalLM", "mistral", whole(CTXL, begin=True), (0,), raw
    ),
    "zeroentropy/zerank-1": Answer("Qwen3ForCausalLM", "answers", whole(ZERANK), ("Yes",), fifth),
    "zeroentropy/zerank-2": Answer("Qwen3ForCausalLM", "answers", whole(ZERANK), ("Yes",), raw),
    "polaria-tech/zerank-2-reranker-vllm": Classified(
        "Qwen3ForSequenceClassification", "answers", whole(ZERANK), fifth
    ),
    "BAAI/bge-reranker-v2-gemma": Answer("GemmaForCausalLM", "gemma", gemma_ids, ("Yes",), raw),
    "lightblue/lb-reranker-0.5B-v1.0": Answer(
        "Qwen2ForCausalLM", "qwen", whole(LB), ("1", "2", "3", "4", "5", "6", "7"), one_to_seven
    ),
    "jhu-clsp/FollowIR-7B": Answer("MistralForCausalLM", "mistral", whole(FOLLOWIR), ("false", "true"), sigmoid),
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": Classified("Qwen3ForSequenceClassification", "qwen", qwen3_ids, sigmoid),
    "michaelfeil/Qwen3-Reranker-4B-seq": Classified(
        "Qwen3ForSequenceClassification", "qwen", qwen3_ids, sigmoid, NO_YES
    ),
    "michaelfeil/mxbai-rerank-base-v2-seq": Classified(
        "Qwen2ForSequenceClassification", "qwen", mxbai_ids, raw, ("0", "1")
    ),
}
ENCODERS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "cross-encoder/ms-marco-MiniLM-L2-v2": ("bert", raw),
    "ncbi/MedCPT-Cross-Encoder": ("bert", raw),
    "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1": ("xlm-roberta", raw),
    "cross-encoder/reranker-bert-tiny-gooaq-bce-tanh-v3": ("bert", torch.tanh),
    "cross-encoder/ms-marco-TinyBERT-L2": ("bert", sigmoid),
    "hotchpotch/japanese-reranker-cross-encoder-large-v1": ("bert", sigmoid),
    "cross-encoder/qnli-distilroberta-base": ("roberta", sigmoid),
    "BAAI/bge-reranker-base": ("xlm-roberta", sigmoid),
    "BAAI/bge-reranker-v2-m3": ("xlm-roberta", sigmoid),
    "maidalun1020/bce-reranker-base_v1": ("xlm-roberta", sigmoid),
    "jinaai/jina-reranker-v2-base-multilingual": ("xlm-roberta", sigmoid),
    "jinaai/jina-reranker-v1-turbo-en": ("jina_bert", sigmoid),
    "cross-encoder/ms-marco-electra-base": ("electra", sigmoid),
    "ml6team/cross-encoder-mmarco-german-distilbert-base": ("distilbert", sigmoid),
    "antoinelouis/crossencoder-camembert-base-mmarcoFR": ("camembert", sigmoid),
    "mixedbread-ai/mxbai-rerank-xsmall-v1": ("deberta-v2", sigmoid),
    "Alibaba-NLP/gte-reranker-modernbert-base": ("modernbert", sigmoid),
    "Alibaba-NLP/gte-multilingual-reranker-base": ("new", sigmoid),
    "nvidia/llama-nemotron-rerank-1b-v2": ("llama_bidirec", raw),
    "Qwen/Qwen3-VL-Reranker-2B": ("qwen3_vl", sigmoid),
    "jinaai/jina-reranker-m0": ("qwen2_vl", sigmoid),
}
"""Scored as the family's own parity test scores them."""
ETTIN = "cross-encoder/ettin-reranker-17m-v1"


def test_every_entry_is_built_here() -> None:
    built = {*DECODERS, *ENCODERS, ETTIN}
    for model in published_models():
        assert built & set(model.ids), f"{model.ids[0]} and its siblings are in the table and not in this test"
    assert built <= {model_id for model in published_models() for model_id in model.ids}


def family_of(architecture: str) -> Family:
    return next(family for family in FAMILIES.values() if architecture.startswith(f"{family.body}For"))


def rows(folder: Path, ids: Ids, documents: Sequence[str]) -> torch.Tensor:
    """(documents, outputs) logits at the last token, one unpadded prompt at a time, by transformers."""
    _, model = loaded(folder)
    with torch.inference_mode():
        found = [model(input_ids=torch.tensor([prompt])).logits for prompt in ids(folder, QUERY, documents)]
    return torch.stack([row[0] if row.ndim == 2 else row[0, -1] for row in found])


def expected(folder: Path, entry: Answer | Classified) -> list[float]:
    logits = rows(folder, entry.ids, DOCUMENTS)
    if isinstance(entry, Answer):
        tokenizer, _ = loaded(folder)
        columns = [t if isinstance(t, int) else tokenizer.convert_tokens_to_ids(t) for t in entry.tokens]
        logits = logits[:, columns]
    if logits.shape[1] == 2:
        logits = logits[:, 1] - logits[:, 0]
    elif logits.shape[1] == 1:
        logits = logits[:, 0]
    found: list[float] = entry.score(logits).tolist()
    return found


def scores(folder: Path, **settings: Any) -> list[float]:
    with LLM(model=str(folder), device="cpu", dtype="float32", cpu_threads=1, **settings) as llm:
        return [output.outputs.score for output in llm.score(QUERY, DOCUMENTS, use_tqdm=False)]


def build(folder: Path, entry: Answer | Classified, name: str | None, **more: Any) -> Path:
    shape = dict(next(iter(family_of(entry.architecture).shapes.values())))
    shape.pop("config_changes", None)
    if isinstance(entry, Classified):
        labels = {str(number): label for number, label in enumerate(entry.labels)}
        shape |= {"num_labels": len(entry.labels), "pad_token_id": 0, "id2label": labels}
    return save_random(folder, entry.architecture, entry.tokenizer, name=name, **(shape | more))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, tmp_path: Path) -> None:
    entry = DECODERS[name]
    folder = build(tmp_path, entry, name)
    theirs = expected(folder, entry)
    assert np.ptp(theirs) > 0.01, "the model does not tell pairs apart"
    np.testing.assert_allclose(scores(folder), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, tmp_path: Path) -> None:
    model_type, score = ENCODERS[name]
    family = FAMILIES[model_type]
    shape = next(iter(family.shapes.values()))
    folder = family.write(tmp_path, family.architecture, family.tokenizer, name=name, **shape)
    if not (folder / "README.md").is_file():
        (folder / "README.md").write_text(f"# {name}\n")
    logits = torch.tensor(family.expected(folder, QUERY, DOCUMENTS))
    np.testing.assert_allclose(scores(folder), score(logits).numpy(), atol=1e-5, rtol=1e-5)


def test_ettin(tmp_path: Path) -> None:
    theirs, folder = save(CHAINS["ettin"], tmp_path)
    (folder / "README.md").write_text(f"# {ETTIN}\n")
    wanted = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    np.testing.assert_allclose(scores(folder), wanted, atol=1e-5, rtol=1e-5)


IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
STATED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "zeroentropy/zerank-1": ("my-reranker", "zerank-2", {"logit_sigma": 5.0}),
    "zeroentropy/zerank-2": ("Qwen3-Reranker-finetuned", "zerank2.jinja", IDENTITY),
    "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b": ("qwen3-rerank", "ctxl-rerank-v2", IDENTITY),
    "pipizhao/SkillRouter-Reranker-0.6B": ("skill-rerank-0.6b", "skillrouter", IDENTITY),
    "infgrad/Prism-Qwen3-Reranker-4B-exp": ("checkpoint-7", "prism", {}),
    "mixedbread-ai/mxbai-rerank-base-v2": ("mxbai-rerank-mine", "mxbai_rerank_v2.jinja", IDENTITY),
    "BAAI/bge-reranker-v2-gemma": ("rerank", "bge-reranker-v2-gemma", IDENTITY),
    "jhu-clsp/FollowIR-7B": ("followir-rerank", "followir", {}),
}
"""A folder's name that says nothing, or something else; the prompt and the range as flags say them."""


@pytest.mark.parametrize("name", STATED)
def test_flags_say_what_a_folder_of_any_name_is(name: str, tmp_path: Path) -> None:
    """Seen case 1: no word in a name brings the yes and no of Qwen3-Reranker, nor its prompt."""
    entry, (folder_name, template, overrides) = DECODERS[name], STATED[name]
    assert isinstance(entry, Answer)
    folder = build(tmp_path / folder_name, entry, None)
    with pytest.raises(ConfigError, match="nothing in its files says how it ranks"):
        scores(folder)
    tokenizer, _ = loaded(folder)
    tokens = [t if isinstance(t, str) else tokenizer.convert_ids_to_tokens(t) for t in entry.tokens]
    method = "from_2_way_softmax" if len(tokens) == 2 else "no_post_processing"
    overrides = overrides | {"classifier_from_token": tokens, "method": method}
    with pytest.raises(ConfigError, match="nothing says in which prompt it was trained to"):
        scores(folder, hf_overrides=overrides)
    found = scores(folder, hf_overrides=overrides, score_template=template)
    np.testing.assert_allclose(found, expected(folder, entry), atol=1e-5, rtol=1e-5)
    joined = scores(folder, hf_overrides=overrides, score_template="none")
    wanted = expected(folder, replace(entry, ids=joined_ids))
    np.testing.assert_allclose(joined, wanted, atol=1e-5, rtol=1e-5)


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Any chat model's, which a fine-tune keeps."""


@pytest.mark.parametrize("folder_name", ["checkpoint-100", "rerank-v3", "zerank-1-small-ours", "model"])
def test_the_tutorials_overrides_bring_the_prompt(folder_name: str, tmp_path: Path) -> None:
    """Seen case 2, by flags and as a converter saves them in config.json."""
    entry = DECODERS["Qwen/Qwen3-Reranker-0.6B"]
    folder = build(tmp_path / folder_name, entry, None)
    (folder / "chat_template.jinja").write_text(CHAT)
    theirs = expected(folder, entry)
    np.testing.assert_allclose(scores(folder, hf_overrides=QWEN3_OVERRIDES), theirs, atol=1e-5, rtol=1e-5)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | QWEN3_OVERRIDES | {"architectures": ["Qwen3ForCausalLM"]}))
    np.testing.assert_allclose(scores(folder), theirs, atol=1e-5, rtol=1e-5)
