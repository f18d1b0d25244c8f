"""GGUF: blocks and headers against the package ``gguf``, tokenizers against the originals, whole models."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from engine import LLM
from engine.backends.loading.formats.gguf_blocks import DECODERS
from engine.checkpoint.gguf.folder import CACHE_VARIABLE
from engine.checkpoint.gguf.header import BLOCK_TYPES, read_gguf
from engine.checkpoint.gguf.tokenizer import build_tokenizer
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ModelLoadError
from tests.quantized.gguf_writer import RANDOM_BLOCKS, random_blocks, write_gguf
from tests.support.checkpoints import make_bert, make_qwen3, make_xlm_roberta, official_qwen3_scores
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

QUERY = "How do plants make food?"
DOCUMENTS = ["Photosynthesis turns light into sugar.", "The engine was repaired.", "Ein Satz auf Deutsch."]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def mixed(name: str) -> str:
    """As a file of many types: whatever has a test's sizes."""
    order = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "IQ4_NL", "F16", "F32"]
    kinds = {"attn_q": "Q4_K", "attn_v": "Q6_K", "ffn_down": "Q5_K", "ffn_up": "IQ4_XS", "ffn_gate": "Q3_K"}
    if name == "token_embd.weight":
        return "Q8_0"
    part = name.split(".")[-2]
    return order[sum(name.encode()) % len(order)] if name.startswith("blk.0") else kinds.get(part, "Q4_K")


@pytest.mark.parametrize("number", [n for n, block in BLOCK_TYPES.items() if block.name in DECODERS])
def test_blocks_are_the_numbers_of_the_package(number: int) -> None:
    block = BLOCK_TYPES[number]
    type_ = gguf.GGMLQuantizationType(number)
    assert gguf.GGML_QUANT_SIZES[type_] == (block.values, block.num_bytes)
    raw = (
        random_blocks(block.name, 8, 4 * block.values, seed=number)
        if block.name in RANDOM_BLOCKS
        else gguf.quants.quantize(np.random.default_rng(0).standard_normal((8, 4 * block.values), np.float32), type_)
    )
    blocks = torch.from_numpy(raw.copy()).view(8, 4, block.num_bytes)
    assert np.array_equal(DECODERS[block.name](blocks).numbers().numpy(), gguf.quants.dequantize(raw, type_))


def test_blocks_by_hand() -> None:
    def decoded(kind: str, text: str) -> list[float]:
        raw = torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8).view(1, 1, -1)
        return DECODERS[kind](raw).numbers()[0, :8].tolist()

    expected = [0.476, -0.317, 0.159, -1.27, 0, 0.952, -0.476, 0.793]
    assert decoded("Q4_0", "14318b868980888e858d" + "88" * 8) == pytest.approx(expected, abs=1e-3)
    assert decoded("MXFP4", "7d040a010f00060c05" + "00" * 8) == [0.5, -0.25, 0.125, -1.5, 0, 1, -0.5, 0.75]


SIZES = {"hidden": 256, "head_dim": 64, "intermediate": 512, "seed": 4}


@pytest.mark.parametrize("head", ["", "cls"])
def test_a_qwen3_reranker_scores_as_its_numbers_do_in_transformers(tmp_path: Path, head: str) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    path, twin = write_gguf(
        tmp_path / "m", mixed if not head else lambda name: "F16", head=head, general__name="Qwen3-Reranker-0.6B"
    )
    with LLM(str(path), device="cpu") as llm:
        scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS)]
    # The rows of the head were written before they were quantised with the embedding.
    bound = 1e-5 if not head else 5e-3
    assert scores == pytest.approx(official_qwen3_scores(twin, QUERY, DOCUMENTS), abs=bound)


def plain_scores(folder: Path, query: str, documents: list[str]) -> list[float]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = [model(**tokenizer(query, text, return_tensors="pt")).logits[0, 0] for text in documents]
    return [torch.sigmoid(logit).item() for logit in logits]


def test_an_xlm_roberta_scores_as_its_numbers_do_in_transformers(tmp_path: Path) -> None:
    make_xlm_roberta(tmp_path / "m", hidden=64, intermediate=128)
    path, twin = write_gguf(tmp_path / "m", lambda name: "F32" if "types" in name or "position" in name else "Q5_1")
    with LLM(str(path), device="cpu") as llm:
        scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS)]
    assert scores == pytest.approx(plain_scores(twin, QUERY, DOCUMENTS), abs=1e-5)


