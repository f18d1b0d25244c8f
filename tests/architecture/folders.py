"""Who may import whom, as data: each folder of the product with the folders that its files may import.

A key is a folder, or a single file where a folder holds something that others may use alone; the longest key that fits
a file owns it. ``VOCABULARY`` are the files directly in ``engine/``: the words of the project, which anyone may use.
``docs/architecture.md`` says the same in prose.
"""

from __future__ import annotations

from engine.devices import DEVICES, DeviceRow

VOCABULARY = "engine"
PACKAGE = "engine/__init__.py"
"""``from engine import LLM`` and its version: the offline API, for the ways in that score as a caller would."""

CONTRACT = "backends"
"""The contract of a backend with the types of a step on a device: base, packed_batch, kv_cache, tensor_parallel."""
FAMILIES = "engine/checkpoint/families.py"
"""What each family's config.json means."""
FAMILY_KEYS = "engine/checkpoint/family_keys.py"
NETWORKS = {CONTRACT, FAMILIES, "backends/loading", "backends/nn", "kernels"}
SHEETS = "backends/data_sheet.py"
"""What each device's products can do, for `engine plan`."""
DEVICE = {CONTRACT, SHEETS, "kernels"}
KERNELS = {"cuda": "kernels/triton"}
"""Devices whose kernels lie in a folder of another name."""


def kernels_of(row: DeviceRow) -> str:
    """The folder of a device's kernels."""
    return KERNELS.get(row.name, f"kernels/{row.name}")


