"""``engine serve`` as it is, but that its core is ``benchmarks.host.core_process``: the device answers at once.

With ``HOST_SAMPLES=FOLDER`` each process writes where its processor time went to ``FOLDER/ROLE.json`` when it ends.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.host.sampler import sampling

SAMPLES = "HOST_SAMPLES"
BEGIN = "begin"
"""Samples are taken while this file is in the folder, so that the start is not among them."""


@contextmanager
def sampled(role: str) -> Iterator[None]:
    folder = os.environ.get(SAMPLES)
    if folder is None:
        yield
        return
    with sampling(Path(folder) / BEGIN) as samples:
        try:
            yield
        finally:
            (Path(folder) / f"{role}.json").write_text(json.dumps(samples.table()))


def redirect(module: Any, ours: dict[str, str]) -> None:
    """``module`` starts other programs as its children."""
    plain = module.Child
    module.Child = lambda name, setup, **more: plain(ours.get(name, name), setup, **more)


def main() -> None:
    from engine.core import client
    from engine.entrypoints.cli import main as engine

    redirect(client, {"engine.core.process": "benchmarks.host.core_process"})
    with sampled("api"):
        engine()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
