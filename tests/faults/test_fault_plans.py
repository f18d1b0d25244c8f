"""Fault injection itself: inert without both switches, and its rules break what they say, nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.config import DeviceConfig
from engine.core.client import InprocClient
from engine.errors import ConfigError
from engine.executor.faults import Fault, parse_faults, planned_faults
from engine.messages import EngineCoreOutput
from tests.processes.conftest import Setup, checkpoint, setup  # noqa: F401  (fixtures)

DOCUMENTS = [f"the giant panda number {i} eats bamboo " * (1 + i % 5) for i in range(24)]


@pytest.mark.parametrize(("plan", "flag"), [("crash", False), ("", True)])
def test_inert_unless_both_are_set(monkeypatch: pytest.MonkeyPatch, plan: str, flag: bool) -> None:
    monkeypatch.setenv("ENGINE_FAULTS", plan)
    assert planned_faults(DeviceConfig(enable_fault_injection=flag)) == ()


def test_the_flag_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_FAULTS", "crash")
    monkeypatch.setenv("ENGINE_ENABLE_FAULT_INJECTION", "1")
    with pytest.raises(ConfigError, match="--enable-fault-injection"):
        planned_faults(DeviceConfig(enable_fault_injection=True))


def test_rules() -> None:
    assert parse_faults("crash@3; slow=0.5@7+;nan@token:151;oom@over:512;drop") == (
        Fault("crash", step=3),
        Fault("slow", 0.5, step=7, later=True),
        Fault("nan", token=151),
        Fault("oom", over=512),
        Fault("drop"),
    )
    for wrong in ("explode", "crash@", "slow=x", "crash@token:a"):
        with pytest.raises(ConfigError, match="ENGINE_FAULTS"):
            parse_faults(wrong)


def outputs_under(setup: Setup, monkeypatch: pytest.MonkeyPatch, faults: str, **device: object) -> EngineCoreOutput:  # noqa: F811
    """One call with the fault: all its answers as one."""
    monkeypatch.setenv("ENGINE_FAULTS", faults)
    chosen = replace(setup.config.device, enable_fault_injection=True, **device)  # type: ignore[arg-type]
    client = InprocClient(replace(setup.config, device=chosen), setup.spec, setup.inputs.constant_prefix)
    try:
        client.submit(setup.request("call", "what does a panda eat?", DOCUMENTS))
        total = EngineCoreOutput("call", np.zeros(0, np.int32), np.zeros((0, 1), np.float32))
        while total.stats is None:
            for output in client.recv(0.2).outputs:
                new = {*output.indices.tolist(), *output.errors}
                assert not {*total.indices.tolist()} & new, "a pair was answered twice"
                indices = np.concatenate([total.indices, output.indices])
                values = np.concatenate([total.values, output.values])
                total = EngineCoreOutput("call", indices, values, total.errors | output.errors, output.stats)
        assert (client.stats().worker_restarts > 0) == ("drop" in faults)
        return total
    finally:
        client.close()


def scores(output: EngineCoreOutput) -> dict[int, float]:
    return {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}


@pytest.fixture(scope="module")
def expected(setup: Setup) -> dict[int, float]:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        return scores(outputs_under(setup, patch, "slow=0", executor="uni"))


def test_out_of_memory_halves_the_step(
    setup: Setup,  # noqa: F811
    expected: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps of more than 100 tokens never fit; the budget starts at 256."""
    output = outputs_under(setup, monkeypatch, "oom@over:100", executor="uni")
    assert not output.errors
    assert scores(output) == pytest.approx(expected, abs=1e-6)


def test_nan_is_one_pairs_fate(
    setup: Setup,  # noqa: F811
    expected: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (token,) = setup.inputs.tokenize("7", add_special_tokens=False)
    output = outputs_under(setup, monkeypatch, f"nan@token:{token}", executor="uni")
    hit = {i for i, document in enumerate(DOCUMENTS) if "7" in document}
    assert {i: error.type for i, error in output.errors.items()} == dict.fromkeys(hit, "non_finite_score")
    assert scores(output) == pytest.approx({i: s for i, s in expected.items() if i not in hit}, abs=1e-6)


def test_a_worker_that_does_not_answer_is_replaced(
    setup: Setup,  # noqa: F811
    expected: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The call takes two steps; the answer to the second is lost. The next worker has only that one left to do."""
    config = replace(setup, config=setup.config.with_scheduler(max_num_batched_tokens=1600))
    output = outputs_under(config, monkeypatch, "drop@2", executor="mp", step_timeout_s=1.0)
    assert not output.errors
    assert scores(output) == pytest.approx(expected, abs=1e-6)
