"""From a model and a device to a plan: the options, the one to take, and the flags that say so."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.backends.data_sheet import DataSheet, data_sheets
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.hub import resolve_folder
from engine.checkpoint.overrides import apply_overrides
from engine.config import ModelConfig
from engine.devices import DEVICES, device_row
from engine.entrypoints.planning.estimate import Option, Workload, options
from engine.entrypoints.planning.model_shape import ModelShape
from engine.errors import ConfigError

MIN_SHARE = 0.001
"""Of the linear layers, that is worth a word."""
HERE = ("auto", *sorted(row.name for row in DEVICES))
"""What stands for a device of this machine; other names are products."""


@dataclass(frozen=True)
class Plan:
    model: str
    shape: ModelShape
    device: DataSheet
    num_devices: int
    cpu_threads: int | None
    workload: Workload
    max_len: int
    options: list[Option]
    chosen: Option
    flags: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_len": self.max_len,
            "weights": self.shape.params,
            "stored": None if self.shape.stored is None else self.shape.stored.as_json(),
            "gflop_per_token": self.shape.token_flop / 1e9,
            "device": asdict(self.device),
            "devices": self.num_devices,
            "workload": asdict(self.workload),
            "options": [asdict(option) for option in self.options],
            "chosen": asdict(self.chosen),
            "command": " ".join(["engine", "serve", *self.flags]) if self.chosen.fits else None,
            "notes": self.notes,
        }


def make_plan(
    config: ModelConfig, device: str, num_devices: int, workload: Workload, *, cpu_threads: int | None = None
) -> Plan:
    shape = ModelShape.of(*_config_json(config))
    if config.max_docs_per_block is not None:
        workload = replace(workload, block=config.max_docs_per_block)
    max_len = min(config.max_model_len or shape.max_len, shape.max_len)
    if device not in HERE:
        facts = _data_sheet(device)
    else:
        from engine.entrypoints.planning.here import measure

        may_be_host = device == "auto" or device_row(device).is_host
        if may_be_host and cpu_threads is None and num_devices > 1:
            cpu_threads = max(1, len(os.sched_getaffinity(0)) // num_devices)
        facts = measure(device, shape, cpu_threads, num_devices)
    found = options(shape, facts, num_devices, workload, max_len)
    chosen = _choose(config, found)
    plan = Plan(
        config.model or "the packaged reranker",
        shape,
        facts,
        num_devices,
        cpu_threads if device_row(facts.kind).is_host else None,
        workload,
        max_len,
        found,
        chosen,
        [],
        [],
    )
    plan.flags.extend(_flags(config, plan))
    plan.notes.extend(_notes(plan))
    return plan


def _data_sheet(name: str) -> DataSheet:
    """Raises ``ConfigError`` with the names that there are."""
    if name not in data_sheets():
        here, known = ", ".join(HERE[:-1]) + f" or {HERE[-1]}", ", ".join(data_sheets())
        raise ConfigError(f"--device {name} is not in the table: {here} for this machine, or {known}.", param="device")
    return data_sheets()[name]


def _config_json(config: ModelConfig) -> tuple[dict[str, Any], Path]:
    """What it says, and its folder."""
    from engine.backends.measure.stored_files import SETTINGS_FILES

    folder = resolve_folder(config.model, config.revision, files=["config.json", *SETTINGS_FILES])
    return apply_overrides(CheckpointFiles(folder, config.model).config, config.hf_overrides), folder


def _choose(config: ModelConfig, found: list[Option]) -> Option:
    """What was asked for; else the device's own dtype, which costs no accuracy, unless only a quantisation fits."""
    if config.quantization is not None:
        asked = next((option for option in found if option.quantization == config.quantization), None)
        if asked is None:
            known = ", ".join(str(option.quantization) for option in found[1:]) or "none"
            raise ConfigError(
                f"--quantization {config.quantization} is not available on this device; available: {known}.",
                param="quantization",
            )
        return asked
    return next((option for option in found if option.fits), found[0])


