"""Settings in the environment under the names of other servers: what a container was started with.

``INFINITY_*`` and ``LLAMA_ARG_*`` belong to those servers and are read wherever they are set, and so do vLLM's two
about adapters that are loaded while the server runs. The variables of
text-embeddings-inference have everybody's names (``PORT``, ``REVISION``), so they count only beside ``MODEL_ID``, which
says whose environment it is. A line names each one that is used; flags and ``ENGINE_*`` win over all of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from engine.entrypoints.cli.peer_arguments import PeerArguments
from engine.entrypoints.settings.peer_flags import ON, PeerFlag, peer_flags

TEI, INFINITY, LLAMA = "text-embeddings-router", "infinity_emb", "llama-server"
_OTHER_NAMES = {"LLAMA_API_KEY": "api-key", "LLAMA_ARG_EMBEDDINGS": "embedding", "LLAMA_ARG_N_PARALLEL": "parallel"}
"""Variables that are not called as their flag is."""
LORA_FOLDERS = "runtime-lora-folders"
_VLLM_LORA, _VLLM_LORA_FOLDERS = "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_RUNTIME_LORA_ALLOWED_PATH_PREFIXES"
_SECRET = ("api-key", "hf-token", "hf-api-token")


def peer_environment(peers: PeerArguments, environment: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Options of ours that variables of other servers set. Raises ``ConfigError`` as their flags do."""
    given: dict[str, object] = {}
    origins: dict[str, str] = {}
    for variable, name in _variables(environment).items():
        value = environment[variable]
        shown = "..." if name in _SECRET else value
        peers.tell(f"{variable}={shown} in the environment is read as --{name}")
        given[name], origins[name] = (value.split(";") if _is_infinity_list(variable, name) else value), variable
    if isinstance(models := given.get("model-id"), list):  # Infinity's: several with ; between them
        given["model-id"] = models[0]
        if more := [model for model in models[1:] if model]:
            given["also-model"], origins["also-model"] = more, origins["model-id"]
    folders = [folder for folder in environment.get(_VLLM_LORA_FOLDERS, "").split(os.pathsep) if folder]
    if environment.get(_VLLM_LORA, "").lower() in ON:
        if folders:
            peers.tell(f"{_VLLM_LORA_FOLDERS} in the environment is read as --{LORA_FOLDERS}")
            given[LORA_FOLDERS], origins[LORA_FOLDERS] = folders, _VLLM_LORA_FOLDERS
        else:
            peers.tell(
                f"{_VLLM_LORA} is set: adapters are loaded while the server runs from the folders that "
                f"--{LORA_FOLDERS} (or {_VLLM_LORA_FOLDERS}) names, and from nowhere else"
            )
    return peers.in_settings(given, lambda name: origins[name])


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> flag, without its hyphens."""
    found: dict[str, str] = {}
    for flag in peer_flags():
        name = flag.flag.removeprefix("--")
        for variable in _variables_of(flag):
            if environment.get(variable):
                found[variable] = name
    for variable, name in _OTHER_NAMES.items():
        if environment.get(variable):
            found[variable] = name
    if environment.get("HOSTNAME") == socket.gethostname():
        found.pop("HOSTNAME", None)  # shells and container runtimes set it: nobody's choice
    if not environment.get("MODEL_ID"):
        return {variable: name for variable, name in found.items() if variable.startswith(("INFINITY_", "LLAMA_"))}
    return found


def _variables_of(flag: PeerFlag) -> list[str]:
    names = [name.removeprefix("--").replace("-", "_").upper() for name in flag.names if name.startswith("--")]
    if flag.server == TEI:
        return [name for name in names[:1] if name not in ("HELP", "VERSION")]
    if flag.server == INFINITY:
        return [f"INFINITY_{name}" for name in names]
    return [f"LLAMA_ARG_{name}" for name in names] if flag.server == LLAMA else []


def _is_infinity_list(variable: str, name: str) -> bool:
    return variable.startswith("INFINITY_") and any(
        flag.takes == "list" for flag in peer_flags() if flag.server == INFINITY and flag.flag == f"--{name}"
    )
