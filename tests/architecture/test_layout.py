"""The namespace trick: three folders, three links, no ``__init__.py`` at their roots; a command line without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.architecture.source_tree import LINKED_FOLDERS, ROOT, product_files


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_link_points_at_the_folder(folder: str) -> None:
    link = ROOT / "engine" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}"


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_linked_root_is_a_namespace_folder(folder: str) -> None:
    # A regular package of the same name elsewhere on sys.path then wins over ours.
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_subfolder_is_a_package() -> None:
    folders = {(ROOT / file.path).parent for file in product_files()}
    roots = {ROOT / folder for folder in LINKED_FOLDERS}
    missing = [str(folder.relative_to(ROOT)) for folder in folders - roots if not (folder / "__init__.py").exists()]
    assert not missing, f"no __init__.py in: {', '.join(sorted(missing))}"


def loaded_after(*modules: str) -> set[str]:
    """Names in ``sys.modules`` of a fresh interpreter that imported ``modules``."""
    code = f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\nprint(*sys.modules)"
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_command_line_starts_without_torch() -> None:
    loaded = loaded_after("engine.entrypoints.cli")
    assert not {"torch", "transformers", "numba"} & {name.split(".")[0] for name in loaded}


def test_bare_folder_names_are_never_loaded() -> None:
    loaded = loaded_after("engine.entrypoints.cli")
    assert not {name for name in loaded if name.split(".")[0] in LINKED_FOLDERS}


def test_api_process_has_no_torch() -> None:
    modules = [
        file.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in product_files()
        if file.under("entrypoints/serve")
    ]
    loaded = loaded_after(*(f"engine.{module}" for module in modules))
    assert "torch" not in loaded
