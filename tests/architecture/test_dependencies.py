"""Few dependencies, each of them used: at most sixteen in the base; imports and declarations agree."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache

from tests.architecture.source_tree import ROOT, product_files

MOST_BASE_DEPENDENCIES = 16
# distribution -> import name, where they differ
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "pyzmq": "zmq",
    "ir_measures": "ir_measures",
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


def third_party_imports() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in product_files():
        for item in file.imports:
            top = item.module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("engine", "__future__"):
                found.setdefault(top, f"{file.path}:{item.line}")
    return found


def test_base_install_stays_small() -> None:
    assert len(project()["dependencies"]) <= MOST_BASE_DEPENDENCIES


def test_every_import_is_declared() -> None:
    extras = [line for name, lines in project()["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {import_name(line) for line in [*project()["dependencies"], *extras]}
    # Parts of a declared package that have a name of their own.
    declared |= {"starlette"} if "fastapi" in declared else set()
    declared |= {"rich"} if "cyclopts" in declared else set()
    wrong = [f"{where} imports {name}" for name, where in third_party_imports().items() if name not in declared]
    assert not wrong, "not in pyproject.toml:\n" + "\n".join(wrong)


def test_every_base_dependency_is_used() -> None:
    used = set(third_party_imports()) | USED_BY_NAME
    idle = [line for line in project()["dependencies"] if import_name(line) not in used]
    assert not idle, f"declared and never imported: {idle}"


def test_extras_are_the_promised_ones() -> None:
    promised = {"cuda", "npu", "ray", "bench", "eval", "parquet", "otel", "modelscope", "dev"}
    assert promised <= set(project()["optional-dependencies"])
