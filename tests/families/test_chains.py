"""Chains of modules that sentence-transformers builds and saves itself: the scores are those of the library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling
from torch import nn

from engine import LLM
from engine.entrypoints.inspection.check import check_pairs
from engine.errors import ConfigError
from tests.families.cases import FAMILIES
from tests.support.chains import add_logit_score, token_id
from tests.support.random_models import randomise, save_random
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [*TEXTS[:10], " ".join(TEXTS[:4]), "yes"]
SIZE = 48
ENCODER = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = ENCODER | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024}
MODERN = ENCODER | {"pad_token_id": 3, "local_attention": 8}
ROLES = (
    "{%- for m in messages if m.role == 'system' %}Task: {{ m.content }}\n{% endfor -%}"
    "<|im_start|>user\n{{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n---\n"
    "{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "<|im_start|>assistant\n{{ '<think>' if add_generation_prompt }}"
)
"""A chat template of no published model."""

Make = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(folder: Path, architecture: str, tokenizer: str, task: str, config: dict[str, Any], **more: Any) -> Any:
    base = save_random(folder / "base", architecture, tokenizer, **config)
    return Transformer(str(base), transformer_task=task, **more)


def answer(transformer: Any, *, single: bool = False) -> LogitScore:
    ids = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    return LogitScore(true_token_id=ids[0], false_token_id=None if single else ids[1])


def decoder(
    folder: Path, *, template: str | None = None, single: bool = False, arguments: Any = None, **more: Any
) -> Any:
    kwargs: dict[str, Any] = {"processor_kwargs": {"chat_template": template}} if template else {}
    if arguments:
        kwargs["processing_kwargs"] = {"chat_template": arguments}
    transformer = network(folder, "Qwen3ForCausalLM", "qwen", "text-generation", DECODER, **kwargs)
    return CrossEncoder(modules=[transformer, answer(transformer, single=single)], device="cpu", **more)


def classifier(folder: Path, *, num_labels: int = 1, config: Any = None, more_kwargs: Any = None, **more: Any) -> Any:
    settings = ENCODER | {"num_labels": num_labels} | (config or {})
    transformer = network(
        folder, "BertForSequenceClassification", "bert", "sequence-classification", settings, **(more_kwargs or {})
    )
    return CrossEncoder(modules=[transformer], device="cpu", **more)


def pooled(
    folder: Path,
    architecture: str,
    tokenizer: str,
    config: dict[str, Any],
    pooling: str,
    *modules: nn.Module,
    **more: Any,
) -> Any:
    transformer = network(folder, architecture, tokenizer, "feature-extraction", config)
    for number, module in enumerate(modules):
        randomise(module, 7 + number)
    return CrossEncoder(modules=[transformer, Pooling(SIZE, pooling), *modules], device="cpu", **more)


def scores(outputs: int = 1, size: int = SIZE) -> Dense:
    return Dense(size, outputs, activation_function=nn.Identity(), module_output_name="scores")


CASES: dict[str, Make] = {
    "LogitScore, two texts": decoder,
    "LogitScore, two texts, one token, raw": lambda f: decoder(f, single=True, activation_fn=nn.Identity()),
    "LogitScore, two texts, a default prompt": lambda f: decoder(
        f, prompts={"web": "Find the passage: ", "code": "Find code: "}, default_prompt_name="web"
    ),
    "LogitScore, messages": lambda f: decoder(f, template=ROLES, activation_fn=nn.Identity()),
    "LogitScore, messages, a default prompt, arguments": lambda f: decoder(
        f, template=ROLES, arguments={"add_generation_prompt": True}, prompts={"web": "Find it"},
        default_prompt_name="web",
    ),
    "LogitScore, messages, prompts without a default": lambda f: decoder(f, template=ROLES, prompts={"web": "Find it"}),
    "classifier": classifier,
    "classifier, raw": lambda f: classifier(f, activation_fn=nn.Identity()),
    "classifier, tanh": lambda f: classifier(f, activation_fn=nn.Tanh()),
    "classifier, a default prompt": lambda f: classifier(f, prompts={"q": "query: "}, default_prompt_name="q"),
    "ettin": lambda f: pooled(
        f, "ModernBertModel", "modernbert", MODERN, "cls",
        Dense(SIZE, SIZE, bias=False, activation_function=nn.GELU()), LayerNorm(SIZE), scores(),
        activation_fn=nn.Identity(),
    ),
    "mean, tanh, another width": lambda f: pooled(
        f, "BertModel", "bert", ENCODER, "mean", Dense(SIZE, 20), scores(size=20)
    ),
    "CLS, residuals, normalised": lambda f: pooled(
        f, "BertModel", "bert", ENCODER, "cls",
        Dense(SIZE, SIZE, activation_function=nn.SiLU(), use_residual=True), Normalize(),
        Dense(SIZE, 12, activation_function=nn.ReLU(), use_residual=True), scores(size=12),
        activation_fn=nn.Identity(),
    ),
    "a decoder's last token": lambda f: pooled(
        f, "Qwen3Model", "qwen", DECODER, "lasttoken", Dense(SIZE, SIZE), scores(), prompts={"a": "x: "},
        default_prompt_name="a",
    ),
    "an encoder's last token": lambda f: pooled(f, "BertModel", "bert", ENCODER, "lasttoken", scores()),
    "modules on a network with a head of its own": lambda f: pooled(
        f, "BertForSequenceClassification", "bert", ENCODER, "cls", scores()
    ),
}  # fmt: skip
TWO_LABELS: dict[str, Make] = {
    "classifier": lambda f: classifier(f, num_labels=2),
    "modules": lambda f: pooled(f, "BertModel", "bert", ENCODER, "cls", Dense(SIZE, SIZE), scores(2)),
}


def save(make: Make, folder: Path) -> tuple[Any, Path]:
    """The model of the library as it loads what it saved, and where that is."""
    torch.manual_seed(0)
    make(folder).save_pretrained(str(folder / "saved"))
    return CrossEncoder(str(folder / "saved"), device="cpu", local_files_only=True), folder / "saved"


def score(folder: Path, documents: Sequence[str] = DOCUMENTS, **settings: Any) -> list[Any]:
    with LLM(model=str(folder), device="cpu", dtype="float32", cpu_threads=1, **settings) as llm:
        return [output.outputs for output in llm.score(QUERY, list(documents), use_tqdm=False)]


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    theirs, folder = save(CASES[name], tmp_path)
    expected = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    assert np.ptp(expected) > 0.01, "the chain does not tell pairs apart"
    found = [one.score for one in score(folder)]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TWO_LABELS)
def test_two_labels_become_the_probability_of_the_second(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, folder = save(TWO_LABELS[name], tmp_path)
    rows = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    expected = torch.softmax(torch.tensor(rows), 1)[:, 1].numpy()
    found = score(folder)
    np.testing.assert_allclose([one.logit for one in found], rows[:, 1] - rows[:, 0], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose([one.score for one in found], expected, atol=1e-5)
    assert "its head has two labels, and became one while loading: row 1 minus row 0" in caplog.text


@pytest.mark.parametrize("template", [None, ROLES])
def test_a_call_gives_another_prompt(template: str | None, tmp_path: Path) -> None:
    prompts = {"prompts": {"web": "Find it: "}, "default_prompt_name": "web"}
    theirs, folder = save(lambda f: decoder(f, template=template, **prompts), tmp_path)
    pairs = [(QUERY, text) for text in DOCUMENTS]
    for prompt in ("Find code: ", None):
        expected = theirs.predict(pairs, prompt=prompt, batch_size=1)
        with LLM(model=str(folder), device="cpu", dtype="float32", cpu_threads=1) as llm:
            outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False, instruction=prompt)
        np.testing.assert_allclose([o.outputs.score for o in outputs], expected, atol=1e-5)


def test_a_chain_that_reads_pictures_too(tmp_path: Path) -> None:
    """Qwen3-VL-Reranker with its files of sentence-transformers: any-to-any, typed parts, a named template."""
    family = FAMILIES["qwen3_vl"]
    folder = family.make(tmp_path, next(iter(family.shapes)))
    (folder / "README.md").unlink(missing_ok=True)
    parts = "selectattr('role', 'eq', '{}') | map(attribute='content') | first | map(attribute='text') | join"
    template = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a search query, retrieve relevant candidates that answer the query.<Query>:"
        "{{ messages | " + parts.format("query") + " }}\n<Document>:{{ messages | " + parts.format("document") + " }}"
        "<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "reranker.jinja").write_text(template)
    logits = {"method": "forward", "method_output_name": "logits"}
    settings = {
        "transformer_task": "any-to-any",
        "modality_config": {"text": logits, "image": logits, "message": logits | {"format": "structured"}},
        "module_output_name": "causal_logits",
        "processing_kwargs": {"chat_template": {"chat_template": "reranker", "add_generation_prompt": True}},
    }
    true_id, false_id = (token_id(folder, word) for word in ("yes", "no"))
    add_logit_score(folder, true_id=true_id, false_id=false_id)
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    documents = [text for text in DOCUMENTS if text.strip() == text]
    expected = family.expected(folder, QUERY, documents)
    np.testing.assert_allclose([one.logit for one in score(folder, documents)], expected, atol=1e-4)


def test_settings_of_older_versions(tmp_path: Path) -> None:
    """Length and lower case in sentence_bert_config.json, and the network in a folder of its own."""
    make = CASES["mean, tanh, another width"]
    _, saved = save(make, tmp_path)
    network_folder = saved / "0_Transformer"
    network_folder.mkdir()
    for file in [file for file in saved.iterdir() if file.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            file.rename(network_folder / file.name)
    modules = json.loads((saved / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (saved / "modules.json").write_text(json.dumps(modules))
    path = network_folder / "sentence_bert_config.json"
    settings = json.loads(path.read_text()) | {"max_seq_length": 64, "do_lower_case": True}
    path.write_text(json.dumps(settings))
    tokenizer = json.loads((network_folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (network_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    theirs = CrossEncoder(str(saved), device="cpu", local_files_only=True)
    expected = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    np.testing.assert_allclose([one.score for one in score(saved)], expected, atol=1e-5, rtol=1e-5)


BI_ENCODERS: dict[str, tuple[list[Callable[[], nn.Module]], dict[str, Any]]] = {
    "Dense and LayerNorm": ([lambda: Dense(SIZE, 24), lambda: LayerNorm(24), Normalize], {}),
    "dot products": ([lambda: Dense(SIZE, 24)], {"similarity_fn_name": "dot"}),
    "dot products of unit vectors": ([Normalize], {"similarity_fn_name": "dot"}),
    "a default prompt for both sides": ([], {"prompts": {"all": "text: "}, "default_prompt_name": "all"}),
    "prompts of their own": ([], {"prompts": {"query": "query: ", "passage": "passage: "}}),
}


@pytest.mark.parametrize("name", BI_ENCODERS)
def test_bi_encoders(name: str, tmp_path: Path) -> None:
    make, settings = BI_ENCODERS[name]
    modules = [one() for one in make]
    for number, module in enumerate(modules):
        randomise(module, number)
    transformer = network(tmp_path, "BertModel", "bert", "feature-extraction", ENCODER)
    model = SentenceTransformer(modules=[transformer, Pooling(SIZE, "mean"), *modules], device="cpu", **settings)
    model.save_pretrained(str(tmp_path / "saved"))
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    query, documents = theirs.encode_query([QUERY]), theirs.encode_document(DOCUMENTS)
    expected = theirs.similarity(query, documents)[0].numpy()
    np.testing.assert_allclose([one.score for one in score(tmp_path / "saved")], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("limit", [24, 40, 61])
def test_a_length_that_cuts_query_and_document(limit: int, tmp_path: Path) -> None:
    """``CrossEncoder(max_length=...)`` as it is saved, and with prompts before a long query."""
    prompts = {"prompts": {"web": "Find the passage: "}, "default_prompt_name": "web"}
    base = save_random(tmp_path / "base", "BertForSequenceClassification", "bert", num_labels=1, **ENCODER)
    made = CrossEncoder(str(base), device="cpu", local_files_only=True, max_length=limit, **prompts)
    made.save_pretrained(str(tmp_path / "saved"))
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    expected = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    np.testing.assert_allclose([one.score for one in score(tmp_path / "saved")], expected, atol=1e-5)


@pytest.mark.parametrize("end", ["<|im_end|>\n<|im_start|>assistant\n", "\nRelevant:"])
def test_messages_that_are_too_long(end: str, tmp_path: Path) -> None:
    """The document alone is cut, and what stands behind it keeps the tokens that it always has."""
    template = ROLES.replace("<|im_end|>\n<|im_start|>assistant\n", end)
    decoder(tmp_path, template=template, activation_fn=nn.Identity()).save_pretrained(str(tmp_path / "saved"))
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    theirs[0].max_seq_length = limit = 52
    expected = theirs.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1)
    found = score(tmp_path / "saved", max_model_len=limit)
    np.testing.assert_allclose([one.score for one in found], expected, atol=1e-5)
    with LLM(model=str(tmp_path / "saved"), device="cpu", cpu_threads=1, max_model_len=limit) as llm:
        (refused,) = llm.score(f"{QUERY} {QUERY}", ["yes"], use_tqdm=False)
    assert "leaves no room for the document, and only that may be cut" in str(refused.error)


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("is_pair", [True, False])
def test_prompts_that_a_pooling_leaves_out(mode: str, is_pair: bool, tmp_path: Path) -> None:
    """``include_prompt: false``: the last token is none of the prompt's, and other poolings are refused."""
    transformer = network(tmp_path, "BertModel", "bert", "feature-extraction", ENCODER)
    pooling = Pooling(SIZE, mode, include_prompt=False)
    prompts = {"prompts": {"query": "Find it: "}, "default_prompt_name": "query"}
    chain = [transformer, pooling, scores()] if is_pair else [transformer, pooling]
    library = CrossEncoder if is_pair else SentenceTransformer
    library(modules=chain, device="cpu", **prompts).save_pretrained(str(tmp_path / "s"))
    if mode != "lasttoken":
        with pytest.raises(ConfigError, match="leaves the tokens of its prompt out"):
            score(tmp_path / "s", DOCUMENTS[:2])
        return
    found = [one.score for one in score(tmp_path / "s", DOCUMENTS[:4])]
    if is_pair:
        expected = CrossEncoder(str(tmp_path / "s"), device="cpu").predict([(QUERY, text) for text in DOCUMENTS[:4]])
    else:
        theirs = SentenceTransformer(str(tmp_path / "s"), device="cpu")
        expected = theirs.similarity(theirs.encode_query([QUERY]), theirs.encode_document(DOCUMENTS[:4]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", [CASES["ettin"], TWO_LABELS["modules"], TWO_LABELS["classifier"]])
def test_engine_check_has_a_reference(make: Make, tmp_path: Path) -> None:
    _, folder = save(make, tmp_path)
    with LLM(model=str(folder), device="cpu", dtype="float32", cpu_threads=1) as llm:
        report = check_pairs(llm, QUERY, DOCUMENTS)
    assert "float32 on CPU" in report.reference
    for pair in report.pairs:
        assert pair.reference_logit == pytest.approx(pair.logit, abs=1e-5)
        assert pair.reference_ids_equal
