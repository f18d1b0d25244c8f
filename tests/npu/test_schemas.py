"""The vendored schemas parse, and equal those of a wheel: ``TORCH_NPU_WHEEL=torch_npu-....whl pytest tests/npu``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from tests.npu.compare_schemas import (
    differences,
    missing_functions,
    nearest,
    used_functions,
    used_utilities,
    vendored_schemas,
    versions,
)

WHEEL_VARIABLE = "TORCH_NPU_WHEEL"
YAML = "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml"


@pytest.mark.parametrize("version", versions())
def test_every_schema_is_one_that_torch_understands(version: str) -> None:
    schemas = vendored_schemas(version)
    assert len(schemas) >= 26
    for name, schema in schemas.items():
        assert torch._C.parse_schema(schema).name == name


def test_the_vendored_versions() -> None:
    """What vllm-ascend pins, what Huawei recommends for CANN 9.1, and the newest; all with the same operators."""
    assert versions() == ["2.10.0.post4", "2.12.0", "2.13.0"]
    assert len({tuple(sorted(vendored_schemas(version))) for version in versions()}) == 1
    known = {"2.9.0": "2.10.0.post4", "2.11.0.post3": "2.10.0.post4", "2.12.0.post3": "2.12.0", "2.14.0": "2.13.0"}
    assert {version: nearest(version) for version in known} == known


def test_equal_to_those_of_the_wheel() -> None:
    wheel = os.environ.get(WHEEL_VARIABLE)
    if not wheel:
        pytest.skip(f"set {WHEEL_VARIABLE} to a torch_npu wheel to compare the schemas with it (docs/ascend.md)")
    assert differences(Path(wheel)) == []
    assert missing_functions(Path(wheel)) == []


@pytest.fixture
def schemas() -> dict[str, str]:
    return vendored_schemas(versions()[-1])


def make_wheel(path: Path, schemas: dict[str, str], exported: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("torch_npu/npu/__init__.py", f"__all__ = {list(exported)!r}\n")
        archive.writestr("torch_npu/npu/utils.py", f"__all__ = {sorted(used_utilities())!r}\n")
        archive.writestr(YAML, "custom:\n" + "".join(f"  - func: {schema}\n" for schema in schemas.values()))
    return path


def test_a_wheel_is_compared_with_its_own_version(tmp_path: Path, schemas: dict[str, str]) -> None:
    newest = make_wheel(tmp_path / "torch_npu-2.13.0-cp311-cp311-x.whl", schemas)
    assert differences(newest) == []
    (problem,) = differences(newest.rename(tmp_path / "torch_npu-2.12.0-cp311-cp311-x.whl"))
    assert problem.startswith("npu_add_rms_norm_dynamic_quant differs")


def test_equal_schemas_pass(tmp_path: Path, schemas: dict[str, str]) -> None:
    assert differences(make_wheel(tmp_path / "same.whl", schemas)) == []


def test_a_changed_default_is_found(tmp_path: Path, schemas: dict[str, str]) -> None:
    schemas["npu_swiglu_quant"] = schemas["npu_swiglu_quant"].replace("activate_left=False", "activate_left=True")
    (problem,) = differences(make_wheel(tmp_path / "changed.whl", schemas))
    assert problem.startswith("npu_swiglu_quant differs")


def test_a_missing_operator_is_found(tmp_path: Path, schemas: dict[str, str]) -> None:
    del schemas["npu_gelu"]
    assert differences(make_wheel(tmp_path / "older.whl", schemas)) == ["npu_gelu is not in older.whl"]


def test_a_wheel_of_something_else_is_found(tmp_path: Path) -> None:
    assert differences(make_wheel(tmp_path / "other.whl", {})) == ["other.whl holds no operator schemas"]


def test_a_function_that_we_call_and_the_wheel_lacks_is_found(tmp_path: Path) -> None:
    used = used_functions()
    assert {"NPUGraph", "mem_get_info", "set_device", "Event"} <= used
    assert missing_functions(make_wheel(tmp_path / "same.whl", {}, tuple(used))) == []
    assert used_utilities() == {"get_cann_version"}
    older = make_wheel(tmp_path / "older.whl", {}, tuple(used - {"graph_pool_handle"}))
    assert missing_functions(older) == ["torch_npu.npu.graph_pool_handle is not in older.whl"]
