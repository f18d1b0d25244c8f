"""Whole models: a quantised checkpoint gives the scores that its numbers, plain, give in transformers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import LLM
from engine.entrypoints.cli import main
from tests.quantized.gguf_writer import write_gguf
from tests.quantized.packers import quantize_folder
from tests.quantized.reference_packages import COMPRESSED
from tests.quantized.test_formats import LAYOUTS, PACKAGES
from tests.support.checkpoints import make_qwen3, official_qwen3_scores

QUERY = "How do plants make food?"
DOCUMENTS = ["Photosynthesis turns light into sugar.", "The engine was repaired.", "Ein Satz auf Deutsch."]
NAMES = [
    "awq", "gptq act order", "gptq 8 bits", "auto-round", "fp8 blocks", "fp8 tensor", "modelopt nvfp4", "modelopt awq",
    "hqq", "nf4 1", "int8", "pack-quantized-asymmetric", "mxfp4-pack-quantized",
]  # fmt: skip


def make(folder: Path, name: str, **changes: object) -> Path:
    """The quantised checkpoint in ``folder``; returns its plain twin."""
    shape = {"hidden": 128, "head_dim": 32, "intermediate": 192, "seed": 4} | changes
    make_qwen3(folder, **shape)
    return quantize_folder(folder, (LAYOUTS | PACKAGES)[name])


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_same_numbers_in_transformers(tmp_path: Path, name: str) -> None:
    twin = make(tmp_path / "m", name)
    with LLM(str(tmp_path / "m"), device="cpu") as llm:
        scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS)]
    assert scores == pytest.approx(official_qwen3_scores(twin, QUERY, DOCUMENTS), abs=1e-5)


def test_every_scheme_is_tested_somewhere() -> None:
    assert set(COMPRESSED) <= set(PACKAGES)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [("awq", None), ("gptq", "int16"), ("pack-quantized", None), ("nvfp4-pack-quantized", "int8"), ("nf4 1", "int16"),
     ("hqq", "int8")],
)  # fmt: skip
def test_weights_of_4_bits_stay_so(tmp_path: Path, name: str, quantization: str | None) -> None:
    twin = make(tmp_path / "m", name, hidden=256, intermediate=512, head_dim=64)
    sizes, scores = [], []
    for model in (tmp_path / "m", twin):
        with LLM(str(model), device="cpu", quantization=quantization) as llm:
            sizes.append(llm.info.weight_bytes)
            scores.append([output.outputs.score for output in llm.score(QUERY, DOCUMENTS)])
    bound = {None: 1e-5, "int16": 3e-3, "int8": 6e-2}[quantization]
    assert scores[0] == pytest.approx(official_qwen3_scores(twin, QUERY, DOCUMENTS), abs=bound)
    assert sizes[0] < 0.97 * sizes[1]


@pytest.mark.parametrize("name", ["gptq 8 bits", "int8", "int-quantized", "hqq 8 bits"])
def test_weights_of_8_bits_stay_so_in_fp32(tmp_path: Path, name: str) -> None:
    twin = make(tmp_path / "m", name, hidden=256, intermediate=512, head_dim=64)
    sizes, scores = [], []
    for model in (tmp_path / "m", twin):
        with LLM(str(model), device="cpu") as llm:
            sizes.append(llm.info.weight_bytes)
            scores.append([output.outputs.score for output in llm.score(QUERY, DOCUMENTS)])
            stays = any("stay in 8 bits, computed in float32" in note for note in llm.info.notes)
            assert stays == (model != twin)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    linear = 2 * (256 * 64 * (4 + 2 * 2 + 4) + 3 * 256 * 512)
    assert sizes[1] - sizes[0] > 2.5 * linear  # 1 to 1.3 bytes instead of 4


def test_check_says_what_the_weights_are_stored_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "m", "awq")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(tmp_path / "m"), "--device", "cpu", "--query", QUERY, "--document", DOCUMENTS[0]])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "weights are quantised: AWQ, 4 bits in groups of 32 (4.62 bits a weight)" in shown
    assert "not quantised are embed_tokens" in shown


def test_check_of_a_gguf_file_says_its_types_and_that_there_is_no_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_qwen3(tmp_path / "m", layers=1, hidden=256, head_dim=64, intermediate=256)
    kinds = {"attn_v": "F16", "ffn_down": "Q6_K", "token_embd": "F16"}
    path, _ = write_gguf(
        tmp_path / "m", lambda name: next((kind for part, kind in kinds.items() if part in name), "Q4_K"),
        with_twin=False, general__name="Qwen3-Reranker-0.6B",
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path), "--device", "cpu", "--query", QUERY, "--document", DOCUMENTS[0]])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"weights are quantised: GGUF \(F16, Q4_K, Q6_K, F32\) \([45]\.\d\d bits a weight\)", shown)
    assert "stay in 4 bits and" in shown
    assert "not quantised are embed_tokens, layers.0.self_attn.v_proj" in shown
    assert "Reference: the weights are a GGUF file; engine convert" in shown
