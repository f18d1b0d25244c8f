"""What never appears in the product: ways to run data as code, and errors that vanish."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.source_tree import ROOT, SourceFile, committed_files, dotted_names, product_files, python_files

UNSAFE_MODULES = ("pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib")
UNSAFE_CALLS = ("torch.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.hub.load")
UNPICKLER = "backends/conversion/unpickle.py"
"""Opens ``.bin`` files, in a process of its own, and says so with each call: tensors only."""
UNSAFE_KEYWORDS = ("shell", "trust_remote_code", "allow_pickle")
STARTS_PROCESSES = ("Popen", "call", "check_call", "check_output", "getoutput", "run")
"""The calls whose ``shell`` is the dangerous one; elsewhere it may be the name of a shell."""
# Absolute paths of somebody's machine; the pieces are joined here so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.\-])/(?:" + "|".join(("work", "tmp", "root", "home")) + r")/[\w.]")
TEXT_SUFFIXES = (".py", ".md", ".toml", ".cpp", ".h", ".hpp", ".txt", ".yml", ".yaml", ".json", ".sh", ".cfg", ".css")


def test_no_module_that_runs_data_as_code() -> None:
    wrong = [
        f"{file.path}:{item.line} imports {item.module}"
        for file in product_files()
        for item in file.imports
        if item.module.split(".")[0] in UNSAFE_MODULES
    ]
    assert not wrong, "\n".join(wrong)


def called_name(call: ast.Call) -> str:
    """The last part of what is called: ``run`` for ``subprocess.run(...)``."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _loads_tensors_only(file: SourceFile) -> bool:
    calls = [node for node in ast.walk(file.tree) if isinstance(node, ast.Call) and called_name(node) == "load"]
    torch_calls = [node for node in calls if ast.unparse(node.func) == "torch.load"]
    return len(torch_calls) == 1 and "weights_only=True" in ast.unparse(torch_calls[0])


def unsafe_calls(file: SourceFile) -> list[str]:
    found = [f"{file.path}:{line} {name}" for name, line in dotted_names(file.tree) if name in UNSAFE_CALLS]
    if file.path == UNPICKLER and _loads_tensors_only(file):
        found = [line for line in found if not line.endswith("torch.load")]
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile", "__import__"):
            found.append(f"{file.path}:{node.lineno} {node.func.id}()")
        for keyword in node.keywords:
            harmless = isinstance(keyword.value, ast.Constant) and not keyword.value.value
            is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            if keyword.arg == "shell" and not is_true and called_name(node) not in STARTS_PROCESSES:
                continue
            if keyword.arg in UNSAFE_KEYWORDS and not harmless:
                found.append(f"{file.path}:{node.lineno} {keyword.arg}=")
    return found


def test_no_unsafe_call() -> None:
    wrong = [line for file in product_files() for line in unsafe_calls(file)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load('x')",
        "eval('1')",
        "run(c, shell=True)",
        "subprocess.Popen(c, shell=flag)",
        "load(trust_remote_code=flag)",
    ],
)
def test_the_check_itself_sees_unsafe_calls(text: str) -> None:
    file = SourceFile("sample.py")
    file.__dict__["tree"] = ast.parse(text)
    assert unsafe_calls(file)


def is_broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (
        isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    )


def test_no_error_is_swallowed() -> None:
    wrong = [
        f"{file.path}:{node.lineno}"
        for file in product_files()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ExceptHandler)
        and is_broad(node)
        and all(isinstance(step, ast.Pass | ast.Continue | ast.Break) for step in node.body)
    ]
    assert not wrong, "a broad except must end in a typed error or a logged reason:\n" + "\n".join(wrong)


def test_no_unfinished_code() -> None:
    pattern = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "Not" + "ImplementedError")))
    wrong = [
        f"{file.path}:{number} {line.strip()}"
        for file in python_files()
        for number, line in enumerate(file.text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_path_of_somebodys_machine() -> None:
    wrong = []
    for name in committed_files():
        if name.endswith(TEXT_SUFFIXES) or name in ("Makefile", ".ci/run"):
            text = (ROOT / name).read_text(encoding="utf-8")
            wrong += [
                f"{name}:{number} {line.strip()[:100]}"
                for number, line in enumerate(text.splitlines(), 1)
                if MACHINE_PATH.search(line)
            ]
    assert not wrong, "\n".join(wrong)
