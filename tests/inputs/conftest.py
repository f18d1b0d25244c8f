"""Checkpoints and processors, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.inputs.processor import InputProcessor
from tests.support.checkpoints import make_bert, make_qwen3, make_xlm_roberta


def build(model: Path, **settings: Any) -> InputProcessor:
    config = ModelConfig(model=str(model), **settings)
    return InputProcessor(resolve_model(config), config)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("models") / "qwen3", hidden=16, layers=1, head_dim=8, intermediate=16)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_xlm_roberta(tmp_path_factory.mktemp("models") / "xlm")


@pytest.fixture(scope="session")
def inputs(qwen3: Path) -> InputProcessor:
    return build(qwen3)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint of the smallest size in a folder of its own."""

    def make(**changes: Any) -> Path:
        tiny = {"hidden": 16, "layers": 1, "head_dim": 8, "intermediate": 16}
        return make_qwen3(tmp_path / "model", **(tiny | changes))

    return make
