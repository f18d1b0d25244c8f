"""The files under deploy/ speak of flags, routes, times and metrics that exist."""

from __future__ import annotations

import configparser
import re

import yaml

from engine.config import ServerConfig
from engine.entrypoints.settings.options import ALIASES, OPTIONS
from tests.architecture.source_tree import ROOT
from tests.deploy.run_dockerfile import IGNORED, Runner, instructions
from tests.serve.conftest import running_server

KUBERNETES = ROOT / "deploy" / "kubernetes" / "engine.yaml"


def known_flags(arguments: list[str]) -> list[str]:
    names = [a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")]
    unknown = [name for name in names if name not in OPTIONS and name not in ALIASES]
    assert not unknown, f"no such flags: {unknown}"
    return names


async def test_alerts_use_metrics_that_exist() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
    async with running_server() as server:
        text = (await server.client.get("/metrics")).text
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert len(rules) >= 5
    for rule in rules:
        used = set(re.findall(r"\bengine_\w+", rule["expr"]))
        used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
        assert used <= exported, f"{rule['alert']} uses {used - exported}"
        assert used or "up{" in rule["expr"]


def test_kubernetes_probes_flags_and_times() -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert [document["kind"] for document in documents] == ["Deployment", "Service", "PodDisruptionBudget"]
    pod = documents[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = known_flags(container["args"])
    assert {"drain_delay_s", "shutdown_timeout_s", "host"} <= set(flags)
    values = dict(argument[2:].split("=") for argument in container["args"] if "=" in argument)
    drain = float(values["drain-delay-s"]) + float(values["shutdown-timeout-s"])
    assert pod["terminationGracePeriodSeconds"] >= drain + 5
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/ready"
    assert container["env"][0]["name"] == "ENGINE_API_KEY", "an address that others reach needs a key"


def test_the_unit_leaves_time_to_drain() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "engine.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) >= ServerConfig().shutdown_timeout_s + 5
    assert int(service["LimitNOFILE"]) > ServerConfig().max_connections
    assert service["KillMode"] == "mixed"
    assert service["RestartPreventExitStatus"] == "2"


def test_images_start_the_server_with_known_flags() -> None:
    for name in ("Dockerfile", "Dockerfile.npu"):
        text = (ROOT / "deploy" / name).read_text()
        (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
        known_flags(yaml.safe_load(command))
        assert "USER engine" in text or name == "Dockerfile.npu"


def test_the_images_steps_can_be_run_without_a_builder() -> None:
    for name in ("Dockerfile", "Dockerfile.npu"):
        steps = instructions((ROOT / "deploy" / name).read_text())
        assert {word for word, _ in steps} - set(IGNORED) == {
            word for word, _ in steps if hasattr(Runner, f"_{word.lower()}")
        }


def test_operations_page_names_settings_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    known_flags(re.findall(r"`(--[a-z][a-z0-9-]*)", text))
    assert "/ready" in text
