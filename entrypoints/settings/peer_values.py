"""Values of other servers' flags -> values of ours, where the two are written differently.

Each function gets the flag as it was spelt, its value (text, or what a file or a caller gave) and the option that it
sets, and returns settings by our names and one line for the user, or none. All raise ``ConfigError``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from engine.devices import HOST
from engine.errors import ConfigError

Converted = tuple[dict[str, Any], str]
Converter = Callable[[str, Any, str], Converted]


def _fail(shown: str, value: Any, because: str) -> ConfigError:
    text = value if isinstance(value, str) else json.dumps(value)
    return ConfigError(f"{shown} {text}: {because}", param=shown.lstrip("-").replace("-", "_"))


def _object(shown: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _fail(shown, value, f"not valid JSON: {error}.") from error
    if not isinstance(value, Mapping):
        raise _fail(shown, value, "a JSON object expected.")
    return value


def _whole(shown: str, value: Any) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        raise _fail(shown, value, "a whole number expected.") from error


def comma_list(shown: str, value: Any, to: str) -> Converted:
    """llama-server separates with commas."""
    items = value.split(",") if isinstance(value, str) else value
    return {to: [str(item).strip() for item in items if str(item).strip()]}, ""


_NO_ACTIVATION = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}


def pooler_config(shown: str, value: Any, to: str) -> Converted:
    """vLLM: ``use_activation`` (once ``activation``, ``softmax``) false asks for logits; the pooling is the model's."""
    overrides: dict[str, Any] = {}
    for key, item in _object(shown, value).items():
        if item is None or (key in ("activation", "use_activation", "softmax") and item is True):
            continue
        if key == "task" and item in ("classify", "score"):
            continue
        if key in ("activation", "use_activation", "softmax") and item is False:
            overrides |= _NO_ACTIVATION
        elif key in ("logit_mean", "logit_sigma"):
            overrides[key] = item
        else:
            raise _fail(
                shown,
                value,
                f"{key} is refused: for vLLM it changes how token vectors become the result, here the pooling is the "
                "checkpoint's own. use_activation, logit_mean and logit_sigma are taken.",
            )
    return ({to: overrides} if overrides else {}), ""


def template_kwargs(shown: str, value: Any, to: str) -> Converted:
    """The one value that templates of rerankers have is the instruction."""
    given = dict(_object(shown, value))
    instruction = given.pop("instruction", None) or given.pop("instruct", None)
    if given:
        raise _fail(
            shown,
            value,
            f"{', '.join(given)}: for chat servers such values change the prompt; the templates of rerankers have an "
            "instruction and nothing else.",
        )
    return ({to: instruction} if instruction else {}), ""


def profiler_config(shown: str, value: Any, to: str) -> Converted:
    """vLLM's profiler in JSON; here a trace needs its folder only."""
    given = _object(shown, value)
    folder = given.get("torch_profiler_dir")
    if given.get("profiler") in (None, "torch") and isinstance(folder, str) and folder:
        return {to: folder}, ""
    if not given:
        return {}, ""
    raise _fail(shown, value, '{"torch_profiler_dir": "FOLDER"} expected, which is --profile FOLDER.')


def lora_paths(shown: str, value: Any, to: str) -> Converted:
    """SGLang: ``name=path``, JSON, or a path alone, which is its own name then."""
    items = [value] if isinstance(value, str | Mapping) else list(value)
    if isinstance(value, Mapping):
        return {to: value}, ""
    renamed: list[Any] = []
    for item in items:
        if isinstance(item, str) and item.lstrip().startswith("{"):
            given = dict(_object(shown, item))
            item = f"{given.get('lora_name') or given.get('name')}={given.get('lora_path') or given.get('path')}"
        elif isinstance(item, str) and "=" not in item:
            item = f"{item}={item}"
        renamed.append(item)
    return {to: renamed}, ""


def otlp_endpoint(shown: str, value: Any, to: str) -> Converted:
    """text-embeddings-inference sends traces over gRPC, this engine over HTTP."""
    if urlsplit(str(value)).port == 4317:
        raise _fail(
            shown,
            value,
            "for text-embeddings-inference this is a collector's port for OTLP over gRPC; here traces go by OTLP over "
            "HTTP: --otlp-traces-endpoint http://HOST:4318.",
        )
    return {to: value}, f"{shown} is read as --otlp-traces-endpoint: traces are sent over HTTP, not gRPC."


def gpu_layers(shown: str, value: Any, to: str) -> Converted:
    """llama-server's 0 keeps the whole model on the CPU; any other number is a matter of its memory."""
    if str(value) == "0":
        return {to: HOST.name}, ""
    return {}, f"{shown} is accepted and has no effect: a model is on its device as a whole."


def hf_repo(shown: str, value: Any, to: str) -> Converted:
    """llama-server's ``user/repo:QUANT`` names one GGUF file of a repository."""
    model, _, quantization = str(value).partition(":")
    if quantization or model.lower().endswith("-gguf"):
        raise _fail(
            shown,
            value,
            f"llama-server fetches one GGUF file of that repository; here GGUF is read from a local file: "
            f"hf download {model} --include '*{quantization}*.gguf' --local-dir FOLDER, then --model FOLDER.",
        )
    return {to: model}, ""


def threads(shown: str, value: Any, to: str) -> Converted:
    """llama-server's -1 is its own choice, as none is here."""
    number = _whole(shown, value)
    return ({to: str(number)} if number > 0 else {}), ""


def ctx_size(shown: str, value: Any, to: str) -> Converted:
    """llama-server's context is shared by its slots; here a length is that of one pair."""
    number = _whole(shown, value)
    if number <= 0:
        return {}, ""
    line = f"{shown} is read as --max-model-len, the longest pair; llama-server divides it among its slots."
    return {to: str(number)}, line


def tensor_split(shown: str, value: Any, to: str) -> Converted:
    """Equal parts are what --tensor-parallel-size does; there are no others."""
    parts = [part.strip() for part in str(value).replace("/", ",").split(",") if part.strip()]
    if not parts or len(set(parts)) > 1:
        raise _fail(
            shown,
            value,
            "llama-server gives each GPU its share of the layers; here --tensor-parallel-size N gives N devices equal "
            "parts of every layer.",
        )
    return {to: str(len(parts))}, ""


def verbosity(shown: str, value: Any, to: str) -> Converted:
    """llama-server: 1 error, 2 warning, 3 info, more is debugging."""
    number = _whole(shown, value)
    level = {0: "error", 1: "error", 2: "warning", 3: "info"}.get(number, "debug")
    return {to: level}, ""


CONVERTERS: dict[str, Converter] = {
    function.__name__: function
    for function in (
        comma_list,
        pooler_config,
        template_kwargs,
        profiler_config,
        lora_paths,
        otlp_endpoint,
        gpu_layers,
        hf_repo,
        threads,
        ctx_size,
        tensor_split,
        verbosity,
    )
}
