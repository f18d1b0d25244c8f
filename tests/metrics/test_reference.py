"""Commands around the engine, and documents that are generated from it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine import __version__
from engine.entrypoints.cli import run
from engine.entrypoints.cli.bench import OPTIONS
from engine.entrypoints.cli.commands import present_commands
from engine.entrypoints.cli.reference import peer_reference, reference
from engine.entrypoints.serve.metrics import ServerMetrics
from tests.serve.fakes import FakeCore

ROOT = Path(__file__).parents[2]


def test_reference_is_up_to_date() -> None:
    """A changed command line changes the page: ``python -m engine.entrypoints.cli.reference > docs/cli.md``."""
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == reference()
    assert (ROOT / "docs/peer-flags.md").read_text(encoding="utf-8") == peer_reference()


def test_reference_names_every_command() -> None:
    page = reference()
    for name in present_commands():
        assert f"\n## `engine {name}`\n" in page
    for name in OPTIONS:
        assert f"\n### `engine bench {name}`\n" in page
    assert "| `--max-num-seqs` | INT |" in page
    assert "`--random-input-len`" in page
    assert "| `--trust-remote-code` |" in page


def test_documented_metrics_exist() -> None:
    metrics = ServerMetrics()
    metrics.watch_core(FakeCore())
    families = list(text_string_to_metric_families(metrics.render().decode()))
    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    page = (ROOT / "docs/observing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(engine_\w+)", page))
    assert len(named) > 25
    assert named <= exposed


def test_collect_env(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ENGINE_API_KEY", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert run(["collect-env", "--json"]) == 0
    text = capsys.readouterr().out
    report = json.loads(text)
    assert "s3cret" not in text
    assert report["environment"]["ENGINE_API_KEY"] == "(set, not shown)"
    assert report["environment"]["OMP_NUM_THREADS"] == "3"
    assert report["engine"]["version"] == __version__
    assert report["packages"]["torch"].startswith("2.")
    assert report["devices"]["cpu"] == "usable"
    assert run(["collect-env"]) == 0
    text = capsys.readouterr().out
    assert "s3cret" not in text
    for line in ("engine:", "machine:", "packages:", "devices:", "environment:"):
        assert f"{line}\n" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("serve", "rerank", "collect-env", "max-num-seqs"):
        assert word in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True, timeout=60).returncode == 0


def test_completion_completes_in_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(["completion", "bash"])
    (tmp_path / "engine.bash").write_text(capsys.readouterr().out)
    script = (
        f"source {tmp_path}/engine.bash; COMP_WORDS=(engine coll); COMP_CWORD=1; COMP_LINE='engine coll';"
        " COMP_POINT=${#COMP_LINE}; _engine; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["collect-env"], done.stderr


def test_wrong_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "zsh" in capsys.readouterr().err


def test_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet"]
    arguments = ["--config-file", str(ROOT / "docs/site/mkdocs.yml"), "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert {"index", "cli", "observing", "architecture"} <= pages
    for page in (tmp_path / "site").glob("*.html"):
        loaded = re.findall(r"<(?:script|link rel=\"stylesheet\")[^>]*(?:src|href)=\"(https?:[^\"]+)", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"
