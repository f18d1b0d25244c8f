"""A worker that comes back to other files refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import LLM
from engine.backends.worker import Worker
from engine.checkpoint.fingerprint import WHOLE_BYTES, fingerprint, was_modified, written
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ModelLoadError
from tests.support.checkpoints import make_qwen3


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "model", layers=1)
    spec = resolve_model(ModelConfig(model=str(folder)))
    assert resolve_model(ModelConfig(model=str(folder))).fingerprint == spec.fingerprint
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as llm:
        config = llm.config
    make_qwen3(folder, layers=1, seed=1)
    with pytest.raises(ModelLoadError, match="no longer those that were served"):
        Worker(config, spec).load()


def test_what_samples_miss(tmp_path: Path) -> None:
    """A byte between two samples of a large file: the fingerprint is the same, and the file was written again."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2 * WHOLE_BYTES))
    folders = [str(tmp_path)]
    print_before, written_before = fingerprint(folders), written(folders)
    assert not was_modified(written_before, folders)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01")
    assert fingerprint(folders) == print_before
    assert was_modified(written_before, folders)
    assert not was_modified("another machine:0123", folders)


def test_a_change_whose_time_is_set_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2 * WHOLE_BYTES))
    folders, stat = [str(tmp_path)], path.stat()
    print_before, written_before = fingerprint(folders), written(folders)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    assert fingerprint(folders) == print_before
    assert was_modified(written_before, folders)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "1_LogitScore/config.json"])
def test_settings_count_as_weights_do(name: str, tmp_path: Path) -> None:
    """Of the network, of its tokenizer, of a saved module, of an adapter."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"a": 1}')
    folders = [str(tmp_path), str(path.parent)]
    before = fingerprint(folders)
    path.write_text('{"a": 2}')
    assert fingerprint(folders) != before


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = bytearray(3_000_000)
    path.write_bytes(content)
    before = fingerprint([str(tmp_path)])
    content[1_234_567] = 1
    path.write_bytes(content)
    assert fingerprint([str(tmp_path)]) != before


def test_files_written_again_are_refused(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "model", layers=1)
    spec = resolve_model(ModelConfig(model=str(folder)))
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as llm:
        config = llm.config
    copied = tmp_path / "copy"
    copied.write_bytes((folder / "model.safetensors").read_bytes())
    copied.rename(folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match="were written again since they were first read"):
        Worker(config, spec).load()
