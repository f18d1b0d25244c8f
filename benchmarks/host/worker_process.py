"""The worker of ``benchmarks.host.engine_serve``: the real process around a device that answers at once."""

from __future__ import annotations

from benchmarks.host.device import install
from benchmarks.host.engine_serve import sampled
from engine.executor.worker_process import main

if __name__ == "__main__":
    install()
    with sampled("worker"):
        main()
