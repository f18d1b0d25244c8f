"""``engine score --ray``: the windows of a run as a Ray Data stream, scored by a pool of actors, each with the model.

One task reads the source where this process runs and emits a block for each window; blocks go to whichever actor is
free, on any node; results come back in order and are written here as without Ray. An actor that dies is replaced, and
its window is scored again: Ray Data emits a result once, so no row is lost or repeated. Only the input's rows and the
scores travel through Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from engine.config import DeviceConfig
from engine.entrypoints.datasets.rows import ScoreRow
from engine.entrypoints.datasets.run import Scored, ScoreFrom, ScoreJob, score_window, windows
from engine.errors import ConfigError, EngineDeadError
from engine.executor.ray_cluster import (
    actor_resources,
    amount_of,
    cause_of,
    check_nodes,
    connect,
    ray_module,
    row_in_cluster,
)
from engine.extras import pip_install

START_TIMEOUT_S = 900
"""For the first actor to have loaded its model."""
_TO_ROWS = msgspec.msgpack.Decoder(list[ScoreRow])


class WindowScorer:
    """The actor: one model, which scores a window at a time."""

    def __init__(self, job: bytes, values: bytes) -> None:
        from engine import LLM

        self._job = _decode_job(job)
        self._llm = LLM(**msgspec.msgpack.decode(values))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        scored = [score_window(self._job, self._llm, _TO_ROWS.decode(window)) for window in batch["window"]]
        return {name: [getattr(one, name) for one in scored] for name in Scored.__dataclass_fields__}


def score_on_ray(job: ScoreJob, values: dict[str, Any], num_actors: int | None) -> ScoreFrom:
    """Connects, and checks the cluster, at once. ``values``: the model's settings, as the command line has them.

    Raises ``ConfigError`` without Ray Data, and ``EngineDeadError`` where Ray gives up.
    """
    if not (find_spec("pandas") and find_spec("pyarrow")):
        raise ConfigError(f"engine score --ray needs Ray Data: {pip_install('ray')}.")
    connect()
    ray = ray_module()
    device = DeviceConfig(**{name: values[name] for name in ("device", "cpu_threads") if name in values})
    row = row_in_cluster(device, ray.cluster_resources())
    each = amount_of(row, device)
    nodes = ray.nodes()
    check_nodes(nodes, row.ray_resource, each, 1, num_actors or 1)
    num_fitting = sum(int(node["Resources"].get(row.ray_resource, 0) // each) for node in nodes if node["Alive"])
    # The task that reads, and whatever else Ray runs beside the actors, need a core of their own.
    size = num_actors or max(1, num_fitting - 1 if row.is_host else num_fitting)
    settings = {**values, "device": row.name}

    def score(done: int) -> Iterator[Scored]:
        with _settings(ray):
            results = _dataset(ray, job, done, settings, size, actor_resources(row, each))
            try:
                for scored in results.iter_rows():
                    yield Scored(**{name: scored[name] for name in Scored.__dataclass_fields__})
            except ray.exceptions.RayError as error:
                raise EngineDeadError(f"Ray could not go on: {cause_of(error)}. What was finished is kept.") from error

    return score


def _dataset(ray: Any, job: ScoreJob, done: int, values: dict[str, Any], size: int, needed: dict[str, Any]) -> Any:
    encoded = msgspec.msgpack.encode(job, enc_hook=str)
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    source = ray.data.read_datasource(
        _source(ray, encoded, done), override_num_blocks=1, ray_remote_args={"scheduling_strategy": here, "num_cpus": 0}
    )
    return source.map_batches(
        WindowScorer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size),
        fn_constructor_args=(encoded, msgspec.msgpack.encode(values)),
        **needed,
    )


def _decode_job(encoded: bytes) -> ScoreJob:
    return msgspec.msgpack.decode(encoded, type=ScoreJob, dec_hook=lambda _, text: Path(text))


def _source(ray: Any, job: bytes, done: int) -> Any:
    """One task, which emits a block of one row for each window, as fast as they are taken."""
    import pyarrow

    def read() -> Iterator[Any]:
        for rows in windows(_decode_job(job), done):
            yield pyarrow.table({"window": [msgspec.msgpack.encode(rows)]})

    class Source(ray.data.Datasource):  # type: ignore[misc]
        def get_read_tasks(self, parallelism: int, **_: Any) -> list[Any]:
            about = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.datasource.ReadTask(read, about)]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_name(self) -> str:
            return "Rows"

    return Source()


@contextmanager
def _settings(ray: Any) -> Iterator[None]:
    """For this run: results in order, a block a window, no progress bars beside ours, a deadline for the model."""
    context = ray.data.DataContext.get_current()
    before = (
        context.execution_options.preserve_order,
        context.target_max_block_size,
        context.enable_progress_bars,
        context.wait_for_min_actors_s,
    )
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = START_TIMEOUT_S
    try:
        yield
    finally:
        (
            context.execution_options.preserve_order,
            context.target_max_block_size,
            context.enable_progress_bars,
            context.wait_for_min_actors_s,
        ) = before
