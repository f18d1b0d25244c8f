"""Who may import whom: the rules of ``docs/architecture.md``, one test a rule."""

from __future__ import annotations

import ast

import pytest

from engine.devices import DEVICES
from tests.architecture.folders import ALLOWED, CONTRACT, VOCABULARY, kernels_of
from tests.architecture.modules import cycles, import_graph, modules
from tests.architecture.source_tree import LINKED_FOLDERS, dotted_names, product_files, python_files

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
    "cyclopts": (
        "entrypoints/cli",
        "entrypoints/flag_kinds.py",
        "entrypoints/bench/flags.py",
        "entrypoints/bench/options.py",
        "entrypoints/datasets/options.py",
        "entrypoints/evaluation/options.py",
        "entrypoints/rank/options.py",
    ),
}


def owner(path: str) -> str:
    """The entry of ``ALLOWED`` that a file belongs to: the longest that fits."""
    fits = [key for key in ALLOWED if path == key or path.startswith(f"{key}/")]
    return max(fits, key=len, default="")


def unknown_folder(path: str) -> bool:
    """Whether the file lies in a folder of ``engine``, ``backends`` or ``kernels`` that has no entry of its own."""
    return owner(path) in (VOCABULARY, CONTRACT, "kernels") and path.count("/") != 1


def broken_rules() -> dict[tuple[str, str], list[str]]:
    """(folder, folder that it may not import) -> the places where it does."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, targets in import_graph().items():
        source = owner(modules()[name].path)
        for target, line in targets.items():
            room = owner(modules()[target].path)
            if room not in {source, VOCABULARY, *ALLOWED[source]}:
                where = f"{modules()[name].path}:{line} imports {target}: {source} may not import {room}"
                found.setdefault((source, room), []).append(where)
    return found


def test_every_file_has_a_place_in_the_table() -> None:
    lost = [file.path for file in product_files() if not owner(file.path) or unknown_folder(file.path)]
    assert not lost, f"add their folder to tests/architecture/folders.py: {lost}"
    assert set(ALLOWED) == {owner(file.path) for file in product_files()}, "an entry of the table owns no file"


def test_folders_import_only_what_they_may() -> None:
    wrong = [place for places in broken_rules().values() for place in places]
    assert not wrong, "\n".join(wrong)


def unused_rules() -> list[str]:
    """Imports that the table allows and no file makes. Rows that are made for each device alike do not count."""
    used = {
        (owner(modules()[name].path), owner(modules()[target].path))
        for name, targets in import_graph().items()
        for target in targets
    }
    by_device = {f"backends/{row.name}" for row in DEVICES} | {kernels_of(row) for row in DEVICES}
    return [
        f"{source} may import {target}"
        for source, targets in ALLOWED.items()
        for target in sorted(targets)
        if source not in by_device and (source, target) not in used
    ]


def test_what_may_be_imported_is_imported() -> None:
    assert not unused_rules(), "take these out of tests/architecture/folders.py"


def test_the_table_itself_has_an_order() -> None:
    found = cycles({folder: dict.fromkeys(targets, 0) for folder, targets in ALLOWED.items()})
    assert not found, f"these folders may import each other, so neither lies below the other: {found}"


def test_modules_do_not_import_in_circles() -> None:
    """Type-only and late imports count too: two modules that need each other are one idea, or three."""
    found = cycles(import_graph())
    assert not found, "\n".join(" <-> ".join(sorted(group)) for group in found)


def test_the_check_itself_sees_a_circle() -> None:
    graph = {"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1, "d": 1}, "d": {}}
    assert cycles(graph) == [frozenset("abc")]


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
        homes = {device: f"{folder}/{device}" for device in (*(row.name for row in DEVICES), "triton")}
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


def test_devices_are_named_in_their_folders_and_their_row_only() -> None:
    """Whatever depends on the device asks its row or its backend. The CPU's name is torch's as well."""
    homes = [f"{folder}/{row.name}" for folder in ("backends", "kernels") for row in DEVICES]
    torch_names = {row.name for row in DEVICES if row.is_host}
    wrong = [
        f"{file.path}:{node.lineno} {node.value!r}"
        for file in product_files()
        if not file.under("engine/devices.py", *homes)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Constant) and node.value in {row.name for row in DEVICES}
        if not (node.value in torch_names and file.under("backends", "kernels"))
    ]
    assert not wrong, "\n".join(wrong)
