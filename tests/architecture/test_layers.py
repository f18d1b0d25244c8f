"""Who may import whom: the rules of ``docs/architecture.md``, one test a rule."""

from __future__ import annotations

import pytest

from tests.architecture.source_tree import LINKED_FOLDERS, SourceFile, dotted_names, product_files, python_files

VOCABULARY = ("config", "errors", "messages", "model_spec", "outputs", "request", "step")
DEVICES = ("cpu", "cuda", "npu")

# module -> the only places that may import it
HOMES = {
    "torch": ("backends", "kernels"),
    "safetensors.torch": ("backends", "kernels"),
    "zmq": ("engine/ipc/channel.py",),
    "triton": ("kernels/triton",),
    "torch_npu": ("backends/npu", "kernels/npu"),
    "torch.cuda": ("backends/cuda", "kernels/triton"),
    "torch.npu": ("backends/npu", "kernels/npu"),
    "ray": ("engine/executor", "entrypoints"),
    "fastapi": ("entrypoints/serve",),
    "uvicorn": ("entrypoints/serve",),
    "cyclopts": ("entrypoints/cli",),
}


def layer_of(file: SourceFile) -> str:
    if not file.under("engine"):
        return file.path.split("/")[0]
    return "vocabulary" if file.path.removeprefix("engine/").removesuffix(".py") in VOCABULARY else "runtime"


def layer_of_module(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "package"
    if parts[1] in LINKED_FOLDERS:
        return parts[1]
    return "vocabulary" if parts[1] in VOCABULARY else "runtime"


# layer -> layers that it may import besides itself
ALLOWED = {
    "vocabulary": set(),
    "runtime": {"vocabulary", "backends"},
    "backends": {"vocabulary", "kernels"},
    "kernels": set(),
    "entrypoints": {"vocabulary", "runtime", "backends", "package"},
}


def test_layers_import_only_what_lies_below_them() -> None:
    wrong = []
    for file in product_files():
        if file.path == "engine/__init__.py":
            continue  # re-exports, lazily
        layer = layer_of(file)
        for item in file.imports:
            if item.module != "engine" and not item.module.startswith("engine."):
                continue
            modules = [f"engine.{name}" for name in item.names] if item.module == "engine" else [item.module]
            for module in modules or ["engine"]:
                target = layer_of_module(module)
                if module == "engine.__version__":
                    continue
                if target != layer and target not in ALLOWED[layer]:
                    wrong.append(f"{file.path}:{item.line} ({layer}) imports {module} ({target})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(HOMES))
def test_module_is_imported_only_in_its_home(module: str) -> None:
    wrong = [
        f"{file.path}:{item.line}"
        for file in product_files()
        for item in file.imports
        if item.reaches(module) and not file.under(*HOMES[module])
    ]
    assert not wrong, f"{module} is imported outside {', '.join(HOMES[module])}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", ["torch.cuda", "torch.npu"])
def test_device_module_is_used_only_in_its_home(module: str) -> None:
    wrong = [
        f"{file.path}:{line} {name}"
        for file in product_files()
        if not file.under(*HOMES[module])
        for name, line in dotted_names(file.tree)
        if name == module or name.startswith(f"{module}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_name_the_installed_package() -> None:
    wrong = [
        f"{file.path}:{item.line} imports {item.module}"
        for file in python_files()
        for item in file.imports
        if item.module.split(".")[0] in LINKED_FOLDERS
    ]
    assert not wrong, "write engine.<folder>; the bare names belong to other packages:\n" + "\n".join(wrong)


def test_devices_do_not_know_each_other() -> None:
    wrong = []
    for folder in ("backends", "kernels"):
        homes = {device: f"{folder}/{device}" for device in (*DEVICES, "triton")}
        for file in product_files():
            if not file.under(folder):
                continue
            own = next((device for device, home in homes.items() if file.under(home)), None)
            if own is None and not file.under("backends/models"):
                continue  # registry and worker may name devices
            others = [device for device in homes if device != own]
            wrong += [
                f"{file.path}:{item.line} imports {item.module}"
                for item in file.imports
                for other in others
                if item.reaches(f"engine.{folder}.{other}")
            ]
    assert not wrong, "\n".join(wrong)
