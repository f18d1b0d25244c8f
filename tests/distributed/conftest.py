"""Two simulated nodes of a Ray cluster on this machine, shared by the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from engine.executor.ray_cluster import connect
from tests.processes.conftest import checkpoint as checkpoint
from tests.processes.conftest import setup as setup


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one core, where this process is, and a node with two."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=2)
    os.environ["RAY_ADDRESS"] = made.address
    connect()
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)
