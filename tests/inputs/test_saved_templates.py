"""Prompts that Sentence-Transformers saved with a model: the ids of transformers' ``apply_chat_template``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.chains import add_logit_score, token_id
from tests.support.texts import TEXTS

Make = Callable[..., Path]
PLAIN = (
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n<|im_start|>user\n"
    "{{ messages[1].content }}<|im_end|>\n<|im_start|>assistant\n{{ 'A:' if add_generation_prompt }}\n"
)
QWEN3 = """\
{%- set task = 'Given a web search query, retrieve relevant passages that answer the query' -%}
{%- set ns = namespace(task=task, q='', d='') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{%- set ns.task = message.content -%}{%- endif -%}
  {%- if message.role == 'query' -%}{%- set ns.q = message.content -%}{%- endif -%}
  {%- if message.role == 'document' -%}{%- set ns.d = message.content -%}{%- endif -%}
{%- endfor -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer \
can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ ns.task }}
<Query>: {{ ns.q }}
<Document>: {{ ns.d }}<|im_end|>
<|im_start|>assistant
<think>

</think>{{ '\\n\\n' }}"""
STRUCTURED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{{ bos_token }}"
)


@pytest.fixture
def saved(small: Make) -> Make:
    """A checkpoint with a saved template; arguments are what differs."""

    def make(
        template: str | None = PLAIN,
        *,
        arguments: dict[str, Any] | None = None,
        message_format: str = "flat",
        prompts: dict[str, Any] | None = None,
        name: str | None = None,
        answer: tuple[str, str] | None = None,
        **metadata: Any,
    ) -> Path:
        folder = small(name=name)
        settings = {
            "transformer_task": "text-generation",
            "modality_config": {"message": {"method": "forward", "format": message_format}},
            "processing_kwargs": {"chat_template": arguments or {}},
        }
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        values = {"model_type": "CrossEncoder", **(prompts or {}), **metadata}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(values))
        false_id, true_id = (answer and (token_id(folder, token) for token in answer)) or (None, 900)
        return add_logit_score(folder, true_id=true_id, false_id=false_id)

    return make


def expected(
    folder: Path, query: str, document: str, template: str, instruction: str | None = None, **values: Any
) -> list[int]:
    tokenizer = _tokenizer(str(folder))
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    if instruction:
        messages.insert(0, {"role": "system", "content": instruction})
    if values.pop("structured", False):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    given = {"add_generation_prompt": False} | values
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **given)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def ids(inputs: InputProcessor, query: str, documents: list[str], **options: Any) -> list[list[int]]:
    return [pair.token_ids.tolist() for pair in inputs.encode([query], documents, PairOptions(**options))]


def test_the_ids_are_those_of_transformers(saved: Make) -> None:
    folder = saved(arguments={"add_generation_prompt": True})
    inputs = build(folder)
    wanted = [expected(folder, "capital of China?", text, PLAIN, add_generation_prompt=True) for text in TEXTS]
    assert ids(inputs, "capital of China?", list(TEXTS)) == wanted
    assert inputs.detokenize(wanted[0]).endswith("assistant\nA:")  # its last newline is dropped, as there


def test_an_instruction_is_a_system_message(saved: Make) -> None:
    folder = saved(QWEN3, message_format="auto", prompts={"prompts": {"web": "Find it"}, "default_prompt_name": "web"})
    inputs = build(folder)
    assert inputs.default_instruction == "Find it"
    for given in (None, "Find code"):
        wanted = [expected(folder, "capital", text, QWEN3, given or "Find it") for text in TEXTS]
        assert ids(inputs, "capital", list(TEXTS), instruction=given) == wanted


def test_typed_parts_and_special_tokens(saved: Make) -> None:
    for message_format in ("auto", "structured"):
        folder = saved(STRUCTURED, message_format=message_format)
        inputs = build(folder)
        for given in (None, "Find code"):
            wanted = [expected(folder, "q", text, STRUCTURED, given, structured=True, bos_token="") for text in TEXTS]
            assert ids(inputs, "q", list(TEXTS), instruction=given) == wanted
        for file in [*folder.rglob("*")][::-1]:
            file.rmdir() if file.is_dir() else file.unlink()


def test_the_published_prompt_is_recognised_in_it(saved: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(QWEN3, name="Qwen/Qwen3-Reranker-0.6B", answer=("no", "yes"))
    assert resolve_model(ModelConfig(model=str(folder))).template == "qwen3-reranker"
    other = folder / "chat_template.jinja"
    other.write_text(QWEN3.replace("Query", "Question"))
    spec = resolve_model(ModelConfig(model=str(folder)))
    assert spec.template == f"saved:{folder.resolve()}"
    assert resolve_model(ModelConfig(model=str(folder), score_template="none")).template is None
    with caplog.at_level(logging.WARNING):
        assert "<Question>: capital" in build(folder).detokenize(ids(build(folder), "capital", ["x"])[0])


def test_metadata_tell_head_and_activation(saved: Make) -> None:
    spec = resolve_model(ModelConfig(model=str(saved(activation_fn="torch.nn.modules.linear.Identity"))))
    assert (spec.head.kind, spec.head.token_ids, spec.head.activation) == ("no_post_processing", (900,), "identity")


TRIMMED = "<|im_start|>{{ messages[0].content | trim }}\n--\n{{ messages[1].content.strip() }}<|im_end|>\n"


@pytest.mark.parametrize("structured", [False, True])
def test_white_space_that_a_template_drops(saved: Make, structured: bool) -> None:
    template = TRIMMED.replace(".content", ".content[0].text") if structured else TRIMMED
    folder = saved(template, message_format="structured" if structured else "flat")
    for query, document in ((" a query ", "\n\ttext with  spaces \n"), ("q", "d"), (" q", " ")):
        wanted = expected(folder, query, document, template, structured=structured)
        assert ids(build(folder), query, [document]) == [wanted]
    one_side = template.replace(" | trim", "")
    (folder / "chat_template.jinja").write_text(one_side)
    assert ids(build(folder), " q ", [" d "]) == [expected(folder, " q ", " d ", one_side, structured=structured)]


@pytest.mark.parametrize(
    "change", [" | lower", "[:500]", " | truncate(99)", " | replace('\\n', ' ')", ".lstrip()", " | e"]
)
def test_a_template_that_changes_texts_is_refused(saved: Make, change: str) -> None:
    folder = saved(PLAIN.replace("messages[1].content", f"messages[1].content{change}"))
    with pytest.raises(ConfigError, match=r"does more to a text than to drop|must show the document exactly once"):
        build(folder)


def test_named_templates(saved: Make) -> None:
    folder = saved(None, arguments={"chat_template": "rerank"})
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": "{{ 1 }}"}, {"name": "rerank", "template": PLAIN}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert "capital" in build(folder).detokenize(ids(build(folder), "capital", ["x"])[0])


@pytest.mark.parametrize(
    ("template", "arguments", "error", "message"),
    [
        (None, {}, ModelLoadError, "asks for the chat template 'default'"),
        (PLAIN, {"chat_template": "other"}, ModelLoadError, "asks for the chat template 'other'"),
        (PLAIN, {"tools": [1]}, ConfigError, "the chat template with tools"),
        ("{{ messages[0].content }}", {}, ConfigError, "must show the document exactly once"),
        ("{{ messages[0].content.__class__ }}", {}, ConfigError, "cannot be rendered|exactly once"),
    ],
)
def test_templates_that_cannot_work(
    saved: Make, template: str | None, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder = saved(template, arguments=arguments)
    with pytest.raises(error, match=message):
        build(folder)
