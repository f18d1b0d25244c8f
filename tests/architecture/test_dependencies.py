"""Few dependencies, each of them used: at most sixteen in the base; imports and declarations agree."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache

import pytest

from engine.extras import pip_install
from tests.architecture.source_tree import ROOT, SourceFile, product_files, python_files

MAX_BASE_DEPENDENCIES = 16
OURS = ("engine", "tests", "benchmarks")
# distribution -> import name, where they differ
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "pillow": "PIL",
    "grpcio": "grpc",
    "protobuf": "google",
    "pyzmq": "zmq",
    "ir_measures": "ir_measures",
    "haystack_ai": "haystack",
    "llama_index_core": "llama_index",
    "opentelemetry_sdk": "opentelemetry",
    "opentelemetry_exporter_otlp_proto_http": "opentelemetry",
}
# Loaded by uvicorn when they are installed: named in its settings, never imported by us.
USED_BY_NAME = {"uvloop", "httptools"}


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def import_name(requirement: str) -> str:
    distribution = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("-", "_")
    return IMPORT_NAMES.get(distribution, distribution)


def third_party_imports(files: list[SourceFile]) -> dict[str, str]:
    """Top-level name -> where it is imported first."""
    found: dict[str, str] = {}
    for file in files:
        for item in file.imports:
            top = item.module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS:
                found.setdefault(top, f"{file.path}:{item.line}")
    return found


def test_messages_name_extras_that_exist() -> None:
    """True in a checkout, beside a wheel and from an index alike: requirements, not our own name."""
    named = {name for file in product_files() for name in re.findall(r"pip_install\(['\"]([\w-]+)['\"]\)", file.text)}
    assert {"grpc", "mcp", "eval"} <= named <= project()["optional-dependencies"].keys()
    assert not [file.path for file in product_files() if "rerank-engine[" in file.text]


def test_the_command_for_an_extra_names_its_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["torch>=2", "httpx>=0.27; extra == 'client'", 'grpcio>=1.66; python_version > "3" and extra == "grpc"']
    monkeypatch.setattr("engine.extras.metadata.requires", lambda name: [*listed, 'protobuf>=5; extra == "grpc"'])
    assert pip_install("grpc") == "pip install 'grpcio>=1.66' 'protobuf>=5'"
    assert pip_install("none") == "pip install '.[none]' in the checkout"


def test_base_install_stays_small() -> None:
    assert len(project()["dependencies"]) <= MAX_BASE_DEPENDENCIES


def declared(*extras: str) -> set[str]:
    """Import names of the base install and these extras, with the parts of them that have a name of their own."""
    optional = project()["optional-dependencies"]
    names = {import_name(line) for line in project()["dependencies"]}
    names |= {import_name(line) for extra in extras for line in optional[extra]}
    parts = {"fastapi": {"starlette"}, "pytest": {"_pytest"}, "transformers": {"safetensors"}}
    parts["langchain_core"] = {"pydantic"}
    parts["mcp"] = {"httpx2"}
    return names.union(*(parts[name] for name in names & set(parts)))


def test_every_import_is_declared() -> None:
    known = declared(*(extra for extra in project()["optional-dependencies"] if extra != "dev"))
    found = third_party_imports(product_files())
    wrong = [f"{where} imports {name}" for name, where in found.items() if name not in known]
    assert not wrong, "not in pyproject.toml:\n" + "\n".join(wrong)


def test_every_import_of_the_tests_is_declared() -> None:
    """A fresh clone has the base install and the dev extra, and nothing else."""
    # tests/npu brings its own torch_npu, a simulated one; tests/clients runs in an environment of its own, and what
    # tests/distributed needs comes with `make test-ray`.
    elsewhere = ("tests/npu", "tests/clients", "tests/distributed")
    files = [file for file in python_files() if file.under("tests") and not file.under(*elsewhere)]
    known = declared("dev")
    found = third_party_imports(files)
    wrong = [f"{where} imports {name}" for name, where in found.items() if name not in known]
    assert not wrong, "not in pyproject.toml:\n" + "\n".join(wrong)


def test_every_base_dependency_is_used() -> None:
    used = set(third_party_imports(product_files())) | USED_BY_NAME
    idle = [line for line in project()["dependencies"] if import_name(line) not in used]
    assert not idle, f"declared and never imported: {idle}"


def test_extras_are_the_promised_ones() -> None:
    promised = {"cuda", "npu", "ray", "bench", "eval", "parquet", "otel", "modelscope", "dev"}
    assert promised <= set(project()["optional-dependencies"])
