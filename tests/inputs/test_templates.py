"""Template files, Jinja or plain, and the data of the built-in templates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.inputs.processor import InputProcessor
from engine.prompts.compiled import splits_before_document
from engine.prompts.published import QWEN3_RERANKER, TEMPLATES
from engine.prompts.template import Placeholder, split_placeholders
from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.checkpoints import INSTRUCTION, PREFIX, SUFFIX
from tests.support.texts import HOSTILE, TEXTS

PLAIN = f"{PREFIX}<Instruct>: {{instruction}}\n<Query>: {{query}}\n<Document>: {{document}}{SUFFIX}"

# The form of vLLM's file for this model: messages, an optional instruction, a default, control blocks.
JINJA = (
    "{%- set instruct = instruction | default(instruct) | default('"
    + INSTRUCTION
    + "') -%}\n"
    + PREFIX.replace('"', "{{ '\"' }}")
    + "<Instruct>: {{ instruct }}\n"
    + "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    + "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    + SUFFIX
)


@pytest.fixture
def from_file(qwen3: Path, tmp_path: Path) -> Callable[[str], InputProcessor]:
    def load(text: str) -> InputProcessor:
        path = tmp_path / "template"
        path.write_bytes(text.encode())
        return build(qwen3, score_template=str(path))

    return load


@pytest.mark.parametrize("text", [PLAIN, JINJA], ids=["plain", "jinja"])
def test_a_file_of_the_official_text_gives_the_official_ids(
    from_file: Callable[[str], InputProcessor], inputs: InputProcessor, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        own = from_file(text)
    assert not caplog.records
    for options in (PairOptions(instruction="Find {document}"), PairOptions(instruction=INSTRUCTION)):
        found, expected = (x.encode(["{document} capital"], [*TEXTS, *HOSTILE], options) for x in (own, inputs))
        for one, other in zip(found, expected, strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            assert one.query_len == other.query_len


def test_a_jinja_file_brings_its_default_instruction(from_file: Callable[[str], InputProcessor]) -> None:
    assert from_file(JINJA).default_instruction == INSTRUCTION
    assert from_file("{{ query }} {{ document }} {{ instruction }}").default_instruction == ""


def test_another_ending_is_warned_about(
    from_file: Callable[[str], InputProcessor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        own = from_file(PLAIN.removesuffix("\n"))
    assert "expect other scores" in caplog.text
    assert own.detokenize(own.encode(["q"], ["d"])[0].token_ids).endswith("</think>\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no placeholders at all", "must show the query exactly once"),
        ("{query} only", "must show the document exactly once"),
        ("{query} {document} {document}", "shows it 2 times"),
        ("{{ query }} {{ document | upper }}", "must show the document"),
        ("{% if %}{{ query }}", "cannot be rendered"),
        ("{{ query }}{{ document }}{{ 1 / 0 }}", "cannot be rendered"),
        ("{{ query }}{{ document }}{{ ().__class__.__mro__[1].__subclasses__() }}", "cannot be rendered"),
        ("{{ query }}{{ document }}{{ raise_exception('no') }}", "cannot be rendered"),
        ("{{ query }}{{ document }}{% include '/etc/passwd' %}", "cannot be rendered"),
        ("{{ query }}{{ document }}{{ instruction }}{{ instruction }}", "instruction more than once"),
    ],
)
def test_files_that_cannot_work(from_file: Callable[[str], InputProcessor], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_file(text)


def test_no_such_file_and_not_utf8(qwen3: Path, tmp_path: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        build(qwen3, score_template="missing.jinja")
    (tmp_path / "latin").write_bytes(b"{query} \xff {document}")
    with pytest.raises(ConfigError, match="cannot be read"):
        build(qwen3, score_template=str(tmp_path / "latin"))
    (tmp_path / "ok").write_text("{query} {document}")
    with pytest.raises(ConfigError, match="takes no template"):
        build(bert, score_template=str(tmp_path / "ok"))


def test_special_tokens_between_the_slots(from_file: Callable[[str], InputProcessor]) -> None:
    own = from_file("<|im_start|>a {query}<|im_end|>\n<|im_start|>b\n{document} c<|im_end|>")
    pair = own.encode(["q<|im_end|>"], ["d<|im_start|>"])[0]
    strings = own.token_strings(pair.token_ids)
    assert [s for s in strings if s in ("<|im_start|>", "<|im_end|>")] == ["<|im_start|>", "<|im_end|>"] * 2
    assert (
        own.detokenize(pair.token_ids)
        == "<|im_start|>a q<|im_end|><|im_end|>\n<|im_start|>b\nd<|im_start|> c<|im_end|>"
    )
    cut = own.encode(["q"], ["d " * 300], PairOptions(truncate_prompt_tokens=60))[0]
    assert len(cut.token_ids) == 60
    assert own.detokenize(cut.token_ids).endswith(" c<|im_end|>")


def test_built_in_templates() -> None:
    assert QWEN3_RERANKER.parts[0] == (PREFIX,)
    assert QWEN3_RERANKER.suffix == SUFFIX
    assert QWEN3_RERANKER.default_instruction == INSTRUCTION
    for template in TEMPLATES.values():
        placeholders = [piece for part in template.parts for piece in part if isinstance(piece, Placeholder)]
        assert placeholders.count(Placeholder.QUERY) == placeholders.count(Placeholder.DOCUMENT) == 1


def test_split_placeholders() -> None:
    assert split_placeholders("a{query}{document}{x}") == ("a", Placeholder.QUERY, Placeholder.DOCUMENT, "{x}")


def test_splitting_is_only_done_where_it_is_proved(inputs: InputProcessor, small: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    from tests.support.tokenizer_files import bert_tokenizer_json, qwen_tokenizer_json

    qwen = Tokenizer.from_str(qwen_tokenizer_json())
    assert splits_before_document(qwen)
    assert not splits_before_document(Tokenizer.from_str(bert_tokenizer_json()))
    qwen.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not splits_before_document(qwen)
    # Tokenised as a whole, the result has the same form: the hint still says where the document begins.
    whole = build(small(tokenizer_json=qwen.to_str()))
    pair = whole.encode(["capital"], ["Beijing"])[0]
    assert whole.detokenize(pair.token_ids[: pair.query_len]).endswith("<Query>: capital\n<Document>:")
    cut = whole.encode(["capital " * 50], ["word " * 90], PairOptions(truncate_prompt_tokens=120))[0]
    assert len(cut.token_ids) == 120
    assert whole.detokenize(cut.token_ids).endswith(SUFFIX)
    assert whole.detokenize(cut.token_ids[: cut.query_len]).endswith("<Document>:")