def _flags(config: ModelConfig, plan: Plan) -> list[str]:
    chosen = plan.chosen
    flags = [config.model] if config.model else []
    flags += ["--device", plan.device.kind]
    if chosen.quantization:
        flags += ["--quantization", chosen.quantization]
    if config.max_model_len:
        flags += ["--max-model-len", str(config.max_model_len)]
    if chosen.tensor_parallel_size > 1:
        flags += ["-tp", str(chosen.tensor_parallel_size)]
    if chosen.data_parallel_size > 1:
        flags += ["-dp", str(chosen.data_parallel_size)]
    if device_row(plan.device.kind).is_host and chosen.data_parallel_size > 1 and plan.cpu_threads:
        flags += ["--cpu-threads", str(plan.cpu_threads), "--cpu-pin"]
    return flags


def _notes(plan: Plan) -> list[str]:
    chosen, notes = plan.chosen, []
    if not chosen.fits:
        notes.append(_why_not(plan))
    idle = plan.num_devices - chosen.tensor_parallel_size * chosen.data_parallel_size
    notes += _kept_bits(plan)
    if chosen.fits and idle:
        notes.append(f"{idle} of the {plan.num_devices} devices stay idle: they do not make up another replica.")
    if chosen.fits and chosen.tensor_parallel_size > 1:
        notes.append(
            f"One device does not hold the model: {chosen.tensor_parallel_size} share it, and wait for one another "
            "twice a layer."
        )
    faster = max(plan.options, key=lambda option: option.tokens_per_s)
    if chosen.fits and faster.tokens_per_s > 1.1 * chosen.tokens_per_s:
        notes.append(
            f"--quantization {faster.quantization} should be {faster.tokens_per_s / chosen.tokens_per_s:.1f} times as "
            "fast; engine verify says what it costs in accuracy."
        )
    if plan.shape.reads == "lists":
        documents = plan.workload.block_documents(plan.max_len)
        notes.append(
            f"A listwise model: {documents} documents of the call are one prompt, whose keys and values stay until it "
            "is done; --max-model-len and --max-docs-per-block make it shorter."
        )
    elif plan.shape.reads == "texts":
        notes.append("A late-interaction model: each text is computed by itself, and once a call.")
    elif plan.shape.causal is False:
        notes.append("The model has no left context: nothing of a query is shared between its documents.")
    return notes


def _kept_bits(plan: Plan) -> list[str]:
    """What is said of weights that stay in the few bits of the file."""
    stored = plan.shape.stored
    kept = {} if stored is None else stored.kept_bytes(plan.chosen.quantization, plan.device.keeps_groups)
    if stored is None or not kept:
        return []
    sizes = {bits: f"{plan.shape.linear_params * each / 1e9:.2f} GB" for bits, each in kept.items()}
    words = " and ".join(f"in {bits} bits, {size} with their scales" for bits, size in sizes.items())
    some_are_plain = stored.left_plain >= MIN_SHARE
    whole = "Linear layers" if some_are_plain else "The linear layers"
    plain = f", {stored.left_plain:.0%} of the linear layers that the settings name as unquantised,"
    return [
        f"{whole} stay {words}; the rest of the weights is{plain if some_are_plain else ''} the embedding and "
        "norms. A file that leaves more layers unquantised needs more."
    ]


def _why_not(plan: Plan) -> str:
    chosen, gb = plan.chosen, 1e9
    if chosen.weight_bytes + chosen.step_bytes > chosen.limit_bytes:
        return (
            f"It does not fit: weights of {chosen.weight_bytes / gb:.1f} GB and {chosen.step_bytes / gb:.1f} GB for a "
            f"step on each of {chosen.tensor_parallel_size} devices, which may use {chosen.limit_bytes / gb:.1f} GB."
        )
    return (
        f"Keys and values of a pair of {plan.max_len} tokens do not fit beside the weights; "
        f"--max-model-len {chosen.largest_model_len} does."
    )
