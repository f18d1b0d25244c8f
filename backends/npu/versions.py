"""Which torch, torch_npu and CANN go together, and what to do where they do not.

Huawei's table (Ascend/pytorch, COMPATIBILITY.en.md) gives each torch_npu one torch and one CANN. The calls of this
engine were compared with the schemas of the versions in ``COMPARED``, and what each CANN's operators take with their
sources. Other versions are let through with a line, since the self-test settles what they do; only pairs that cannot
work are refused.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from engine.extras import pip_install

COMPARED = ("2.10.0.post4", "2.12.0", "2.13.0")
"""Of torch_npu, each with the schemas in ``tests/npu/schemas``."""
OLDEST_TORCH_NPU = (2, 10)
RECOMMENDED_CANN = "9.1.0"
OLDEST_CANN, FIRST_WITHOUT_LIMITS = (9, 0), (9, 1)
TESTED_CANN = (9, 1)
INSTALL_CANN = (
    f"`bash Ascend-cann-toolkit_{RECOMMENDED_CANN}_linux-$(uname -m).run --install` and the package of this chip's "
    "operators (docs/ascend.md)"
)
VERSION_FILE = "ascend_toolkit_install.info"


@dataclass(frozen=True)
class Versions:
    """The versions of driver, CANN and torch_npu as they call themselves; empty: unknown."""

    torch: str
    torch_npu: str
    cann: str

    def problem(self) -> str | None:
        """Why these cannot work together, and the command that fixes it; None: they can."""
        torch, torch_npu, cann = numbers(self.torch), numbers(self.torch_npu), numbers(self.cann)
        if torch_npu and torch_npu < OLDEST_TORCH_NPU:
            return f"torch_npu {self.torch_npu} is too old, 2.10.0.post4 or later is needed: `{pip_install('npu')}`"
        if torch and torch_npu and torch != torch_npu:
            wanted = f"{torch_npu[0]}.{torch_npu[1]}"
            return (
                f"torch {self.torch} and torch_npu {self.torch_npu} do not fit, they need the same minor version: "
                f"`pip install 'torch=={wanted}.*' --index-url https://download.pytorch.org/whl/cpu`"
            )
        if cann and cann < OLDEST_CANN:
            return (
                f"CANN {self.cann} is too old for torch_npu {self.torch_npu}, which is made for CANN "
                f"{RECOMMENDED_CANN}: {INSTALL_CANN}"
            )
        return None

    def note(self) -> str:
        """One line for the log: what they are, and how far that pair is known."""
        what = f"torch {self.torch}, torch_npu {self.torch_npu}, CANN {self.cann or 'of unknown version'}"
        doubts = []
        if self.torch_npu.partition("+")[0] not in COMPARED:
            doubts.append(f"calls were compared with torch_npu {', '.join(COMPARED)}")
        cann = numbers(self.cann)
        if cann and cann < FIRST_WITHOUT_LIMITS:
            doubts.append(f"CANN {self.cann} takes fewer dtypes and heads in its attention than {RECOMMENDED_CANN}")
        if not cann or cann > TESTED_CANN:
            doubts.append(f"operators were compared with CANN {RECOMMENDED_CANN}")
        if not doubts:
            return f"{what}: a known set"
        return f"{what}: {', and '.join(doubts)}, so the self-test decides"


def numbers(version: str) -> tuple[int, int] | None:
    """(major, minor) of "9.1.0", "8.3.RC1" or "2.10.0.post4"; None of anything else."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def installed(package: str) -> str:
    """The version of an installed distribution, without importing it; empty if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cann_version() -> str:
    """The version that CANN states through torch_npu, which must be importable; else what its files say."""
    try:
        from torch_npu.npu.utils import get_cann_version

        said = str(get_cann_version() or "")
    except (ImportError, AttributeError, RuntimeError):
        said = ""
    return said or version_in_files()


def version_in_files() -> str:
    """CANN's version as the files at ASCEND_HOME_PATH have it; empty where they are not found."""
    home = os.environ.get("ASCEND_HOME_PATH")
    for folder in ("", f"{platform.machine()}-linux") if home else ():
        try:
            text = Path(str(home), folder, VERSION_FILE).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if found := re.search(r"^version=(\d+\.\d+[\w.]*)", text, re.MULTILINE):
            return found[1]
    return ""
