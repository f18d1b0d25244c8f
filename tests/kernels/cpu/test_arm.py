"""The kernels for Arm, cross-compiled and run under an emulator: each instruction set has the portable kernels' bits.

Needs `qemu-aarch64-static` (Debian: qemu-user-static) and `aarch64-linux-gnu-g++` (g++-aarch64-linux-gnu).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMPILER = "aarch64-linux-gnu-g++"
ISAS = {
    "cortex-a72": ["neon", "portable"],
    "neoverse-n1": ["neon_dotprod", "neon", "portable"],
    "max": ["neon_i8mm", "neon_dotprod", "neon", "portable"],
}
"""What a processor has, best first."""


@pytest.fixture(scope="module")
def emulator() -> str:
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        pytest.skip("no emulator for Arm here (qemu-aarch64-static; Debian: qemu-user-static)")
    return found


@pytest.fixture(scope="module")
def program(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minutes of one processor the first time; ENGINE_ARM_BUILD names a folder in which the build is kept."""
    for tool in (COMPILER, "cmake"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here, to build the kernels for Arm")
    folder = Path(os.environ.get("ENGINE_ARM_BUILD") or tmp_path_factory.mktemp("arm"))
    settings = {
        "ENGINE_AGREEMENT": "ON", "CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
    }  # fmt: skip
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{name}={value}" for name, value in settings.items())],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        built = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return folder / "agreement"


def run(emulator: str, processor: str, program: Path, *words: str) -> tuple[int, str]:
    command = [emulator, "-cpu", processor, str(program), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_instruction_set_has_the_bits_of_the_portable_kernels(emulator: str, program: Path) -> None:
    code, text = run(emulator, "max", program)
    print(text, file=sys.stderr)
    assert code == 0, text
    assert text.endswith("compared, 0 different\n")
    assert int(text.split()[0]) > 1000


@pytest.mark.parametrize("processor", ISAS)
def test_the_processor_at_hand_decides(emulator: str, program: Path, processor: str) -> None:
    assert run(emulator, processor, program, "list") == (0, "\n".join([*ISAS[processor], ""]))
    assert run(emulator, processor, program, "try") == (0, ISAS[processor][0] + "\n")


def test_what_is_not_there_is_refused_in_a_sentence(emulator: str, program: Path) -> None:
    code, text = run(emulator, "cortex-a72", program, "try", "neon_i8mm")
    assert code == 2
    assert text == "this processor does not support the instruction set 'neon_i8mm'; it has: neon, portable\n"
    code, text = run(emulator, "cortex-a72", program, "try", "avx2")
    assert code == 2
    assert text.startswith("unknown instruction set 'avx2'; this build has: neon_i8mm, neon_dotprod, neon, portable; ")
