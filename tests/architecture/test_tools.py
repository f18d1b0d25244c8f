"""The tools of the project: what is configured is run, and what is run is there."""

from __future__ import annotations

import re
import tomllib

from tests.architecture.source_tree import ROOT, committed_files

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PRE_COMMIT = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
BUILDS = {"scikit-build"}
"""Run by pip."""
SOURCES = (".py", ".pyi", ".cpp", ".h", ".md", ".toml", ".yaml", ".yml", ".js", ".css", ".html")


def test_configured_tools_run() -> None:
    configured = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]) - BUILDS
    idle = {name for name in configured if not re.search(rf"(\$\(BIN\)/|-m ){name}\b", MAKEFILE)}
    assert not idle, f"pyproject.toml configures tools that no word of the Makefile runs: {idle}"


def test_pre_commit_runs_what_make_lint_runs() -> None:
    lint = MAKEFILE.split("\nlint: setup\n")[1].split("\n\n")[0]
    tools = set(re.findall(r"\$\(BIN\)/(\S+)", lint))
    assert tools
    assert all(f".venv/bin/{tool} " in PRE_COMMIT or f".venv/bin/{tool}\n" in PRE_COMMIT for tool in tools)


def test_the_quick_tests_are_there() -> None:
    quick = MAKEFILE.replace("\\\n", " ").split("\nQUICK :=")[1].split("\n")[0].split()
    assert quick
    missing = [path for path in quick if not (ROOT / path).exists()]
    assert not missing, f"`make check` names tests that do not exist: {missing}"


def test_files_are_as_editorconfig_says() -> None:
    wrong = []
    for name in committed_files():
        if not name.endswith(SOURCES) or name == "docs/cli.md":  # written by a command, compared by a test
            continue
        content = (ROOT / name).read_bytes()
        spaces = any(line != line.rstrip() for line in content.decode("utf-8").split("\n"))
        if spaces or b"\r" in content or b"\t" in content or (content and not content.endswith(b"\n")):
            wrong.append(name)
    assert not wrong, f"tabs, spaces at the end of a line, or no newline at the end: {wrong}"
