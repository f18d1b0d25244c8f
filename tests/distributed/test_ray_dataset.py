"""``engine score --ray`` on two simulated nodes: the same file as without Ray, also when an actor is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

from engine import LLM
from engine.entrypoints.datasets.on_ray import score_on_ray
from engine.entrypoints.datasets.run import ScoreJob, run_job, score_here
from engine.errors import DeviceError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # within Ray Data
NUM_ROWS = 30


@pytest.fixture
def job(tmp_path: Path, checkpoint: Path) -> ScoreJob:
    rows: list[Any] = [
        {"id": i, "query": f"pandas {i % 5}?", "documents": [f"Panda {i} eats bamboo.", "Rivers are long. " * (i % 7)]}
        for i in range(NUM_ROWS)
    ]
    rows[17] = {"id": 17, "document": "a row without a query"}
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ScoreJob(source=source, output=tmp_path / "out.jsonl", model=str(checkpoint), window=6)


def values(checkpoint: Path) -> dict[str, Any]:
    return {"model": str(checkpoint), "device": "cpu", "cpu_threads": 1, "max_model_len": 2048}


def actors() -> list[int]:
    """Processes that score, as Ray names them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::" in title and b"WindowScorer" in title:
                found.append(int(folder.name))
    return found


def test_nothing_is_lost_or_repeated_when_an_actor_is_killed(cluster: Any, job: ScoreJob, checkpoint: Path) -> None:
    expected = replace(job, output=job.output.with_name("expected.jsonl"))
    with LLM(**values(checkpoint)) as llm:
        run_job(expected, score_here(expected, llm))
    parts = job.output.with_name("out.jsonl.parts")
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            if len(list(parts.glob("*.jsonl"))) >= 1:
                for pid in actors()[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    totals = run_job(job, score_on_ray(job, values(checkpoint), 2))
    thread.join()
    assert killed, "the job was over before an actor could be killed"
    assert (totals.rows, totals.failed_rows) == (NUM_ROWS, 1)
    assert job.output.read_bytes() == expected.output.read_bytes()


def test_more_actors_than_devices(cluster: Any, job: ScoreJob, checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="4 replicas of 1 workers need 4 CPU"):
        score_on_ray(job, values(checkpoint), 4)
