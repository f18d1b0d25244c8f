"""``engine serve`` with several models: what is common and what is a model's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.cli import run
from engine.entrypoints.settings.lora_modules import lora_modules
from engine.errors import ConfigError

Served = dict[str, Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """What ``engine serve`` would have started."""
    seen: Served = {}

    def remember(engine: EngineConfig, server: ServerConfig, *others: EngineConfig) -> int:
        seen.update(models=[one.model for one in (engine, *others)], engines=[engine, *others], server=server)
        return 0

    monkeypatch.setattr("engine.entrypoints.serve.server.run_server", remember)
    monkeypatch.setattr("engine.entrypoints.settings.log_setup.set_up_logging", lambda *_: None)
    return seen


@pytest.mark.parametrize(
    "command",
    [
        "serve A --model B --model C",
        "serve --model A --port 1 --model B --model-path=C",
        "serve A --also-model B --also-model C",
        "serve --model_path A --model-id B --model C",
    ],
)
def test_spellings(served: Served, command: str) -> None:
    assert run(command.split()) == 0
    assert [model.model for model in served["models"]] == ["A", "B", "C"]


def test_a_flag_wins_over_the_environment_as_before(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_MODEL", "E")
    assert run(["serve"]) == 0
    assert [model.model for model in served["models"]] == ["E"]
    assert run(["serve", "A"]) == 0
    assert [model.model for model in served["models"]] == ["A"]
    assert run(["serve", "--model", "A", "--model", "B"]) == 0
    assert [model.model for model in served["models"]] == ["A", "B"]


def test_settings_of_a_model_are_its_own(served: Served) -> None:
    own = json.dumps({"model": "B", "hf_overrides": {"num_labels": 1}, "dtype": "bf16", "max_model_len": "1K"})
    flags = ["--dtype", "float32", "--max-model-len", "512", "--instruction", "Find", "--cpu-threads", "3"]
    assert run(["serve", "A", "--model", own, *flags]) == 0
    first, second = served["models"]
    assert (first.dtype, first.max_model_len, first.instruction, first.hf_overrides) == ("float32", 512, "Find", {})
    assert (second.dtype, second.max_model_len, second.instruction) == ("bfloat16", 1024, None)
    assert second.hf_overrides == {"num_labels": 1}
    assert [engine.device.cpu_threads for engine in served["engines"]] == [3, 3]


def test_one_served_name_each(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "A", "--model", "B", "--served-model-name", "a", "b"]) == 0
    assert [model.served_model_name for model in served["models"]] == [("a",), ("b",)]
    assert run(["serve", "A", "--model", "B", "--served-model-name", "a"]) == 2
    assert "gives 1 name(s) for 2 models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{broken", "is not valid JSON"),
        ('{"model": "B", "port": 1}', "'port' is no setting of a model"),
        ('{"dtype": "bf16"}', '"model" is missing'),
    ],
)
def test_json_that_cannot_work(served: Served, item: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "A", "--model", item]) == 2
    assert message in capsys.readouterr().err


def test_lora_flags_of_vllm(served: Served) -> None:
    command = [
        "serve",
        "A",
        "--enable-lora",
        "--max-lora-rank",
        "64",
        "--lora-modules",
        "a=/x/y",
        '{"name":"b","path":"z"}',
    ]
    assert run(command) == 0
    assert served["models"][0].lora_modules == {"a": "/x/y", "b": "z"}


@pytest.mark.parametrize("items", [["a"], ["=x"], ["a="], ["a=x", "a=y"], ['{"name": "a"}'], ["{"]])
def test_adapters_that_cannot_be_read(items: list[str]) -> None:
    with pytest.raises(ConfigError, match="--lora-modules"):
        lora_modules(items)
