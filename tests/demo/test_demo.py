"""``make demo``: a ranking with the right passages first, and a published layout with the scores of transformers."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from engine import LLM
from engine.entrypoints.demo import demo
from engine.entrypoints.demo.questions import QUESTIONS, SHOWN
from engine.entrypoints.demo.random_checkpoint import write_random_reranker


def test_the_demo(capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    printed = capfd.readouterr().out
    first, second = printed.split("A small Qwen3-Reranker in the published layout")
    blocks = re.split(r"^Query: ", first, flags=re.MULTILINE)[1:]
    assert len(blocks) == SHOWN
    for block, documents in zip(blocks, islice(QUESTIONS.values(), SHOWN), strict=True):
        arrived = re.findall(r"document (\d) scored (\d\.\d{4})$", block, re.MULTILINE)
        assert sorted(int(index) for index, _ in arrived) == list(range(len(documents)))
        ranked = re.findall(r"^ +\d\. (\d\.\d{4}) [# ]* (\S.*)$", block, re.MULTILINE)
        assert [float(score) for score, _ in ranked] == sorted((float(score) for _, score in arrived), reverse=True)
        assert documents[0].startswith(ranked[0][1]), "the right passage is first"

    assert [("--hf_overrides" in line) for line in re.findall(r"^\$ .*", second, re.MULTILINE)] == [False, True]
    counts = re.findall(r"(\d+) logical tokens, (\d+) computed", second)
    assert len(counts) == 2
    assert all(int(computed) < 0.7 * int(logical) for logical, computed in counts)
    one, other = re.findall(r"  scores (.*)", second)
    assert one == other
    assert len(set(one.split())) == 5  # random weights, and still a score of its own for each document
    (difference,) = re.findall(r"largest difference to transformers .*: (\S+)", second)
    assert float(difference) < 1e-5
    for port in re.findall(r"--port (\d+)", printed):
        assert not demo.is_ready(int(port))


def test_most_of_twenty_questions_have_the_right_passage_first() -> None:
    """The passages lie in both orders: a tie is no right answer."""
    assert len(QUESTIONS) == 20
    with LLM(device="cpu", cpu_threads=1) as llm:
        right = [
            query
            for query, documents in QUESTIONS.items()
            if all(llm.rerank(query, order)[0].document == documents[0] for order in (documents, documents[::-1]))
        ]
    assert len(right) >= 18, sorted(set(QUESTIONS) - set(right))
    assert set(islice(QUESTIONS, SHOWN)) <= set(right)


def test_the_layout_is_the_published_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_random_reranker(tmp_path / "Qwen3-Reranker-random", ["some words to learn from"])
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert all(len(tokenizer.encode(word)) == 1 for word in ("yes", "no"))


def test_without_transformers_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_random_reranker(tmp_path / "Qwen3-Reranker-random", ["some words to learn from"])
    hidden = (
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'transformers' else find(name, *rest); "
    )
    monkeypatch.setattr(demo, "ENGINE", [*demo.ENGINE[:2], hidden + demo.ENGINE[2]])
    said = demo.compare(folder, "q", ["d"], [0.5])
    assert said.startswith("not compared with transformers: transformers is not installed")