@pytest.mark.parametrize(("family", "tokenizer"), [("Llama", "llama"), ("Gemma", "gemma"), ("Qwen2", "qwen")])
def test_rows_are_put_back_as_they_were(tmp_path: Path, family: str, tokenizer: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    save_random(tmp_path / "m", f"{family}ForCausalLM", tokenizer, num_key_value_heads=2, head_dim=16, **sizes)
    path, twin = write_gguf(tmp_path / "m", lambda name: "Q8_0")
    overrides = {
        "architectures": [f"{family}ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "method": "from_2_way_softmax",
    }
    found = []
    for model in (path, twin):
        with LLM(str(model), device="cpu", hf_overrides=overrides, score_template="none") as llm:
            assert any("0 M of them stay in 8 bits" in note for note in llm.info.notes) == (model == path)
            assert not any("not quantised are layers" in note for note in llm.info.notes)
            found.append([output.outputs.score for output in llm.score(QUERY, DOCUMENTS)])
    assert found[0] == pytest.approx(found[1], abs=2e-6)


def test_divisors_of_frequencies_are_taken(tmp_path: Path) -> None:
    """``rope_freqs.weight``, which llama.cpp makes of Llama 3's scaling."""
    from engine.backends.nn.rotary import rope_tables

    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {"rope_theta": 5e5, "rope_scaling": scaling | {"original_max_position_embeddings": 64}}
    scaled = rope_tables(config, 32, 20, torch.device("cpu"))
    plain, one = (
        rope_tables({"rope_theta": 5e5}, 32, 2, torch.device("cpu")),
        rope_tables(config, 32, 2, torch.device("cpu")),
    )
    divisors = (plain[1][1].asin() / one[1][1].asin()).tolist()
    rope = {"rope_type": "divided", "divisors": divisors}
    divided = rope_tables({"rope_theta": 5e5, "rope_scaling": rope}, 32, 20, torch.device("cpu"))
    torch.testing.assert_close(divided, scaled, atol=1e-5, rtol=0)


def test_a_bert_cross_encoder_lost_its_pooler(tmp_path: Path) -> None:
    make_bert(tmp_path / "m", hidden=64, intermediate=128)
    path, _ = write_gguf(tmp_path / "m", lambda name: "F32")
    with pytest.raises(ModelLoadError, match="dropped the pooler"):
        resolve_model(ModelConfig(model=str(path)))


@pytest.mark.parametrize("kind", ["qwen", "bert", "xlm-roberta", "llama", "gemma"])
def test_the_tokenizer_gives_the_ids_of_the_original(tmp_path: Path, kind: str) -> None:
    sizes = {"hidden": 64, "intermediate": 128}
    if kind in ("llama", "gemma"):
        save_random(
            tmp_path / "m", f"{kind.title()}ForCausalLM", kind, hidden_size=64, intermediate_size=64,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        )  # fmt: skip
    else:
        {"qwen": make_qwen3, "bert": make_bert, "xlm-roberta": make_xlm_roberta}[kind](tmp_path / "m", **sizes)
    path, _ = write_gguf(tmp_path / "m", lambda name: "F32")
    original, rebuilt = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json")), build_tokenizer(read_gguf(path))
    if kind == "llama":  # its test tokenizer composes, which Llama's own does not
        texts = [text for text in TEXTS if unicodedata.is_normalized("NFC", text)]
    elif kind == "xlm-roberta":  # its test tokenizer composes by NFKC, for which files have a map of characters
        texts = [text for text in TEXTS if text.isascii()]
    else:
        texts = [*TEXTS, "<|im_start|>user\nyes<|im_end|>", "two  spaces", ""]
    for text in texts:
        assert rebuilt.encode(text).ids == original.encode(text).ids, text
    pair = original.encode("a b", "c d")
    assert (rebuilt.encode("a b", "c d").ids, rebuilt.encode("a b", "c d").type_ids) == (pair.ids, pair.type_ids)


def test_a_split_file_is_one_model(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    path, _ = write_gguf(tmp_path / "m", mixed, split__count=2, split__no=0, file="a-00001-of-00002.gguf")
    with pytest.raises(ModelLoadError, match=r"a-00002-of-00002.gguf is missing"):
        read_gguf(path)
    make_qwen3(tmp_path / "n", **SIZES | {"layers": 1})
    other, _ = write_gguf(tmp_path / "n", mixed, split__count=2, split__no=1, file="a-00002-of-00002.gguf")
    with pytest.raises(ModelLoadError, match="in another part as well"):
        read_gguf(other)


def test_a_folder_of_several_files_needs_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        (folder / name).write_bytes(b"")
    with pytest.raises(ModelLoadError, match="holds 2 GGUF models"):
        resolve_model(ModelConfig(model=str(folder)))


def test_an_unknown_split_rule_asks_for_the_tokenizer(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m", **SIZES)
    path, _ = write_gguf(tmp_path / "m", lambda name: "F16", general__name="Qwen3-Reranker-0.6B")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00qwen2", b"\x05\x00\x00\x00\x00\x00\x00\x00other"))
    with pytest.raises(ModelLoadError, match=r"splits text by the rule 'other'.*--tokenizer"):
        resolve_model(ModelConfig(model=str(path)))
    resolve_model(ModelConfig(model=str(path), tokenizer=str(tmp_path / "m")))
