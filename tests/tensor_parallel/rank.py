"""One worker of a group, for tests: ``python -m tests.tensor_parallel.rank FOLDER INDEX SIZE``.

It does one job after the other: loads its share of a model, runs one step with the others, lets go. So many models are
tested with processes that are started once. Worker 0 writes the values.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from engine import messages
from engine.backends.worker import Worker
from engine.config import EngineConfig
from engine.model_spec import ModelSpec
from engine.step import SchedulerOutput, TPRank

JOBS = "jobs"


class Job(msgspec.Struct):
    config: EngineConfig
    spec: ModelSpec
    plan: SchedulerOutput


def main(folder: Path, index: int, size: int) -> None:
    jobs: list[Job] = messages.decoder(list[Job]).decode((folder / JOBS).read_bytes())
    for number, job in enumerate(jobs):
        worker = Worker(job.config, job.spec, index, TPRank(index, size, str(folder / f"rendezvous-{number}")))
        worker.load()
        values = worker.execute(job.plan).values
        worker.close()
        if index == 0:
            np.save(folder / f"values-{number}.npy", values)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
