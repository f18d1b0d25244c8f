"""Sets of torch, torch_npu and CANN: what is known, what is let through with a line, what is refused, and how it is
mended."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from engine.backends.npu.versions import COMPARED, Versions, installed, numbers, version_in_files
from engine.extras import pip_install
from tests.npu import compare_schemas


@pytest.mark.parametrize(
    ("torch", "torch_npu"),
    [("2.10.0+cpu", "2.10.0.post4"), ("2.12.0", "2.12.0"), ("2.13.0+cpu", "2.13.0")],
)
def test_known_sets(torch: str, torch_npu: str) -> None:
    versions = Versions(torch, torch_npu, "9.1.0")
    assert versions.problem() is None
    assert versions.note() == f"torch {torch}, torch_npu {torch_npu}, CANN 9.1.0: a known set"


def test_the_compared_versions_are_those_with_schemas() -> None:
    assert list(COMPARED) == compare_schemas.versions()


REFUSED = [
    (("2.13.0+cpu", "2.12.0", "9.1.0"), ["torch 2.13.0+cpu and torch_npu 2.12.0 do", "`pip install 'torch==2.12.*'"]),
    (("2.12.0", "2.10.0.post4", ""), ["the same minor version", "'torch==2.10.*'"]),
    (("2.9.0", "2.9.0.post2", "9.0.0"), ["torch_npu 2.9.0.post2 is too old", f"`{pip_install('npu')}`"]),
    (("2.12.0", "2.12.0", "8.5.0"), ["CANN 8.5.0 is too old", "for CANN 9.1.0", "Ascend-cann-toolkit_9.1.0_linux"]),
    (("2.10.0", "2.10.0.post4", "8.3.RC1"), ["CANN 8.3.RC1 is too old", "--install`"]),
]  # fmt: skip


@pytest.mark.parametrize(("versions", "words"), REFUSED)
def test_what_cannot_work_is_refused_with_the_command_that_mends_it(
    versions: tuple[str, str, str], words: list[str]
) -> None:
    problem = Versions(*versions).problem()
    assert problem is not None
    assert all(word in problem for word in words), problem
    assert problem.count("`") >= 2


DOUBTFUL = [
    (("2.14.0", "2.14.0", "9.1.0"), "compared with torch_npu 2.10.0.post4, 2.12.0, 2.13.0, so the self-test decides"),
    (("2.11.0", "2.11.0.post3", "9.1.0"), "the self-test decides"),
    (("2.12.0", "2.12.0", "9.0.0"), "CANN 9.0.0 takes fewer dtypes and heads in its attention than 9.1.0"),
    (("2.12.0", "2.12.0", "9.2.0"), "operators were compared with CANN 9.1.0"),
    (("2.12.0", "2.12.0", ""), "CANN of unknown version"),
]


@pytest.mark.parametrize(("versions", "words"), DOUBTFUL)
def test_what_is_not_known_is_let_through_with_a_line(versions: tuple[str, str, str], words: str) -> None:
    assert Versions(*versions).problem() is None
    assert words in Versions(*versions).note()


def test_numbers() -> None:
    assert [numbers(text) for text in ("9.1.0", "8.3.RC1", "2.10.0.post4", "9.1.T500")] == [
        (9, 1),
        (8, 3),
        (2, 10),
        (9, 1),
    ]
    assert numbers("") is None
    assert numbers("master") is None


@pytest.mark.parametrize("folder", ["", f"{platform.machine()}-linux"])
def test_cann_in_its_files(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert version_in_files() == ""
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert version_in_files() == ""
    file = tmp_path / folder / "ascend_toolkit_install.info"
    file.parent.mkdir(exist_ok=True)
    file.write_text("package_name=Ascend-cann-toolkit\nversion=9.1.0\ninnerversion=V100R001C25SPC001B231\n")
    assert version_in_files() == "9.1.0"


def test_installed() -> None:
    assert installed("torch").startswith("2.")
    assert installed("no-such-package") == ""
