"""``engine convert``: what comes out scores as what went in, without flags, in this engine and in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import LLM
from engine.checkpoint.gguf.folder import CACHE_VARIABLE
from engine.config import ModelConfig
from engine.entrypoints.cli import main
from engine.entrypoints.conversion.convert import convert
from engine.errors import ConfigError, ModelLoadError
from tests.families.cases import FAMILIES
from tests.quantized.gguf_writer import write_gguf
from tests.quantized.packers import awq, quantize_folder
from tests.quantized.test_gguf import mixed, plain_scores
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import make_bert, make_qwen3, make_xlm_roberta, official_qwen3_scores

QUERY = "How do plants make food?"
DOCUMENTS = ["Photosynthesis turns light into sugar.", "The engine was repaired.", "Ein Satz auf Deutsch."]
SIZES = {"hidden": 128, "head_dim": 32, "intermediate": 256, "seed": 4}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def ours(model: Path, **options: Any) -> list[float]:
    with LLM(str(model), device="cpu", **options) as llm:
        return [output.outputs.score for output in llm.score(QUERY, DOCUMENTS)]


def converted(model: Path, out: Path, **options: Any) -> list[str]:
    return convert(ModelConfig(model=str(model)), out, dtype="float32", **options)


def as_bin(folder: Path, *, shards: int = 1, old_names: bool = False) -> None:
    """As checkpoints were saved before safetensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if old_names:
        tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in tensors.items()}
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names, weight_map = sorted(tensors), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: tensors[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_tensors_become_safetensors(tmp_path: Path, shards: int) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    expected = official_qwen3_scores(tmp_path / "m", QUERY, DOCUMENTS)
    as_bin(tmp_path / "m", shards=shards)
    done = converted(tmp_path / "m", tmp_path / "out")
    assert ours(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    assert "nothing but tensors was read" in done[0]
    assert "'yes' minus 'no'" in " ".join(done)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n---\n# Qwen3-Reranker-0.6B\n\n## Converted")
    assert official_qwen3_scores(tmp_path / "out", QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-5)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harmed.txt", "w"))


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_qwen3(tmp_path / "m", **SIZES)
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(3), "x": Harmful()}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="cannot be read as tensors alone"):
        converted(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "harmed.txt").exists()
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".convert-*"))


