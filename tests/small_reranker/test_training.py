"""The cross-encoder that starts as a bi-encoder: what it is before training, and all stages at toy size."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from benchmarks.small_reranker.__main__ import main
from benchmarks.small_reranker.network import LateCross, TextIds, mean, padded
from benchmarks.small_reranker.package import package
from benchmarks.small_reranker.pipeline import Plan, choose, prepare, run_training
from benchmarks.small_reranker.queries import stem
from benchmarks.small_reranker.sources_debian import parse_manual, parse_translation
from benchmarks.small_reranker.sources_prose import parse_dictionary
from benchmarks.small_reranker.sources_python import STDLIB, docstring_pairs
from benchmarks.small_reranker.states import batches_of
from benchmarks.small_reranker.texts import unique, write_pairs
from benchmarks.small_reranker.train import TrainConfig, learning_rate, ranking_loss, read_upper
from engine import LLM
from tests.support.random_models import save_random

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT in the layout of all-MiniLM-L6-v2."""
    folder = save_random(
        tmp_path_factory.mktemp("bert"), "BertModel", "bert", hidden_size=32, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=256,
    )  # fmt: skip
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("special_tokens_map.json", "config_sentence_transformers.json"):
        (folder / name).write_text("{}")
    return folder


TEXTS = ("how to sort a list", "In Python the method sort puts a list in order.", "Whales are mammals.")


def test_without_crossing_layers_it_is_the_bi_encoder(weights: Path) -> None:
    ids = TextIds(weights, 64)
    reference = BertModel.from_pretrained(weights).eval()
    with torch.inference_mode():
        hidden = [reference(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0) for row in ids(TEXTS)]
    expected = [float(torch.cosine_similarity(hidden[0], other, dim=0)) for other in hidden[1:]]
    query, *documents = ids(TEXTS)
    assert LateCross(weights, 0).score(query, documents) == pytest.approx(expected, abs=1e-5)


def test_upper_layers_see_both_texts_and_lower_ones_only_their_own(weights: Path) -> None:
    """Against transformers, with the mask written out: position by position, side by side."""
    network, (query, document, _) = LateCross(weights, 1), TextIds(weights, 64)(TEXTS)
    model = network.bert
    with torch.inference_mode():
        sides = [model.embeddings(input_ids=torch.tensor([row])) for row in (query, document)]
        for layer in list(model.encoder.layer)[:2]:
            sides = [layer(side) for side in sides]
        hidden = list(model.encoder.layer)[2](torch.cat(sides, 1))[0]
        vectors = hidden[: len(query)].mean(0), hidden[len(query) :].mean(0)
        expected = float(torch.cosine_similarity(*vectors, dim=0))
    padded_too = network.score(query, [document, document + document[1:]])
    assert padded_too[0] == pytest.approx(expected, abs=1e-5)


def test_every_stage_at_toy_size(weights: Path, tmp_path: Path) -> None:
    """That it runs and that what is frozen stays, not that it learns."""
    names = ("email", "logging", "http", "asyncio", "xml", "unittest", "urllib", "importlib", "tkinter", "wsgiref")
    write_pairs(
        tmp_path / "pairs.jsonl", unique(pair for name in names for pair in docstring_pairs(name, STDLIB / name))
    )
    write_pairs(tmp_path / "other_pairs.jsonl", docstring_pairs("json", STDLIB / "json"))
    config = TrainConfig(steps=6, queries_per_step=4, save_every=3, warmup=2)
    plan = Plan(weights, 1, config, {"docstring": 120}, 120, documentation_lists=12, other_lists=6)
    prepare(tmp_path, plan)
    losses = run_training(tmp_path, plan)
    assert len(losses) == 6
    assert all(0 < loss < 10 for loss in losses)
    trained = load_file(tmp_path / "trained" / "upper.safetensors")
    network = LateCross(weights, 1)
    before = {name: tensor.clone() for name, tensor in network.bert.state_dict().items()}
    read_upper(network, trained, 0.5)
    changed = {name for name, tensor in network.bert.state_dict().items() if not tensor.equal(before[name])}
    assert changed
    assert all(name.startswith("encoder.layer.2.") for name in changed)
    found = choose(tmp_path, plan, tmp_path / "trained" / "upper.safetensors")
    assert list(found) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(0 <= value <= 1 for row in found.values() for value in row.values())


def test_the_packaged_folder_says_all_that_it_is(weights: Path, tmp_path: Path) -> None:
    """It is loaded with its own pooling and length, and its scores are those of the folder that it was made of."""
    package(weights, tmp_path / "out", 128)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    with LLM(str(tmp_path / "out"), device="cpu", cpu_threads=1) as ours, LLM(str(weights), device="cpu") as theirs:
        assert (ours.spec.head.pooling, ours.spec.max_model_len) == ("mean", 128)
        scores = [
            [output.outputs.score for output in llm.score(TEXTS[0], TEXTS[1:], use_tqdm=False)]
            for llm in (ours, theirs)
        ]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_the_mean_is_over_the_tokens_alone(weights: Path) -> None:
    ids, kept = padded([[2, 5, 3], [2, 3]], CPU)
    hidden = torch.arange(24.0).view(2, 3, 4)
    expected = torch.nn.functional.normalize(hidden[1, :2].mean(0), dim=0)
    assert torch.allclose(mean(hidden, kept)[1], expected)
    assert ids.tolist() == [[2, 5, 3], [2, 3, 0]]


def test_batches_hold_every_index_once_within_the_budget() -> None:
    lengths = [5, 90, 7, 40, 41, 6, 90]
    batches = batches_of(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 100 for batch in batches)


def test_the_loss_is_least_for_the_teachers_order() -> None:
    taught, config = torch.tensor([[0.8, 0.3, 0.1]]), replace(TrainConfig(), hard_weight=0.0)
    own = ranking_loss(taught, taught, config)
    assert own < ranking_loss(taught.flip(1), taught, config)


@pytest.mark.parametrize("word", ["Files", "files", "FILE", "file"])
def test_forms_of_a_word_share_a_stem(word: str) -> None:
    assert stem(word) == stem("file")


def test_different_words_keep_their_stems() -> None:
    words = ("car", "care", "not", "note", "us", "use", "class", "clas")
    assert len({stem(word) for word in words}) == len(words)


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=100, warmup=10)
    rates = [learning_rate(step, step / 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[-1] < 0.03


def test_parsers_of_the_sources() -> None:
    index = "Package: jq\nDescription-md5: 0\nDescription-en: JSON processor\n Like sed for JSON.\n .\n Fast.\n\n"
    assert list(parse_translation(index)) == [("jq", "JSON processor", "Like sed for JSON.\n\nFast.")]
    manual = parse_manual(
        ".TH A 1\n.SH NAME\nsort \\- sort lines\n.SH DESCRIPTION\nWrite \\fBsorted\\fP lines.\n.nf\nx\n"
    )
    assert manual["NAME"] == "sort - sort lines"
    assert manual["DESCRIPTION"] == "Write sorted lines."
    assert list(parse_dictionary("word\n\n  meaning\nother\n  more\n")) == [
        ("word", "\n  meaning"),
        ("other", "  more"),
    ]


def test_the_command_line_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with mock.patch.object(sys, "argv", ["small_reranker", "collect", str(tmp_path)]), pytest.raises(SystemExit):
        main()
    assert "collect needs --lists, --packages and --wheels" in capsys.readouterr().err
