"""Without an NPU the backend costs nothing, and says exactly which of the four things is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.backends.npu.environment import SET_ENV_PLACES, VISIBLE_DEVICES
from engine.extras import pip_install

FAKE = Path(__file__).parent / "fake"


def ask(code: str, *, fake: bool, **environment: str) -> str:
    """Prints of ``code`` in a new process, with torch_npu simulated or not there."""
    inherited = {name: value for name, value in os.environ.items() if name not in (VISIBLE_DEVICES, "PYTHONPATH")}
    paths = {"PYTHONPATH": str(FAKE)} if fake else {}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **paths, "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


REASON = "from engine.backends.npu.environment import why_unavailable; print(why_unavailable())"


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed here")
def test_package_missing() -> None:
    reason = ask(REASON, fake=False)
    assert "torch_npu is not installed" in reason
    assert pip_install("npu") in reason


def test_cann_missing() -> None:
    reason = ask(REASON, fake=True, NPU_SIMULATOR_CANN="missing")
    assert "libhccl.so" in reason
    assert "install the CANN 9.1.0 toolkit" in reason
    assert f"source {SET_ENV_PLACES[0]}" in reason


def test_cann_not_sourced(tmp_path: Path) -> None:
    set_env = tmp_path / "Ascend" / "ascend-toolkit" / "set_env.sh"
    set_env.parent.mkdir(parents=True)
    set_env.touch()
    reason = ask(REASON, fake=True, NPU_SIMULATOR_CANN="missing", HOME=str(tmp_path))
    assert "run `source ~/Ascend/ascend-toolkit/set_env.sh` in this shell first" in reason
    reason = ask(REASON, fake=True, NPU_SIMULATOR_CANN="missing", HOME=str(tmp_path), ASCEND_HOME_PATH="/opt/cann")
    assert "CANN of unknown version is sourced from /opt/cann but does not fit torch_npu" in reason
    assert "Ascend-cann-toolkit_9.1.0_linux-$(uname -m).run --install" in reason


def test_versions_that_do_not_fit_are_named_before_the_import_fails(tmp_path: Path) -> None:
    """torch_npu for another torch fails with a symbol that is missing, which tells nobody anything."""
    information = tmp_path / "torch_npu-2.9.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.9.0\n")
    paths = os.pathsep.join([str(tmp_path), str(FAKE)])
    reason = ask(REASON, fake=False, PYTHONPATH=paths, NPU_SIMULATOR_CANN="missing")
    assert reason.startswith("torch_npu 2.9.0 is too old")
    information.rename(tmp_path / "torch_npu-2.99.0.dist-info")
    (tmp_path / "torch_npu-2.99.0.dist-info" / "METADATA").write_text("Name: torch_npu\nVersion: 2.99.0\n")
    reason = ask(REASON, fake=False, PYTHONPATH=paths, NPU_SIMULATOR_CANN="missing")
    assert "do not fit, they need the same minor version: `pip install 'torch==2.99.*'" in reason


def test_a_cann_that_is_too_old() -> None:
    reason = ask(REASON, fake=True, NPU_SIMULATOR_CANN="8.5.0")
    assert "CANN 8.5.0 is too old" in reason
    assert "9.1.0" in reason


def test_no_device() -> None:
    assert "`npu-smi info` must list one" in ask(REASON, fake=True, NPU_SIMULATOR_DEVICES="0")
    hidden = ask(REASON, fake=True, **{VISIBLE_DEVICES: ""})
    assert f"sees no NPU with {VISIBLE_DEVICES}=''" in hidden


def test_a_device_that_is_there() -> None:
    assert ask(REASON, fake=True) == "None"


def test_auto_takes_the_npu_and_explains_itself_without_one() -> None:
    code = (
        "from engine.backends.registry import choose_backend; b, why = choose_backend('auto'); print(b.name, '|', why)"
    )
    assert ask(code, fake=True) == "npu | device npu, chosen automatically"
    assert "not npu: torch_npu is installed but cannot be loaded" in ask(code, fake=True, NPU_SIMULATOR_CANN="missing")


def test_the_settings_that_torch_npu_reads_are_made_unless_they_are() -> None:
    code = f"import os; {REASON}; print(os.environ['TASK_QUEUE_ENABLE'], os.environ['PYTORCH_NPU_ALLOC_CONF'])"
    assert ask(code, fake=True).splitlines()[-1] == "1 expandable_segments:True"
    assert ask(code, fake=True, TASK_QUEUE_ENABLE="2").splitlines()[-1] == "2 expandable_segments:True"


def test_asking_for_it_in_vain_is_an_error_for_people() -> None:
    code = (
        "from engine.backends.registry import choose_backend\n"
        "from engine.errors import DeviceError\n"
        "try:\n    choose_backend('npu')\nexcept DeviceError as error:\n    print(error)"
    )
    message = ask(code, fake=True, NPU_SIMULATOR_CANN="missing")
    assert message.startswith(
        "device 'npu' was asked for but is not usable: torch_npu is installed but cannot be loaded"
    )


def test_nothing_imports_torch_npu_by_accident() -> None:
    code = (
        "import sys, json, engine, engine.backends.worker, engine.backends.npu.backend\n"
        "from engine.backends.registry import choose_backend\n"
        "choose_backend('cpu')\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] == 'torch_npu']))"
    )
    assert json.loads(ask(code, fake=True)) == []


def test_autoloading_is_off_so_that_importing_torch_cannot_fail_without_cann() -> None:
    code = "import os, engine; print(os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'])"
    inherited = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    finished = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True, timeout=60)
    assert finished.stdout.strip() == "0"
    kept = ask(code, fake=False, TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    assert kept == "1"
