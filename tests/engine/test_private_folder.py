"""Temporary folders: private, swept after a kill, and never with a path too long for a socket."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.ipc.private_folder import PrivateFolder, private_folder, sweep

HOLD = """
import sys
from engine.ipc.private_folder import PrivateFolder
folder = PrivateFolder(for_sockets=True)
(folder.path / "down").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_only_this_user_may_enter_and_it_goes_away(base: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == base
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_the_next_start_removes_what_a_killed_process_left(base: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    left = Path(holder.stdout.readline().strip())
    assert sweep(base) == [], "its process lives"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    assert left.exists()
    with private_folder():
        assert not left.exists()


def test_what_is_not_ours_stays(base: Path) -> None:
    (base / "engine-notes").mkdir()
    (base / "engine-file").touch()
    other = base / "engine-link"
    other.symlink_to(base / "engine-notes")
    (base / "engine-new").mkdir()
    (base / "engine-new" / "lock").touch()  # being made by another process at this moment
    assert sweep(base) == []
    assert len(list(base.iterdir())) == 4


def test_a_long_path_is_avoided_for_sockets(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = base / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = PrivateFolder(for_sockets=True)
    try:
        assert len(str(folder.path / "down")) <= 107
    finally:
        folder.remove()
        folder.remove()
    monkeypatch.setattr("engine.ipc.private_folder._FALLBACKS", ())
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigError, match="Set TMPDIR to a shorter one"):
        PrivateFolder(for_sockets=True)


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(base / "missing"))
    with pytest.raises(ConfigError, match="Set TMPDIR to one that can be written"):
        PrivateFolder()
