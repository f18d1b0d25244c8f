"""Every setting by its flat name, derived from the frozen classes in ``engine/config.py``.

The command line and the keyword arguments of ``LLM`` are two spellings of the same options, so both come from here:
names, aliases and conversions ("half", "16k", "auto"). What becomes of the flags of other servers stands in
``peer_flags.py``.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from typing import Any

from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig, ServerConfig
from engine.entrypoints.settings.lora_modules import lora_modules
from engine.errors import ConfigError

SECTIONS: dict[str, type[Any]] = {
    "model": ModelConfig,
    "scheduler": SchedulerConfig,
    "device": DeviceConfig,
    "server": ServerConfig,
}

ALIASES = {
    "model_path": "model",
    "model_id": "model",
    "model_name_or_path": "model",
    "tokenizer_path": "tokenizer",
    "chat_template": "score_template",
    "distributed_executor_backend": "executor",
    "max_segment": "max_segment_tokens",
    "step_timeout": "step_timeout_s",
    "drain_delay": "drain_delay_s",
    "header_timeout": "header_timeout_s",
    "body_timeout": "body_timeout_s",
    "shutdown_timeout": "shutdown_timeout_s",
    "tp": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size",
    "dp": "data_parallel_size",
    "dp_size": "data_parallel_size",
    "random_seed": "seed",
    "context_length": "max_model_len",
    "max_batch_tokens": "max_num_batched_tokens",
    "max_prefill_tokens": "max_num_batched_tokens",
    "max_num_queued_reqs": "max_queued_pairs",
    "max_queued_requests": "max_queued_pairs",
    "max_num_queued_tokens": "max_queued_tokens",
    "disable_cuda_graph": "enforce_eager",
    "mem_fraction_static": "gpu_memory_utilization",
    "gpu_memory": "gpu_memory_bytes",
    "uvicorn_log_level": "log_level",
    "payload_limit": "max_body_bytes",
    "max_client_batch_size": "max_documents",
    "tokenization_workers": "tokenizer_threads",
    "tokenizer_worker_num": "api_server_count",
}
"""Names that vLLM, SGLang, TEI and Infinity use for options of ours."""

JSON_LISTS = ("allowed_origins", "allowed_methods", "allowed_headers")

OWN_IMPLEMENTATION = ("vllm", "sglang", "native")
"""What other servers call their own implementation, which is the engine's here."""
DTYPE_ALIASES = {"half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Option:
    """One field of one config class."""

    name: str
    section: str
    type: Any
    default: Any

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(alias for alias, name in ALIASES.items() if name == self.name)


def _options() -> dict[str, Option]:
    found = {}
    for section, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        for f in fields(cls):
            if f.metadata.get("internal"):  # set by the engine itself
                continue
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            found[f.name] = Option(f.name, section, hints[f.name], default)
    return found


OPTIONS = _options()

_HUMAN = re.compile(r"^(-?\d+(?:\.\d+)?)([kKmMgGtT]?)(i?B)?$")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def human_int(text: str) -> int:
    """``1k`` is 1000, ``1K`` is 1024, ``25.6k`` is 25600; a fraction needs a decimal suffix. ``6GiB`` and ``6GB``.

    Raises ``ConfigError`` for anything else.
    """
    match = _HUMAN.match(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not a whole number: write 8192, 8k (8000) or 8K (8192).")
    number, suffix, unit = match.groups()
    if not suffix:
        if "." in number:
            raise ConfigError(f"{text!r} is not a whole number.")
        return int(number)
    base = 1000 if suffix.islower() or unit == "B" else 1024
    if "." in number and base == 1024 and not unit:
        raise ConfigError(f"{text!r}: a fraction needs a decimal suffix, as in 25.6k (25600).")
    scale: int = base ** _POWERS[suffix.lower()]
    exact = Fraction(number) * scale
    if exact.denominator != 1:
        raise ConfigError(f"{text!r} is not a whole number.")
    return exact.numerator


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def convert(option: Option, value: Any) -> Any:
    """Spellings of other engines and of people -> the type of the field.

    Raises ``ConfigError`` for a value that is none of the type.
    """
    if option.name == "dtype" and isinstance(value, str):
        value = DTYPE_ALIASES.get(value, value)
    if option.name == "model_impl" and value in OWN_IMPLEMENTATION:
        return "auto"
    if option.name == "max_model_len" and value in ("auto", -1, "-1"):
        return None
    if option.name == "lora_modules":
        value = lora_modules(value or {})
    if option.name == "score_template" and value is None:
        return option.default
    if option.name == "model" and value is None:
        return option.default
    if isinstance(value, str) and _accepts(option.type, int) and not _accepts(option.type, str):
        try:
            value = human_int(value)
        except ConfigError as error:
            raise ConfigError(f"{option.name}={error}", param=option.name) from None
    if _is_tuple(option.type):
        value = (value,) if isinstance(value, str) else tuple(value or ())
    if option.name in JSON_LISTS:
        value = tuple(item for one in value for item in _json_list(option.name, one))
    _check_type(option, value)
    return value


def _json_list(name: str, text: str) -> list[str]:
    """vLLM writes these lists in JSON; a word is a list of one."""
    if not text.startswith("["):
        return [text]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text}: not valid JSON: {error}.", param=name) from error
    return [str(item) for item in items]


def _accepts(annotation: Any, kind: type) -> bool:
    return annotation is kind or kind in typing.get_args(annotation)


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


def _check_type(option: Option, value: Any) -> None:
    """Choices and simple types; the classes themselves do not check."""
    annotation = option.type
    choices = _choices(annotation)
    if choices and value is not None and value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise ConfigError(f"{option.name}={value!r}: choose one of {listed}.", param=option.name)
    if choices:
        return
    kinds = tuple(typing.get_origin(kind) or kind for kind in (typing.get_args(annotation) or (annotation,)))
    if _is_tuple(annotation) or typing.get_origin(annotation) is dict:
        kinds = (typing.get_origin(annotation),)
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{option.name}={value!r}: {wanted} expected.", param=option.name)


def _choices(annotation: Any) -> tuple[Any, ...]:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return parts
    return tuple(
        choice for part in parts if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)
    )