ALLOWED: dict[str, set[str]] = {
    # The vocabulary: requests, steps, messages, settings, errors.
    VOCABULARY: set(),
    PACKAGE: {"entrypoints/offline", "entrypoints/client"},
    "entrypoints/client": set(),
    "entrypoints/integrations": {"entrypoints/client"},
    # From a checkpoint and texts to token ids.
    "engine/prompts": set(),
    "engine/checkpoint": {
        "engine/prompts",
        FAMILIES,
        "engine/checkpoint/safetensors_header.py",
        "engine/checkpoint/gguf",
    },
    "engine/checkpoint/gguf": {"engine/checkpoint/safetensors_header.py"},
    "engine/checkpoint/safetensors_header.py": set(),
    FAMILIES: {FAMILY_KEYS},
    FAMILY_KEYS: set(),
    "engine/inputs": {"engine/prompts", "engine/checkpoint", FAMILIES},
    # From token ids to steps, from steps to scores.
    "engine/scheduling": set(),
    "engine/ipc/private_folder.py": set(),
    "engine/ipc/stop_signals.py": set(),
    "engine/ipc": {"engine/ipc/private_folder.py"},
    "engine/executor/division.py": {FAMILIES},
    "engine/executor": {
        "engine/ipc",
        "engine/ipc/private_folder.py",
        "engine/executor/division.py",
        CONTRACT,
        "backends/worker.py",
    },
    "engine/core": {"engine/scheduling", "engine/executor", "engine/ipc"},
    "engine/scoring": {"engine/inputs"},
    "engine/pictures": set(),
    # How a step runs on a device.
    CONTRACT: {"kernels"},
    SHEETS: set(),
    "backends/registry.py": {CONTRACT},
    "backends/loading": {CONTRACT, "kernels", "engine/checkpoint/safetensors_header.py", "engine/checkpoint/gguf"},
    "backends/nn": {CONTRACT, FAMILIES, "backends/loading", "kernels"},
    "backends/loading/adapter_files.py": {"backends/loading", "backends/nn"},
    "backends/models": NETWORKS,
    "backends/conversion": {
        "backends/loading",
        "backends/loading/adapter_files.py",
        "backends/models",
        "engine/checkpoint/gguf",
    },
    "backends/measure": NETWORKS - {"backends/nn"} | {"backends/registry.py", "backends/models"},
    "backends/model_runner.py": {CONTRACT, "backends/nn", "backends/models"},
    "backends/library_model.py": {CONTRACT, "backends/nn", "kernels"},
    "backends/model_loading.py": NETWORKS - {FAMILIES}
    | {
        "backends/library_model.py",
        "engine/checkpoint",  # whether the files are still those that were understood
        "backends/loading/adapter_files.py",
        "backends/models",
    },
    "backends/worker.py": {
        CONTRACT,
        "backends/model_loading.py",
        "engine/checkpoint",  # and those of adapters
        "backends/registry.py",
        "backends/loading/adapter_files.py",
        "backends/measure",
        "backends/model_runner.py",
    },
    "kernels": set(),
    # Each device: its folder of backends, and its kernels.
    **{f"backends/{row.name}": DEVICE | {kernels_of(row)} for row in DEVICES},
    **{kernels_of(row): {"kernels"} for row in DEVICES},
    # The ways in, from those that others build on to the command line, which knows them all.
    "entrypoints/terminal.py": set(),
    "entrypoints/progress.py": {"entrypoints/terminal.py"},
    "entrypoints/flag_kinds.py": set(),
    "entrypoints/files": set(),
    "entrypoints/settings": set(),
    "entrypoints/assets": {"entrypoints/settings"},
    "entrypoints/inspection/self_test.py": {"engine/core", "engine/inputs", "engine/scoring"},
    "entrypoints/offline": {
        "engine/checkpoint",
        "engine/core",
        "engine/inputs",
        "engine/pictures",
        "engine/scoring",
        "entrypoints/settings",
        "entrypoints/inspection/self_test.py",
    },
    "entrypoints/inspection": {
        PACKAGE,
        "engine/checkpoint",
        "engine/inputs",
        "engine/prompts",
        "engine/scoring",
        CONTRACT,
        "backends/registry.py",
        "backends/measure",
        "entrypoints/terminal.py",
    },
    "entrypoints/planning": {
        SHEETS,
        "engine/checkpoint",
        FAMILIES,
        "engine/executor/division.py",
        "backends/measure",
        "entrypoints/terminal.py",
    },
    "entrypoints/conversion": {"engine/checkpoint", FAMILIES, "backends/conversion"},
    "entrypoints/rank": {
        "entrypoints/flag_kinds.py",
        PACKAGE,
        "engine/scoring",
        "entrypoints/files",
        "entrypoints/terminal.py",
    },
    "entrypoints/datasets": {
        "entrypoints/flag_kinds.py",
        PACKAGE,
        "engine/executor",
        "entrypoints/files",
        "entrypoints/progress.py",
    },
    "entrypoints/evaluation": {
        "entrypoints/flag_kinds.py",
        PACKAGE,
        "engine/scoring",
        "entrypoints/files",
        "entrypoints/progress.py",
        "entrypoints/settings",
        "entrypoints/terminal.py",
    },
    "entrypoints/bench": {
        "entrypoints/flag_kinds.py",
        PACKAGE,
        "engine/checkpoint",
        "entrypoints/files",
        "entrypoints/offline",
        "entrypoints/progress.py",
        "entrypoints/terminal.py",
    },
    "entrypoints/serve/errors.py": set(),
    "entrypoints/serve/page": set(),
    "entrypoints/serve/dialects": {
        "engine/inputs",
        "engine/scoring",
        "entrypoints/serve/errors.py",
    },
    "entrypoints/serve": {
        PACKAGE,
        "engine/checkpoint",
        "engine/core",
        "engine/inputs",
        "engine/pictures",
        "engine/prompts",
        "engine/scoring",
        "entrypoints/settings",
        "entrypoints/inspection/self_test.py",
        "entrypoints/serve/errors.py",
        "entrypoints/serve/page",
        "entrypoints/serve/dialects",
    },
    "entrypoints/serve/api_servers": {
        "engine/inputs",
        "engine/ipc",
        "entrypoints/settings",
        "entrypoints/serve",
        "entrypoints/serve/errors.py",
    },
    "entrypoints/serve/server.py": {
        "engine/ipc/stop_signals.py",
        "engine/core",
        "entrypoints/serve",
        "entrypoints/serve/api_servers",
    },
    "entrypoints/batch": {
        "entrypoints/files",
        "engine/ipc/private_folder.py",
        "engine/ipc/stop_signals.py",
        "entrypoints/progress.py",
        "entrypoints/serve",
        "entrypoints/terminal.py",
    },
    "entrypoints/ray_serve.py": {
        "engine/executor",
        "entrypoints/serve",
        "entrypoints/settings",
    },
    "entrypoints/model_context": {"entrypoints/serve", "entrypoints/terminal.py"},
    "entrypoints/demo": set(),
    "entrypoints/cli": {
        "entrypoints/flag_kinds.py",
        PACKAGE,
        "engine/ipc/stop_signals.py",
        "backends/registry.py",
        "entrypoints/terminal.py",
        "entrypoints/settings",
        "entrypoints/assets",
        "entrypoints/model_context",
        "entrypoints/batch",
        "entrypoints/bench",
        "entrypoints/conversion",
        "entrypoints/datasets",
        "entrypoints/evaluation",
        "entrypoints/files",
        "entrypoints/inspection",
        "entrypoints/planning",
        "entrypoints/rank",
        "entrypoints/serve/server.py",
    },
}
"""Every folder may also import itself, its vocabulary, and what is listed here. Nothing else."""