@pytest.mark.parametrize("kind", ["awq", "gguf"])
def test_quantised_weights_become_plain_ones(tmp_path: Path, kind: str) -> None:
    make_qwen3(tmp_path / "m", **SIZES, tied=kind == "gguf")
    if kind == "awq":
        model, twin = tmp_path / "m", quantize_folder(tmp_path / "m", awq)
    else:
        make_qwen3(tmp_path / "n", **SIZES | {"hidden": 256, "head_dim": 64})
        model, twin = write_gguf(tmp_path / "n", mixed, general__name="Qwen3-Reranker-0.6B")
    expected = official_qwen3_scores(twin, QUERY, DOCUMENTS)
    done = converted(model, tmp_path / "out")
    assert "were dequantised" in " ".join(done)
    assert ours(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert official_qwen3_scores(tmp_path / "out", QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", [make_bert, make_xlm_roberta])
def test_two_labels_become_one(tmp_path: Path, make: Any) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make(tmp_path / "m", num_labels=2)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    with torch.inference_mode():
        logits = [model(**tokenizer(QUERY, text, return_tensors="pt")).logits[0] for text in DOCUMENTS]
    expected = [torch.softmax(row, 0)[1].item() for row in logits]
    converted(tmp_path / "m", tmp_path / "out")
    assert ours(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    assert plain_scores(tmp_path / "out", QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "m", **SIZES)
    adapter = make_adapter(tmp_path / "a", base, ["q_proj", "down_proj"], seed=7)
    merged = merge(tmp_path / "merged", base, adapter)
    done = converted(base, tmp_path / "out", adapter=adapter)
    assert "'a' was merged into 4 modules" in " ".join(done)
    assert ours(tmp_path / "out") == pytest.approx(official_qwen3_scores(merged, QUERY, DOCUMENTS), abs=1e-5)


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "m", **SIZES)
    other = make_qwen3(tmp_path / "o", **SIZES | {"layers": 3})
    adapter = make_adapter(tmp_path / "a", other, ["q_proj"])
    with pytest.raises(ModelLoadError, match="which the model has not"):
        converted(base, tmp_path / "out", adapter=adapter)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    with pytest.raises(ConfigError, match="is there already"):
        converted(tmp_path / "m", tmp_path / "m")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tmp_path / "m"), "-o", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert "is ready: engine serve" in capsys.readouterr().out.replace("\n", " ")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.norm.weight"].dtype == torch.bfloat16
    assert stored["score.weight"].dtype == torch.float32
    assert "lm_head.weight" not in stored


def test_old_names_of_norms(tmp_path: Path) -> None:
    make_bert(tmp_path / "m")
    expected = plain_scores(tmp_path / "m", QUERY, DOCUMENTS)
    as_bin(tmp_path / "m", old_names=True)
    converted(tmp_path / "m", tmp_path / "out")
    assert ours(tmp_path / "out") == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------- tokenizers


def old_tokenizer(folder: Path, kind: str) -> None:
    """The older files in place of tokenizer.json."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    model = stored["model"]
    if kind == "vocab.txt":
        (folder / "vocab.txt").write_text("\n".join(sorted(model["vocab"], key=model["vocab"].get)) + "\n")
        return
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize(("make", "kind"), [(make_bert, "vocab.txt"), (make_qwen3, "merges.txt")])
def test_older_tokenizer_files_are_converted_once(tmp_path: Path, make: Any, kind: str) -> None:
    make(tmp_path / "m")
    expected = ours(tmp_path / "m")
    old_tokenizer(tmp_path / "m", kind)
    assert ours(tmp_path / "m") == expected
    (made,) = (tmp_path / "cache" / "tokenizers").glob("*/tokenizer.json")
    stamp = made.stat().st_mtime_ns
    assert ours(tmp_path / "m") == expected
    assert made.stat().st_mtime_ns == stamp


def test_tokens_that_were_added_to_older_files_have_their_ids(tmp_path: Path) -> None:
    from engine.checkpoint.files import load_tokenizer

    make_bert(tmp_path / "m")
    old_tokenizer(tmp_path / "m", "vocab.txt")
    size = len((tmp_path / "m" / "vocab.txt").read_text().splitlines())
    (tmp_path / "m" / "added_tokens.json").write_text(json.dumps({"[PANDA]": size}))
    assert size in load_tokenizer(tmp_path / "m").encode("a [PANDA] eats").ids
    (tmp_path / "m" / "added_tokens.json").write_text(json.dumps({"[PANDA]": size + 9}))
    with pytest.raises(ModelLoadError, match=r"'\[PANDA\]' should have the id"):
        load_tokenizer(tmp_path / "m")


def test_a_sentence_piece_model_is_converted(tmp_path: Path) -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    from engine.checkpoint.files import load_tokenizer
    from engine.checkpoint.slow_tokenizer_program import SAMPLE
    from tests.support.texts import TEXTS

    folder = tmp_path / "m"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_prefix=str(folder / "sp"), vocab_size=1000, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "sp.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, Tokenizer)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    for text in SAMPLE:
        expected = [number + 1 if number else 3 for number in processor.encode(text)]  # as fairseq counts
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m")
    old_tokenizer(tmp_path / "m", "merges.txt")
    vocabulary = json.loads((tmp_path / "m" / "vocab.json").read_text())
    first, second = "a", "b"
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "m" / "vocab.json").write_text(json.dumps(vocabulary)[:-20])
    with pytest.raises(ModelLoadError, match=r"vocab.json and merges.txt cannot be converted"):
        ours(tmp_path / "m")


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match="no older files"):
        ours(tmp_path / "m")


def test_unused_tensors_keep_their_type(tmp_path: Path) -> None:
    """Buffers of whole numbers that old checkpoints carry are not turned into floats."""
    make_bert(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
    save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    convert(ModelConfig(model=str(tmp_path / "m")), tmp_path / "out", dtype="float16")
    assert load_file(tmp_path / "out" / "model.safetensors")["bert.embeddings.position_ids"].dtype == torch.int64


@pytest.mark.parametrize(("family", "key"), [("gemma2", "final_logit_softcapping"), ("granite", "logits_scaling")])
def test_logits_that_are_changed_one_by_one_stay_those_of_tokens(family: str, key: str, tmp_path: Path) -> None:
    entry = FAMILIES[family]
    entry.make(tmp_path / "m", next(iter(entry.shapes)))
    expected = ours(tmp_path / "m", **entry.settings)
    report = convert(ModelConfig(model=str(tmp_path / "m"), **entry.settings), tmp_path / "out", dtype="float32")
    assert any(f"The head stays the language model's: {key}" in line for line in report)
    assert ours(tmp_path / "out", **entry.settings) == expected