def build_configs(values: Mapping[str, Any]) -> tuple[EngineConfig, ServerConfig]:
    """Flat values (field names or aliases) -> the frozen configs. Unknown names are a bug of the caller."""
    chosen: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        option = OPTIONS[ALIASES.get(name, name)]
        chosen[option.section][option.name] = convert(option, value)
    _check_ranges({name: value for section in chosen.values() for name, value in section.items()})
    engine = EngineConfig(
        model=ModelConfig(**chosen["model"]),
        scheduler=SchedulerConfig(**chosen["scheduler"]),
        device=DeviceConfig(**chosen["device"]),
    )
    return engine, ServerConfig(**chosen["server"])


MAX_API_SERVERS = 64
"""More than that have more to do with each other than with their callers; start another server then."""
_POSITIVE = frozenset(
    (
        *(
            "max_model_len",
            "max_docs_per_block",
            "max_num_batched_tokens",
            "max_num_seqs",
            "max_segment_tokens",
            "kv_cache_tokens",
        ),
        *("tensor_parallel_size", "data_parallel_size", "cpu_threads", "step_timeout_s", "pipeline_depth"),
        "gpu_memory_bytes",
        *("max_body_bytes", "max_documents", "max_queued_pairs", "max_queued_tokens", "tokenizer_threads"),
        *("header_timeout_s", "body_timeout_s", "max_connections", "api_server_count"),
    )
)


def _check_ranges(values: Mapping[str, Any]) -> None:
    for name in _POSITIVE:
        if (value := values.get(name)) is not None and value <= 0:
            raise ConfigError(f"{name}={value}: a positive number expected.", param=name)
    for name in ("shutdown_timeout_s", "drain_delay_s", "max_queue_seconds"):
        if not values.get(name, 0) >= 0:
            raise ConfigError(f"{name}={values[name]}: zero or more seconds expected.", param=name)
    if values.get("api_server_count", 1) > MAX_API_SERVERS:
        raise ConfigError(
            f"api_server_count={values['api_server_count']}: at most {MAX_API_SERVERS} API servers share an engine.",
            param="api_server_count",
        )
    if not 0 <= values.get("port", 0) <= 65535:
        raise ConfigError(f"port={values['port']}: a port is 0 to 65535.", param="port")
    share = values.get("gpu_memory_utilization")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(
            f"gpu_memory_utilization={share}: a share above 0 and up to 1 expected.", param="gpu_memory_utilization"
        )
