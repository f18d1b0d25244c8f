"""Command lines that were written for other benches: abbreviated flags, either hyphen, the last of several."""

from __future__ import annotations

import pytest

from engine.entrypoints.bench.flags import expand, parse
from engine.entrypoints.bench.options import ServeOptions, SweepOptions
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--random-input 200", "random_input_len", 200),
        ("--random_input=200", "random_input_len", 200),
        ("--input-len 200", "random_input_len", 200),
        ("--num-p 7", "num_prompts", 7),
        ("--num-prompts 7 --num-prompts 8", "num_prompts", 8),
        ("--compare http://x", "compare", "http://x"),  # a whole name, though others begin with it
        ("--goodput e2el:1 ttfs:2", "goodput", ("e2el:1", "ttfs:2")),
        ("--header a=b --header c=d", "header", ("a=b", "c=d")),
        ("--request-rate inf", "request_rate", float("inf")),
        ("--no_reranker", "no_reranker", True),
        ("--dataset beir", "dataset_name", "beir"),
        ("--endpoint-type tei", "backend", "tei"),
    ],
)
def test_other_spellings(words: str, field: str, value: object) -> None:
    assert getattr(parse(ServeOptions, words.split()), field) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--random 3", "--random is the beginning of several flags: --random-batch-size, --random-input-len"),
        ("--prot 3", "Did you mean --port?"),
        ("--port x", 'Invalid value for --port: unable to convert "x" into int'),
        ("--dataset nothing", 'Choose from: "random-rerank", "jsonl", "beir"'),
        ("stray", "stray"),
    ],
)
def test_mistakes_are_sentences(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse(ServeOptions, words.split())


def test_the_first_options_go_before_the_next() -> None:
    """``--result`` begins one flag of the sweep's own and two of the runs'."""
    assert expand(["--result=x", "--random_in", "5"], SweepOptions, ServeOptions) == [
        "--result-dir=x",
        "--random-input-len",
        "5",
    ]
