"""AMX products, with a model of the tile instructions in plain C: no emulator of them is to be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[2] / "kernels" / "cpu" / "csrc"


def test_products_in_tiles_are_those_of_plain_loops(tmp_path: Path) -> None:
    """int8 exactly; bf16 with the bits of the order of additions that ``amx_products.h`` states."""
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here, to build the model of AMX tiles")
    program = tmp_path / "amx"
    flags = ("-std=c++20", "-O1", "-ffp-contract=off", "-fsanitize=address,undefined", f"-I{SOURCES}")
    built = subprocess.run(
        [compiler, *flags, str(HERE / "amx_model.cpp"), "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "71680 compared, 0 different\n"), done.stderr
