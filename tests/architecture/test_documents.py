"""The documents speak of things that exist: files, links, make targets, subcommands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.source_tree import ROOT, committed_files

PLACES = ("README.md", "CONTRIBUTING.md", "docs")
DOCUMENTS = [name for name in committed_files() if name.endswith(".md") and name.split("/")[0] in PLACES]
OURS = ("engine/", "backends/", "kernels/", "entrypoints/", "tests/", "benchmarks/", "docs/", "deploy/", ".ci/")
CODE = re.compile(r"`([^`\s]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
MAKE = re.compile(r"\bmake ([a-z]+)\b")


def exists(path: str) -> bool:
    if "<" in path or "{" in path:
        return True  # a pattern, such as backends/models/<model_type>.py
    return any(ROOT.glob(path.rstrip("/"))) if "*" in path else (ROOT / path).exists()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = [word for word in CODE.findall(text) if word.startswith(OURS)]
    missing = [word for word in named if not exists(word.split(":")[0])]
    assert not missing, f"{name} names files that do not exist: {missing}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in targets if not (ROOT / Path(name).parent / link).exists()]
    assert not missing, f"{name} links to {missing}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name: str) -> None:
    fenced = re.findall(r"`(make [a-z]+)[^`]*`|^(make [a-z]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    targets = {MAKE.search(a or b).group(1) for a, b in fenced}  # type: ignore[union-attr]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)}
    assert not missing, f"{name} names make targets that do not exist: {missing}"


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md", "CHANGELOG.md", "benchmarks/LOG.md", "LICENSE"])
def test_document_is_there(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip()


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text(encoding="utf-8")
