"""Runs ``on_device/`` on the simulated device, in a process of its own: torch takes a device named "npu" only once.

Each file there is one test here; its result and, if it failed, its failures are those of the other process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "on_device"
FILES = sorted(path.stem for path in FOLDER.glob("test_*.py"))
TIMEOUT_S = 580
pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)  # about a minute of work, on machines that others use too


@dataclass(frozen=True)
class Outcome:
    cases: dict[str, list[ElementTree.Element]]
    output: str


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    report = tmp_path_factory.mktemp("simulated") / "report.xml"
    root = Path(__file__).parents[2]
    paths = [str(FOLDER.parent / "fake"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "--no-showlocals", f"--junit-xml={report}", str(FOLDER)]
    finished = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    output = finished.stdout + finished.stderr
    assert report.exists(), output
    cases: dict[str, list[ElementTree.Element]] = {name: [] for name in FILES}
    for case in ElementTree.parse(report).iter("testcase"):
        place = f"{case.get('classname', '')}.{case.get('name', '')}"
        name = next((name for name in FILES if f".{name}." in f".{place}."), None)
        assert name is not None, output  # an error outside of any file, such as in conftest.py
        cases[name].append(case)
    return Outcome(cases, output)


@pytest.mark.parametrize("name", FILES)
def test_file(name: str, outcome: Outcome) -> None:
    cases = outcome.cases[name]
    assert cases, f"no test of {name} ran:\n{outcome.output}"
    failures = [
        f"{case.get('name')}\n{problem.text}"
        for case in cases
        for kind in ("failure", "error")
        for problem in case.findall(kind)
    ]
    assert not failures, f"{len(failures)} of {len(cases)} failed\n\n" + "\n\n".join(failures)
    skipped = [case for case in cases if case.find("skipped") is not None]
    if len(skipped) == len(cases):
        pytest.skip(f"all {len(cases)} tests were skipped")
