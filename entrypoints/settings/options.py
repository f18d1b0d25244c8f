"""Every setting by its flat name, derived from the frozen classes in ``engine/config.py``.

The command line and the keyword arguments of ``LLM`` are two spellings of the same options, so both come from here:
names, aliases, conversions ("half", "16k", "auto"), and the arguments of other engines that are accepted although they
mean nothing here (each with one line that says why).
"""

from __future__ import annotations

import difflib
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
"""Names that vLLM, SGLang and TEI use for options of ours."""

DTYPE_ALIASES = {"half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Ignored:
    """An argument of another engine that needs no counterpart here."""

    because: str
    takes_value: bool = False
    allowed: tuple[str, ...] = ()
    """Values that agree with what this engine does anyway; any other one is an error. Empty: all."""


_SCORES = "this engine only scores pairs"
_ATTENTION = "the backend picks its own attention kernels"
_REMOTE = "code from a checkpoint is never run"

IGNORED: dict[str, Ignored] = {
    "task": Ignored(_SCORES, takes_value=True, allowed=("auto", "score", "classify", "rerank")),
    "runner": Ignored(_SCORES, takes_value=True, allowed=("auto", "pooling")),
    "convert": Ignored(_SCORES, takes_value=True, allowed=("auto", "none", "classify")),
    "is_embedding": Ignored("whether the model is a cross-encoder is read from its files"),
    "rerank": Ignored(_SCORES),
    "trust_remote_code": Ignored(_REMOTE),
    "hf_token": Ignored("the hub token is read from HF_TOKEN", takes_value=True),
    "tokenizer_mode": Ignored("there is one tokenizer, the fast one", takes_value=True),
    "skip_tokenizer_init": Ignored("the tokenizer is part of scoring"),
    "code_revision": Ignored(_REMOTE, takes_value=True),
    "model_impl": Ignored("every architecture is implemented here", takes_value=True),
    "config_format": Ignored("the format is read from the files", takes_value=True),
    "pooler_config": Ignored("the pooling is read from the checkpoint", takes_value=True),
    "enable_prefix_caching": Ignored("shared prefixes are always computed once; --prefix-cache says what is kept"),
    "disable_radix_cache": Ignored("use --prefix-cache off to keep nothing between calls"),
    "chunked_prefill_size": Ignored("long documents are always chunked to the token budget", takes_value=True),
    "enable_chunked_prefill": Ignored("long documents are always chunked to the token budget"),
    "attention_backend": Ignored(_ATTENTION, takes_value=True),
    "block_size": Ignored("keys and values are kept by token, not by block", takes_value=True),
    "swap_space": Ignored("nothing is swapped", takes_value=True),
    "cpu_offload_gb": Ignored("weights stay on the device", takes_value=True),
    "kv_cache_dtype": Ignored("keys and values have the model's dtype", takes_value=True),
    "scheduling_policy": Ignored("half of each step for the oldest calls, half for the shortest", takes_value=True),
    "async_scheduling": Ignored("the next step is always planned while one runs"),
    "optimization_level": Ignored(
        "the backend picks its own graphs; --enforce-eager switches them off", takes_value=True
    ),
    "compilation_config": Ignored(
        "the backend picks its own graphs; --enforce-eager switches them off", takes_value=True
    ),
    "long_prefill_token_threshold": Ignored("long documents are chunked by --max-segment-tokens", takes_value=True),
    "prefix_caching_hash_algo": Ignored("prefixes are compared token by token, not by hash", takes_value=True),
    "performance_mode": Ignored("steps are planned for throughput and fairness at once", takes_value=True),
    "pipeline_parallel_size": Ignored("layers are not split over devices", takes_value=True, allowed=("1",)),
    "download_dir": Ignored("the hub's cache is where HF_HOME says", takes_value=True),
    "ignore_patterns": Ignored("only the files that are needed are fetched", takes_value=True),
    "enable_lora": Ignored("adapters are served because --lora-modules names them"),
    "max_loras": Ignored("all named adapters are kept on the device", takes_value=True),
    "max_lora_rank": Ignored("an adapter may have any rank", takes_value=True),
    "max_cpu_loras": Ignored("all named adapters are kept on the device", takes_value=True),
    "lora_dtype": Ignored("adapters run in the model's dtype", takes_value=True),
    "skip_server_warmup": Ignored("the server is ready once its self-test has passed"),
    "additional_config": Ignored("there are no additional settings", takes_value=True),
    "disable_uvicorn_access_log": Ignored("there is no access log below --log-level debug"),
    "disable_log_requests": Ignored("requests are never logged"),
    "enable_metrics": Ignored("/metrics is always there"),
    "enable_request_id_headers": Ignored("every answer carries X-Request-Id"),
    "auto_truncate": Ignored("over-long documents are cut unless the call says truncate: false"),
    "max_concurrent_requests": Ignored("see --max-queued-pairs", takes_value=True),
}
"""``enable_x`` and plain switches also exist as ``no_enable_x`` / ``no_x``; both mean nothing."""


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
    """``1k`` is 1000, ``1K`` is 1024, ``25.6k`` is 25600; a fraction needs a decimal suffix. ``6GiB`` and ``6GB``."""
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


def check_ignored(name: str, value: Any, shown: str) -> str | None:
    """The one-line notice for an argument that means nothing here; None when it is at its harmless default."""
    ignored = IGNORED[name]
    if value is None or value is False or value == "" or value == 0:
        return None
    if ignored.allowed and str(value) not in ignored.allowed:
        raise ConfigError(f"{shown} {value}: {ignored.because}; it accepts {', '.join(ignored.allowed)}.", param=name)
    if ignored.allowed:
        return None  # it asked for what happens anyway
    return f"{shown} is accepted and has no effect: {ignored.because}."


def convert(option: Option, value: Any) -> Any:
    """Spellings of other engines and of people -> the type of the field."""
    if option.name == "dtype" and isinstance(value, str):
        value = DTYPE_ALIASES.get(value, value)
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
    _check_type(option, value)
    return value


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
