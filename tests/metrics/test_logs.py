"""The lines of the log: for people, for collectors, from every process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from engine import logs
from engine.entrypoints.serve.log_stats import log_stats, stats_fields, stats_line
from engine.entrypoints.settings.log_setup import set_up_logging
from engine.messages import SchedulerStats
from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

BEFORE = SchedulerStats(finished_calls=10, finished_pairs=100, logical_tokens=1000, computed_tokens=900, num_steps=3)
NOW = SchedulerStats(
    finished_calls=30,
    finished_pairs=500,
    logical_tokens=9000,
    computed_tokens=2900,
    device_s=5.0,
    num_steps=9,
    num_waiting_calls=2,
    num_waiting_pairs=40,
)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_line() -> None:
    assert stats_line(stats_fields(BEFORE, NOW, 10)) == (
        "2.0 calls/s, 40.0 pairs/s, 800 tokens/s (200 computed, 75% shared), device busy 50%, "
        "waiting: 2 calls, 40 pairs"
    )


def test_steps_of_an_earlier_call_share_nothing_negative() -> None:
    assert stats_fields(SchedulerStats(), SchedulerStats(computed_tokens=5, logical_tokens=1), 1)["shared"] == 0


async def test_silent_without_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    task = asyncio.create_task(log_stats(lambda: NOW, 0.005))
    await asyncio.sleep(0.05)
    task.cancel()
    assert caplog.records == []


def test_json_lines(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    assert logs.current_format() == "json"
    logging.getLogger("a.b").info("%s calls", 3, extra={"fields": {"calls": 3}})
    try:
        raise ValueError("no\nway")
    except ValueError:
        logging.getLogger("c").exception("broken “text”")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert {key: first[key] for key in ("level", "logger", "message", "calls")} == {
        "level": "info",
        "logger": "a.b",
        "message": "3 calls",
        "calls": 3,
    }
    assert second["message"] == "broken “text”"
    assert "ValueError: no\nway" in second["traceback"]


def test_text_lines(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("INFO", "text", "core")
    assert logs.current_format() == "text"
    logging.getLogger("a").warning("look")
    logging.getLogger("a").debug("not this")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" core WARNING look")


def test_a_server_writes_json_only(tmp_path: Path) -> None:
    checkpoint = make_qwen3(tmp_path / "model")
    flags = ("--log-format", "json", "--log-level", "debug", "--distributed-executor-backend", "mp")
    with ServerProcess(checkpoint, *flags) as server:
        assert requests.post(server.url + "/v1/rerank", json={"query": "q", "documents": ["d"]}, timeout=60).ok
    entries = [json.loads(line) for line in server.log]
    assert any(entry["message"].startswith("ready on http://") for entry in entries)
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
