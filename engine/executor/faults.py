"""Faults on demand, for tests: rules for what shall break, wrapped around a worker.

Inert unless ``--enable-fault-injection`` is on the command line *and* ``ENGINE_FAULTS`` holds rules separated
by ``;``, each ``KIND[=VALUE][@WHEN]``.

========  ===========================================  =======================================================
KIND      what happens                                 VALUE
========  ===========================================  =======================================================
crash     the process ends by SIGKILL
hang      the step never ends
slow      the step takes longer                        seconds
fail      the step raises an error
oom       the device has no memory for the step
nan       scores of the step become NaN
drop      the worker's answer is not sent              (only where the worker is a process of its own)
========  ===========================================  =======================================================

WHEN: ``@7`` the seventh step of the process, ``@7+`` from then on, ``@token:151`` steps with that token (for ``nan``:
segments with it), ``@over:512`` steps of more tokens. Without it: every step.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.config import DeviceConfig
from engine.errors import ConfigError
from engine.messages import AdapterChange
from engine.step import ModelRunnerOutput, SchedulerOutput, WorkerInfo

if TYPE_CHECKING:
    from engine.backends.worker import Worker

logger = logging.getLogger(__name__)
FAULTS_VARIABLE = "ENGINE_FAULTS"
FLAG_VARIABLE = "ENGINE_ENABLE_FAULT_INJECTION"
_RULE = re.compile(
    r"(?P<kind>crash|hang|slow|fail|oom|nan|drop)(=(?P<value>[\d.]+))?"
    r"(@((?P<step>\d+)(?P<later>\+)?|token:(?P<token>\d+)|over:(?P<over>\d+)))?"
)


@dataclass(frozen=True)
class Fault:
    """One rule."""

    kind: str
    value: float = 0.0
    step: int | None = None
    later: bool = False
    token: int | None = None
    over: int | None = None

    def hits(self, step: int, scheduler_output: SchedulerOutput) -> bool:
        if self.step is not None:
            return step == self.step or (self.later and step > self.step)
        if self.token is not None:
            return self.token in scheduler_output.token_ids
        return self.over is None or scheduler_output.num_tokens > self.over


def parse_faults(text: str) -> tuple[Fault, ...]:
    return tuple(_parse_rule(rule.strip()) for rule in text.split(";") if rule.strip())


def _parse_rule(rule: str) -> Fault:
    match = _RULE.fullmatch(rule)
    if match is None:
        raise ConfigError(
            f"{FAULTS_VARIABLE}: {rule!r} is no fault; KIND[=VALUE][@WHEN] expected (engine/executor/faults.py)"
        )
    found = match.groupdict()
    step, token, over = (int(found[name]) if found[name] else None for name in ("step", "token", "over"))
    return Fault(found["kind"], float(found["value"] or 0), step, bool(found["later"]), token, over)


def planned_faults(device: DeviceConfig) -> tuple[Fault, ...]:
    """The rules of ``ENGINE_FAULTS``, if faults are enabled as well; none otherwise.

    Raises ``ConfigError`` for rules without the flag.
    """
    if FLAG_VARIABLE in os.environ:
        raise ConfigError(f"{FLAG_VARIABLE} is not taken: fault injection needs the flag --enable-fault-injection.")
    rules = os.environ.get(FAULTS_VARIABLE, "")
    if not device.enable_fault_injection or not rules:
        return ()
    logger.warning("FAULT INJECTION IS ON: %s", rules)
    return parse_faults(rules)


class FaultyWorker:
    """A worker whose steps break as the rules say. The same methods as ``backends.worker.Worker``."""

    def __init__(self, worker: Worker, faults: tuple[Fault, ...]) -> None:
        self._worker = worker
        self._faults = faults
        self._num_steps = 0

    def load(self) -> WorkerInfo:
        return self._worker.load()

    def change_adapters(self, change: AdapterChange) -> None:
        self._worker.change_adapters(change)

    def is_lost(self, error: BaseException) -> bool:
        return self._worker.is_lost(error)

    def close(self) -> None:
        self._worker.close()

    def launch(self, scheduler_output: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
        self._num_steps += 1
        hits = [fault for fault in self._faults if fault.hits(self._num_steps, scheduler_output)]
        for fault in hits:
            _break(fault)
        finish = self._worker.launch(scheduler_output)
        if any(fault.kind == "drop" for fault in hits):
            return _dropped(finish)
        broken = [fault for fault in hits if fault.kind == "nan"]
        return _with_nan(finish, scheduler_output, broken) if broken else finish


class AnswerDropped(Exception):
    """No error, it was asked for: the step was computed, and its answer goes nowhere."""


def _break(fault: Fault) -> None:
    from engine.backends.base import OutOfMemory

    if fault.kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "hang":
        threading.Event().wait()
    elif fault.kind == "slow":
        time.sleep(fault.value)
    elif fault.kind == "fail":
        raise RuntimeError("fault injection: the step fails")
    elif fault.kind == "oom":
        raise OutOfMemory("fault injection: no memory for this step")


def _dropped(finish: Callable[[], ModelRunnerOutput]) -> Callable[[], ModelRunnerOutput]:
    def run() -> ModelRunnerOutput:
        finish()
        raise AnswerDropped

    return run


def _with_nan(
    finish: Callable[[], ModelRunnerOutput], scheduler_output: SchedulerOutput, faults: list[Fault]
) -> Callable[[], ModelRunnerOutput]:
    def run() -> ModelRunnerOutput:
        output = finish()
        values = np.array(output.values)
        ends = np.cumsum(scheduler_output.segment_lens)
        for row, position in enumerate(scheduler_output.read_segments):
            own = scheduler_output.token_ids[ends[position] - scheduler_output.segment_lens[position] : ends[position]]
            if any(fault.token is None or fault.token in own for fault in faults):
                values[row] = np.nan
        return msgspec.structs.replace(output, values=values)

    return run


def with_faults(worker: Worker, device: DeviceConfig) -> Worker | FaultyWorker:
    """The worker itself, unless faults are switched on."""
    faults = planned_faults(device)
    return FaultyWorker(worker, faults) if faults else worker
