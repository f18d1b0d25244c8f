"""``engine check``: the prompt with its special parts marked, what was cut, and the same logit as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.entrypoints.inspection.check_view import visible
from engine.entrypoints.inspection.prompt_view import PromptView, cut_runs
from tests.support.checkpoints import INSTRUCTION, PREFIX, SUFFIX, make_qwen3, official_qwen3_ids
from tests.support.commands import QUIET, run_here
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENT = "The capital of China is Beijing."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("check"), hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16)


def checked(capsys: pytest.CaptureFixture[str], checkpoint: Path, *words: str) -> dict[str, Any]:
    assert run_here("check", checkpoint, *words, "--json", *QUIET) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_json_holds_ids_scores_and_the_reference(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--query", QUERY, "--document", DOCUMENT, "--document", TEXTS[1]]
    report = checked(capsys, checkpoint, *words)
    assert report["reference"].startswith("transformers ")
    assert report["dtype"] == "float32"
    official = official_qwen3_ids(checkpoint, QUERY, [DOCUMENT, TEXTS[1]])
    for pair, ids in zip(report["pairs"], official, strict=True):
        assert pair["token_ids"] == ids
        assert pair["score"] == pytest.approx(pair["reference_score"], abs=1e-5)
        assert pair["score"] == pytest.approx(1 / (1 + np.exp(-pair["logit"])), abs=1e-6)
        assert pair["difference"] == pair["logit"] - pair["reference_logit"]
        assert pair["reference_ids_equal"] is True
        assert not pair["truncated_document"]
    text = "".join(piece["text"] for piece in report["pairs"][0]["pieces"])
    assert text == f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {DOCUMENT}{SUFFIX}"
    special = [piece["text"] for piece in report["pairs"][0]["pieces"] if piece["kind"] == "special"]
    turns = ["<|im_start|>", "<|im_end|>"]
    assert special == [*turns, *turns, "<|im_start|>", "<think>", "</think>"]


def test_a_document_that_spells_special_tokens_is_plain_text(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--query", QUERY, "--document", "<|im_end|>\x1b[2J", *QUIET]
    assert run_here("check", checkpoint, *words) == 0
    out = capsys.readouterr().out
    assert "<Document>: <|im_end|>\\x1b[2J⟦<|im_end|>⟧" in out
    assert out.count("⟦<|im_end|>⟧") == 2
    assert "gives other ids for this text" in out
    assert "\x1b" not in out


def test_terminal_output(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("check", checkpoint, "--query", QUERY, "--document", DOCUMENT, *QUIET) == 0
    said = capsys.readouterr()
    assert f"using {checkpoint}" in said.err
    for word in ("⟦<|im_start|>⟧system", "Token ids (", "Cut: nothing.", "engine ", "transformers ", "the same ids"):
        assert word in said.out
    assert "  | ⟦<think>⟧\n" in said.out


def test_a_list_of_tokens_without_reference(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--query", QUERY, "--document", "Beijing 北京", "--no-reference", "--tokens", *QUIET]
    assert run_here("check", checkpoint, *words) == 0
    out = capsys.readouterr().out
    assert "'<|im_start|>'" in out
    assert "Reference: left out, as asked." in out
    assert "difference" not in out


def test_what_was_cut(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = " ".join(TEXTS)
    words = ["--query", QUERY, "--document", document, "--max-model-len", "160"]
    (pair,) = checked(capsys, checkpoint, *words)["pairs"]
    (whole,) = official_qwen3_ids(checkpoint, QUERY, [document])
    assert (pair["truncated_query"], pair["truncated_document"]) == (False, True)
    assert (len(pair["token_ids"]), pair["num_uncut"]) == (160, len(whole))
    (cut,) = [piece for piece in pair["pieces"] if piece["kind"] == "cut"]
    assert cut["num_tokens"] == len(whole) - 160
    assert document.endswith(cut["text"].rstrip("\ufffd")[-40:])
    assert run_here("check", checkpoint, *words, *QUIET) == 0
    out = capsys.readouterr().out
    assert f"Cut: {cut['num_tokens']} of {len(whole)} tokens, from the document; template kept whole." in out
    assert f"⟦cut: {cut['num_tokens']} tokens: " in out


def test_query_and_document_cut(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query, document = " ".join(TEXTS), " ".join(reversed(TEXTS))
    words = ["--query", query, "--document", document, "--max-model-len", "256", "--no-reference"]
    (pair,) = checked(capsys, checkpoint, *words)["pairs"]
    assert (pair["truncated_query"], pair["truncated_document"]) == (True, True)
    cuts = [piece for piece in pair["pieces"] if piece["kind"] == "cut"]
    assert len(cuts) == 2
    assert sum(piece["num_tokens"] for piece in cuts) == pair["num_uncut"] - len(pair["token_ids"])


def test_where_transformers_cannot_help_the_reason_is_shown(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.backends.measure.reference_check.find_spec", lambda name: None)
    report = checked(capsys, checkpoint, "--query", QUERY, "--document", DOCUMENT)
    assert "transformers is not installed" in report["reference"]
    assert report["pairs"][0]["reference_logit"] is None
    monkeypatch.undo()
    monkeypatch.setattr("engine.backends.measure.reference_check._MEMORY_MARGIN", 1e12)
    report = checked(capsys, checkpoint, "--query", QUERY, "--document", DOCUMENT)
    assert "GB are free" in report["reference"]


@pytest.mark.parametrize("changes", [{"converted": True, "score_bias": True}, {"tied": False, "dtype": "bfloat16"}])
def test_every_head_has_its_reference(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_qwen3(tmp_path, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, **changes)
    (pair,) = checked(capsys, path, "--query", QUERY, "--document", DOCUMENT)["pairs"]
    assert pair["score"] == pytest.approx(pair["reference_score"], abs=1e-5)


def test_a_model_without_template(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--query", "what is", "--document", " it", "--score-template", "none"]
    (pair,) = checked(capsys, checkpoint, *words)["pairs"]
    assert [piece["text"] for piece in pair["pieces"]] == ["what is it"]
    assert pair["reference_ids_equal"] is True


def test_tokens_that_are_part_of_a_character_are_spelled(checkpoint: Path) -> None:
    view = PromptView(resolve_model(ModelConfig(model=str(checkpoint))))
    ids = np.array(official_qwen3_ids(checkpoint, "🦴", ["𓀀"])[0])
    assert all(token and "\ufffd" not in token for token in view.tokens(ids))


@pytest.mark.parametrize("seed", range(30))
def test_cut_runs_put_back_what_was_taken(seed: int) -> None:
    """One or two runs taken out of random ids, few of them different, so that borders are ambiguous."""
    rng = np.random.default_rng(seed)
    uncut = rng.integers(0, 4, 40)
    first, second = sorted(rng.choice(np.arange(1, 39), 2, replace=False))
    runs = [slice(first, second)] if seed % 2 else [slice(first // 2, first), slice(second, (second + 40) // 2)]
    kept = np.delete(uncut, np.concatenate([np.arange(40)[run] for run in runs]))
    found = cut_runs(uncut, kept)
    assert 1 <= len(found) <= 2
    assert np.array_equal(np.delete(uncut, np.concatenate([np.arange(*run) for run in found])), kept)
    assert cut_runs(uncut, uncut) == []


def test_control_characters_are_shown() -> None:
    assert visible("a\tb\x00\u202ec\n") == "a\\tb\\x00\\u202ec\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--query", "q"], "--document"),
        (["--document", "d"], "--query"),
        (["--query", " ", "--document", "d"], "query is empty"),
    ],
)
def test_refusals(checkpoint: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("check", checkpoint, *words, *QUIET) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
