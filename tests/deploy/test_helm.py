"""The Helm chart: what it makes is valid for Kubernetes, speaks of flags and metrics that exist, and asks for a key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from engine.version import __version__
from tests.architecture.source_tree import ROOT
from tests.deploy.test_files import known_flags
from tests.serve.conftest import running_server

CHART = ROOT / "deploy" / "helm" / "rerank-engine"
VERSIONS = ("1.25", "1.34")
KEY = ("--set", "apiKey.value=a-key")


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("helm")
    program = str(beside) if beside.exists() else shutil.which("helm")
    assert program, "helm comes with the dev extra (helm-binary)"
    return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)


def made(*words: str) -> dict[str, dict[str, Any]]:
    """What the chart makes, by kind."""
    done = helm("template", "release", str(CHART), *words)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout) if document}


def test_the_chart_is_well_formed() -> None:
    done = helm("lint", "--strict", str(CHART), *KEY)
    assert done.returncode == 0, done.stdout
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__


@pytest.mark.parametrize("device", ["cpu", "nvidia", "ascend"])
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["autoscaling.enabled=true", "serviceMonitor.enabled=true", "models.existingClaim=models"],
        ["resources=null", "replicas=3", "podDisruptionBudget.minAvailable=50%", "podAnnotations=null", "model=a: 'b'"],
        ["apiKey.value=", "apiKey.existingSecret=there", "podDisruptionBudget.enabled=false", "service.type=NodePort"],
    ],
)
def test_what_it_makes_is_valid(device: str, words: list[str]) -> None:
    sets = [part for word in (f"device={device}", *words) for part in ("--set", word)]
    documents = made(*KEY, *sets)
    for kind, document in documents.items():
        if kind != "ServiceMonitor":  # the Prometheus operator's own
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
    assert {"Deployment", "Service"} <= documents.keys()
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    known_flags(container["args"])
    assert f"--device={ {'cpu': 'cpu', 'nvidia': 'cuda', 'ascend': 'npu'}[device] }" in container["args"]
    (of_device,) = [name for name in container["resources"]["limits"] if "/" in name] or [None]
    assert of_device == {"cpu": None, "nvidia": "nvidia.com/gpu", "ascend": "huawei.com/Ascend910"}[device]


def test_pods_end_after_their_calls_and_are_found_by_the_service() -> None:
    documents = made(*KEY, "--set", "drainDelayS=7", "--set", "shutdownTimeoutS=90")
    pod = documents["Deployment"]["spec"]["template"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7 + 90 + 10
    assert documents["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    probes = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
    assert probes == ["/ready", "/ready", "/live"]
    reference = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert documents["Secret"]["metadata"]["name"] == reference["name"]
    assert documents["Secret"]["stringData"] == {reference["key"]: "a-key"}


async def test_it_scales_by_a_metric_that_the_server_has() -> None:
    documents = made(*KEY, "--set", "autoscaling.enabled=true")
    (metric,) = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    async with running_server() as server:
        text = (await server.client.get("/metrics")).text
    assert f"# TYPE {metric['pods']['metric']['name']} gauge" in text
    assert "replicas" not in documents["Deployment"]["spec"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a key: set apiKey.existingSecret, or apiKey.value"),
        (["apiKey.value=a", "apiKey.existingSecret=b"], "give existingSecret or value, not both"),
        (["apiKey.value=a", "device=tpu"], "device"),
        (["apiKey.value=a", "replica=3"], "replica"),
        (["apiKey.value=a key"], "apiKey.value"),
        (["apiKey.value=a", "apiKey.secretKey=a b"], "apiKey.secretKey"),
        (["apiKey.value=a", "models.sizeLimit=big"], "models.sizeLimit"),
        (["apiKey.value=a", "podDisruptionBudget.minAvailable=half"], "podDisruptionBudget.minAvailable"),
        (["apiKey.value=a", "autoscaling.queuedSeconds=half"], "autoscaling.queuedSeconds"),
        (
            ["apiKey.value=a", "autoscaling.enabled=true", "autoscaling.minReplicas=5", "autoscaling.maxReplicas=2"],
            "autoscaling: minReplicas is more than maxReplicas",
        ),
    ],
)
def test_what_cannot_work_is_refused(words: list[str], said: str) -> None:
    done = helm("template", "release", str(CHART), *(part for word in words for part in ("--set", word)))
    assert done.returncode != 0
    assert said in done.stderr


def test_a_budget_that_would_keep_nodes_from_being_drained_is_left_out() -> None:
    assert "PodDisruptionBudget" in made(*KEY)
    assert "PodDisruptionBudget" not in made(*KEY, "--set", "replicas=1")


def test_every_value_has_a_place_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert values.keys() == schema.keys() - {"global"}
