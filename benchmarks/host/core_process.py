"""The core of ``benchmarks.host.engine_serve``: the real one with workers that answer at once."""

from __future__ import annotations

from benchmarks.host.engine_serve import redirect, sampled
from engine.core.process import main
from engine.executor import multiproc
from engine.executor.worker_process import WORKER_MODULE

if __name__ == "__main__":
    redirect(multiproc, {WORKER_MODULE: "benchmarks.host.worker_process"})
    with sampled("core"):
        main()
