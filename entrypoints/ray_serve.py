"""``engine.entrypoints.ray_serve:app``: the server as a Ray Serve application that grows with the queue.

``serve run engine.entrypoints.ray_serve:app model=Qwen/Qwen3-Reranker-0.6B max_replicas=8``

Ray Serve has the HTTP port, places the replicas and scales them; each is a whole server of ours without a socket of its
own: every route, dialect and error is the same. Ray counts open requests, which say little here (one may have one
document or ten thousand), so replicas report the tokens that wait, and their number follows from those. A Ray Serve
that routes at random keeps no query at one replica; with ``-dp`` inside one server, affinity and load are known.
"""

from __future__ import annotations

import math
from typing import Any

from ray import serve as ray_serve
from ray.serve import config as ray_config
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from engine.devices import HOST, device_row
from engine.entrypoints.settings.options import OPTIONS, build_configs
from engine.errors import ConfigError, EngineDeadError
from engine.executor.ray_cluster import actor_resources, amount_of

serve: Any = ray_serve  # its types are those of decorators that know plain classes only
METRIC = "queued_tokens"
_OWN = {"min_replicas": 1, "max_replicas": 4, "target_queued_tokens": 100_000}
"""Arguments of the application itself; all others are settings of ``engine serve``."""


async def _to_replica(scope: Scope, receive: Receive, send: Send) -> None:
    await serve.get_replica_context().servable_object.asgi(scope, receive, send)


@serve.ingress(Starlette(routes=[Mount("/", app=_to_replica)]))
class Reranker:
    """One replica: a model, and the HTTP application in front of it."""

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        from engine.entrypoints.serve.app import create_app
        from engine.entrypoints.serve.loading import load_engine
        from engine.entrypoints.serve.metrics import ServerMetrics
        from engine.entrypoints.serve.service import RerankService

        engine_config, server_config = build_configs(settings)
        self._engine = await load_engine(engine_config)
        self._client: Any = self._engine.client
        service = RerankService(server_config, ServerMetrics())
        service.attach(self._engine)
        self.asgi = create_app(service)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {METRIC: float(self._client.stats.num_waiting_tokens)}

    async def check_health(self) -> None:
        """Raises ``EngineDeadError`` once the core is gone; then Ray Serve replaces the replica."""
        if not self._client.alive:
            raise EngineDeadError("the engine core is gone")


class ByQueuedTokens:
    """So many replicas that each has at most ``target`` tokens waiting; one fewer at a time when nothing waits."""

    def __init__(self, target: int) -> None:
        self._target = target

    def __call__(self, context: ray_config.AutoscalingContext) -> tuple[int, dict[str, Any]]:
        waiting = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        now = context.target_num_replicas
        wanted = math.ceil(waiting / self._target) if waiting else now - 1
        # What waits now is work for the replicas that are there: fewer are enough only once nothing waits.
        wanted = max(wanted, now) if waiting else wanted
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wanted, low), high), {}


def app(arguments: dict[str, str]) -> Any:
    """The application, from ``serve run``'s ``name=value`` arguments or the ``args`` of a Serve config file.

    Raises ``ConfigError`` for settings that are none.
    """
    own = {name: _count(name, arguments.get(name, usual)) for name, usual in _OWN.items()}
    settings = {name: value for name, value in arguments.items() if name not in _OWN}
    unknown = sorted(set(settings) - set(OPTIONS))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no such setting; they are those of engine serve and {', '.join(_OWN)}."
        )
    engine_config, server_config = build_configs(settings)  # a wrong setting is said here, before anything is placed
    if server_config.api_server_count > 1:
        raise ConfigError("api_server_count is for engine serve; here, max_replicas says how many processes there are.")
    device = engine_config.device
    row = HOST if device.device == "auto" else device_row(device.device)
    actor = actor_resources(row, amount_of(row, device) * (1 if row.is_host else device.tensor_parallel_size))
    config: Any = ray_config
    policy = config.AutoscalingPolicy(
        policy_function="engine.entrypoints.ray_serve:ByQueuedTokens",
        policy_kwargs={"target": own["target_queued_tokens"]},
    )
    scaling = config.AutoscalingConfig(
        min_replicas=own["min_replicas"], max_replicas=own["max_replicas"], policy=policy, upscale_delay_s=2.0
    )
    deployment = serve.deployment(
        Reranker,
        name="engine",
        autoscaling_config=scaling,
        ray_actor_options=actor,
        max_ongoing_requests=1000,  # admission is decided by our own limits, in pairs and tokens
    )
    return deployment.bind(settings)


def _count(name: str, value: Any) -> int:
    try:
        count = int(value)
    except ValueError:
        count = 0
    if count < 1:
        raise ConfigError(f"{name} must be a whole number above 0, not {value!r}.")
    return count
