"""Damaged, missing and refused checkpoint files; reading by runs of rows."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.backends.loading import safetensors_file
from engine.backends.loading.safetensors_file import TensorReader, find_tensors
from engine.checkpoint import safetensors_header
from engine.errors import ModelLoadError

TENSORS = {
    "matrix": torch.arange(35, dtype=torch.float32).view(7, 5),
    "narrow": torch.arange(12).to(torch.bfloat16).view(3, 4),
    "vector": torch.arange(9, dtype=torch.float16),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def read_all(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    with TensorReader() as reader:
        for name, info in find_tensors(path.parent).items():
            runs = [run.clone() for _, run in reader.rows(info)]
            found[name] = torch.cat(runs).view(info.shape) if runs else torch.empty(info.shape, dtype=info.dtype)
    return found


@pytest.mark.parametrize("buffer_bytes", [8 << 20, 48, 1])
def test_reads_what_the_library_writes(file: Path, monkeypatch, buffer_bytes: int) -> None:
    monkeypatch.setattr(safetensors_file, "BUFFER_BYTES", buffer_bytes)
    found = read_all(file)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def test_reads_only_the_rows_asked_for(file: Path, monkeypatch) -> None:
    asked: list[int] = []
    preadv = safetensors_file.os.preadv
    monkeypatch.setattr(
        safetensors_file.os, "preadv", lambda fd, views, at: asked.append(len(views[0])) or preadv(fd, views, at)
    )
    with TensorReader() as reader:
        runs = [(first, run.clone()) for first, run in reader.rows(find_tensors(file.parent)["matrix"], 2, 4)]
    assert len(runs) == 1
    assert runs[0][0] == 2
    assert torch.equal(runs[0][1], TENSORS["matrix"][2:4])
    assert asked == [2 * 5 * 4]


def test_a_file_that_shrinks_while_it_is_read(file: Path) -> None:
    info = max(find_tensors(file.parent).values(), key=lambda info: info.offset + info.num_bytes)
    with file.open("r+b") as stream:
        stream.truncate(info.offset + 1)
    with TensorReader() as reader, pytest.raises(ModelLoadError, match=r"model\.safetensors .* ended at byte [\d,]+"):
        list(reader.rows(info))


def header_file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def test_damaged_files_are_named_with_their_sizes(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    size = len(whole)
    cases = {
        b"": r"0 bytes, but a safetensors file has at least 8",
        whole[:5]: "5 bytes",
        whole[: size - 3]: rf"truncated: expected {size:,} bytes, found {size - 3:,}",
        whole + b"!": rf"longer than its header says: expected {size:,} bytes, found {size + 1:,}",
        (10**12).to_bytes(8, "little") + whole[8:]: rf"header should have 1,000,000,000,000 bytes.* has {size:,}",
        whole[:8] + b"\xff" * (size - 8): "header is not valid",
        b"<!DOCTYPE html><html>not found</html>": "not a safetensors file",
    }
    for content, message in cases.items():
        file.write_bytes(content)
        with pytest.raises(ModelLoadError, match=message) as caught:
            find_tensors(tmp_path)
        assert str(file) in str(caught.value)


def test_lfs_pointer(file: Path, tmp_path: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 1191586416\n")
    with pytest.raises(ModelLoadError, match=r"git-LFS pointer to a file of 1,191,586,416 bytes.*git lfs pull"):
        find_tensors(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}, "unknown dtype 'F31'"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "needs 8 bytes, the header gives 4"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}, "not a count"),
        ({"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}, "not a count"),
        ({"dtype": "F32", "shape": [1]}, "header is not valid"),
        ("text", "header is not valid"),
    ],
)
def test_impossible_headers(tmp_path: Path, entry: object, message: str) -> None:
    header_file(tmp_path / "model.safetensors", {"w": entry}, b"\0" * 4)
    with pytest.raises(ModelLoadError, match=message):
        find_tensors(tmp_path)


@pytest.mark.parametrize("header", [[], 5, None, "x", {"__metadata__": {}, "w": None}])
def test_headers_that_are_no_table(tmp_path: Path, header: object) -> None:
    header_file(tmp_path / "model.safetensors", header)
    with pytest.raises(ModelLoadError, match="header is not valid"):
        find_tensors(tmp_path)


def test_random_bytes_never_do_anything_else(tmp_path: Path, file: Path) -> None:
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            content[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
        file.write_bytes(content[: int(rng.integers(0, len(content) + 1))])
        with suppress(ModelLoadError):  # anything else fails the test
            read_all(file)


def write_shards(folder: Path) -> Path:
    save_file({"a": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(3)}, folder / "model-00002-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert {name: info.file.name[:11] for name, info in find_tensors(tmp_path).items()} == {
        "a": "model-00001",
        "b": "model-00002",
    }


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"shard model-00002-of-00002\.safetensors is missing"):
        find_tensors(tmp_path)


def test_index_that_lies(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    names = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelLoadError, match=r"tensor 'c' is in no shard.*model-00002"):
        find_tensors(tmp_path)
    for broken in ("{", '{"weight_map": 3}', "[]", "{}", '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": 1}}'):
        index.write_text(broken)
        with pytest.raises(ModelLoadError, match=r"index"):
            find_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ModelLoadError, match="not a plain file name"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_formats_that_run_code_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelLoadError, match=rf"weights as {name}.*only safetensors.*engine convert"):
        find_tensors(tmp_path)


def test_other_names(tmp_path: Path, file: Path) -> None:
    file.rename(tmp_path / "weights.safetensors")
    assert "matrix" in find_tensors(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelLoadError, match="2 safetensors files"):
        find_tensors(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"neither model\.safetensors"):
        find_tensors(tmp_path)


def test_each_dtype_of_the_headers_can_be_loaded() -> None:
    assert {name: dtype.itemsize for name, dtype in safetensors_file.DTYPES.items()} == safetensors_header.ITEM_BYTES
