"""Result files are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.entrypoints.files.writing import check_writable, written_whole
from engine.errors import ConfigError


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with written_whole(path) as file:
        file.write("é\n")
        assert os.listdir(tmp_path) == ["result.part"]
    assert path.read_bytes() == "é\n".encode()
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_block_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result"
    path.write_text("before")

    def half() -> None:
        with written_whole(path) as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["result"]


def test_a_place_that_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"), written_whole(tmp_path / "a" / "b"):
        pass
    with pytest.raises(ConfigError, match="there is no folder"):
        check_writable(tmp_path / "a" / "b")
    with pytest.raises(ConfigError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_that_leads_nowhere_stays(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="leads nowhere"):
        check_writable(tmp_path / "link", overwrite=True)


@pytest.mark.parametrize("length", [252, 300, 10_000])
def test_a_name_that_is_too_long_beside_its_part(tmp_path: Path, length: int) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        check_writable(tmp_path / ("x" * length))


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """/dev/full refuses what is written when the file is closed."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "result.part").symlink_to("/dev/full")
    with (
        pytest.raises(ConfigError, match="result cannot be written: No space left"),
        written_whole(tmp_path / "result") as file,
    ):
        file.write("x")
    assert not os.listdir(tmp_path)
