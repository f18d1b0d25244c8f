"""``engine plan``: the numbers of a config are those of the checkpoint, the arithmetic is right, the advice follows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends.data_sheet import data_sheets, recognise
from engine.backends.loading.weights import open_checkpoint
from engine.backends.models import find_family
from engine.backends.worker import Worker
from engine.devices import DEVICES
from engine.entrypoints.planning.estimate import Option, Workload, options
from engine.entrypoints.planning.model_shape import ModelShape
from engine.kernels.cpu import available
from tests.backends.plans import config_of, spec_of
from tests.families.cases import FAMILIES
from tests.families.family import Family
from tests.support.checkpoints import make_bert, make_qwen3
from tests.support.commands import run_here

QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "vocab_size": 151669,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
QWEN_8B = QWEN | {
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
}
HEADS = ("pre_classifier.", "lm_head.", "score.", "classifier.", "pooler.", "head.", "dense.")
"""How the tensors of score heads begin, and of what is not read."""
H200, L4 = data_sheets()["h200"], data_sheets()["l4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of which only config.json is there: more is not needed."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    assert run_here("plan", *words, "--json") == code
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize(
    ("family", "shape"),
    [pytest.param(row, shape, id=f"{name}: {shape}") for name, row in FAMILIES.items() for shape in row.shapes],
)
def test_each_family_is_planned_at_the_weights_of_its_checkpoints(family: Family, shape: str, tmp_path: Path) -> None:
    """All that its files hold, but for the head: a few rows, or a copy of the embedding."""
    folder = family.make(tmp_path / "model", shape)
    config = json.loads((folder / "config.json").read_text())
    prefix = find_family(config["model_type"]).CHECKPOINT_PREFIX
    stored = {
        name: math.prod(info.shape)
        for name, info in open_checkpoint(str(folder), prefix).items()
        if not name.startswith(HEADS)
    }
    planned = ModelShape.of(config)
    assert planned.params == sum(stored.values())
    assert 0 < planned.linear_params < planned.params
    assert planned.causal == (planned.kv_bytes("float32") > 0)


def test_published_sizes() -> None:
    shape = ModelShape.of(QWEN)
    assert shape.linear_params == pytest.approx(0.440e9, rel=0.002)
    assert shape.kv_bytes("bfloat16") == 112 * 1024
    assert shape.activation_bytes("bfloat16") == 24 * 1024
    assert ModelShape.of(QWEN_8B).linear_params == pytest.approx(6.946e9, rel=0.002)


def options_of(config: dict[str, Any], device: str, count: int, max_len: int = 8192) -> list[Option]:
    return options(ModelShape.of(config), data_sheets()[device], count, Workload(), max_len)


def test_a_model_that_fits_becomes_replicas() -> None:
    narrow, fp8, _ = options_of(QWEN, "h200", 8)
    assert (narrow.tensor_parallel_size, narrow.data_parallel_size, narrow.fits) == (1, 8, True)
    one = options_of(QWEN, "h200", 1)[0]
    assert narrow.tokens_per_s == pytest.approx(8 * one.tokens_per_s)
    assert narrow.call_s == one.call_s, "more replicas make no single call faster"
    assert fp8.weight_bytes < narrow.weight_bytes
    assert fp8.tokens_per_s > narrow.tokens_per_s
    # 0.85 GFLOP and some attention a token at 60 % of 788 TFLOP/s.
    assert 400e3 < one.tokens_per_s < 788e12 * 0.6 / ModelShape.of(QWEN).token_flop
    assert one.pairs_per_s == pytest.approx(one.tokens_per_s * 100 / 19090)


def test_a_model_too_large_for_one_device_is_divided() -> None:
    narrow, fp8, _ = options_of(QWEN_8B, "l4", 4, 40960)
    assert (narrow.tensor_parallel_size, narrow.data_parallel_size) == (2, 2)
    assert (fp8.tensor_parallel_size, fp8.data_parallel_size) == (1, 4)
    nowhere = options_of(QWEN_8B, "l4", 1, 40960)[0]
    assert not nowhere.fits
    assert nowhere.tokens_per_s == 0


def test_a_group_never_has_a_size_that_does_not_divide_the_heads() -> None:
    heavy = QWEN_8B | {"num_attention_heads": 40, "num_hidden_layers": 100}
    for count in range(1, 17):
        for option in options_of(heavy, "l4", count):
            assert option.tensor_parallel_size in (1, 2, 4, 8), "40 heads, 8 key/value heads"
            assert option.tensor_parallel_size * option.data_parallel_size <= count


def test_links_cost_what_they_cost() -> None:
    """Two devices are less than twice as fast as one, and slower over slower links."""
    shape, work = ModelShape.of(QWEN_8B), Workload()
    whole = replace(L4, memory_bytes=200e9)
    one = options(shape, whole, 1, work, 4096)[0]
    small = replace(L4, memory_bytes=12e9)
    pair = options(shape, small, 2, work, 4096)[0]
    slow = options(shape, replace(small, link=small.link / 16), 2, work, 4096)[0]
    assert pair.tensor_parallel_size == slow.tensor_parallel_size == 2
    assert one.tokens_per_s < pair.tokens_per_s < 2 * one.tokens_per_s
    assert slow.tokens_per_s < pair.tokens_per_s
    assert slow.bound == "links"


def test_small_steps_wait_for_the_weights() -> None:
    starved = replace(H200, token_budget=16)
    assert options(ModelShape.of(QWEN), starved, 1, Workload(), 4096)[0].bound == "memory"


def test_an_encoder_shares_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    shape = ModelShape.of(json.loads((make_bert(tmp_path / "bert") / "config.json").read_text()))
    assert shape.kv_bytes("float32") == 0
    shape = ModelShape.of(QWEN)
    assert Workload().computed_tokens(replace(shape, causal=False), 8192) == 28_000
    assert Workload().computed_tokens(shape, 8192) == 19_090


def test_lists_and_texts_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listwise = ModelShape.of(QWEN | {"architectures": ["JinaForRanking"]})
    work = Workload()
    assert listwise.token_flop > ModelShape.of(QWEN).token_flop  # the last layer is whole
    assert work.block_documents(8192) == (8192 - 90) // 190 == 42
    assert work.computed_tokens(listwise, 8192) == 3 * 90 + 19_000
    assert work.mean_keys(listwise, 8192) == 90 + 42 * 95
    assert replace(work, block=10).computed_tokens(listwise, 8192) == 10 * 90 + 19_000
    late = replace(listwise, reads="texts", causal=False)
    assert (work.computed_tokens(late, 512), work.mean_keys(late, 512)) == (19_090, 190)
    (folder / "config.json").write_text(json.dumps(QWEN | {"architectures": ["JinaForRanking"]}))
    report = planned(capsys, folder, "--device", "h200", "--max-model-len", "8192")
    assert any("42 documents" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200, compute capability 9.0", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Ascend910B3", "910b"),
        ("Ascend910_9391", "910c"),
        ("Ascend310P3", "310p"),
        ("NVIDIA T4", None),
    ],
)
def test_drivers_names(driver: str, name: str | None) -> None:
    found = [sheet.name for row in DEVICES if (sheet := recognise(row.name, driver))]
    assert found == ([name] if name else [])


def test_the_command_suggests_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = planned(capsys, folder, "--device", "h200", "--devices", "4")
    assert report["command"] == f"engine serve {folder} --device cuda -dp 4"
    assert any("--quantization fp8" in note for note in report["notes"])
    report = planned(capsys, folder, "--device", "h200", "--quantization", "fp8", "--max-model-len", "2k")
    assert report["command"] == f"engine serve {folder} --device cuda --quantization fp8 --max-model-len 2000"


def test_what_does_not_fit_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_8B | {"num_hidden_layers": 200}))
    report = planned(capsys, tmp_path, "--device", "l4", code=1)
    assert report["command"] is None
    assert "does not fit: weights of" in report["notes"][0]


def test_the_table_is_readable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("plan", folder, "--device", "910b", "--devices", "2") == 0
    out = capsys.readouterr().out
    assert "w8a8" in out
    assert "596 million weights" in out
    assert out.rstrip().endswith(f"engine serve {folder} --device npu -dp 2")


def test_this_machine_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_qwen3(tmp_path / "model", hidden=256, intermediate=512)
    report = planned(capsys, tmp_path / "model", "--device", "cpu", "--cpu-threads", "1")
    rates = report["device"]["rates"]
    assert rates["float32"] > 1e9, "a core multiplies more than a thousand million times a second"
    assert report["device"]["bandwidth"] > 1e8
    assert report["chosen"]["fits"]
    assert report["chosen"]["tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "h300"], "not in the table"),
        (["--devices", "0"], "at least 1"),
        (["--device", "a100", "--quantization", "fp8"], "not available on this device"),
    ],
)
def test_refusals(folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("plan", folder, *words) == 2
    assert says in capsys.readouterr().err


def test_a_config_without_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**QWEN, "hidden_size": None} | {"model_type": "qwen9"}))
    assert run_here("plan", tmp_path, "--device", "h200") == 2
    assert "qwen9" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in QWEN.items() if k != "hidden_size"}))
    assert run_here("plan", tmp_path, "--device", "h200") == 2
    assert "does not say hidden_size" in capsys.readouterr().err


@pytest.mark.skipif(available() is not None, reason="the compiled kernels are not there")
def test_int8_on_a_cpu_is_planned_with_what_stays_in_int16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_qwen3(tmp_path, hidden=256, layers=4, head_dim=64, intermediate=768, dtype="bfloat16")
    report = planned(capsys, model, "--device", "cpu")
    found = next(option for option in report["options"] if option["quantization"] == "int8")
    loaded = Worker(config_of(quantization="int8"), spec_of(model)).load()
    assert found["weight_bytes"] == pytest.approx(loaded.weight_bytes, rel=0.03)
