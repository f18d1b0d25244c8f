"""Threads, memory and the choice of an instruction set."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from engine.backends.cpu.backend import CpuBackend
from engine.errors import ConfigError
from engine.kernels.cpu import _C, available
from engine.kernels.cpu.ops import ISA_VARIABLE, CpuOps
from engine.kernels.cpu.threads import allowed_cpus, cgroup_cpus, check_num_threads, default_num_threads, physical_cores
from tests.kernels.cpu.helpers import both


def test_the_kernels_are_there() -> None:
    assert available() is None
    assert _C.available_isas()[-1] == "portable"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor has")
def test_the_instruction_sets_of_this_processor_are_found() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    needs = {
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx512_vnni": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
        "avx512_bf16": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"},
        "neon": {"asimd"},
    }
    found = set(_C.available_isas())
    assert {name for name, flags in needs.items() if flags <= words} == found & needs.keys()


def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "portable")
    assert CpuOps(1).isa == "portable"
    monkeypatch.setenv(ISA_VARIABLE, "mmx")
    with pytest.raises(ValueError, match=r"unknown instruction set 'mmx'; this build has: .*portable"):
        CpuOps(1)
    with pytest.raises(ConfigError, match=rf"{ISA_VARIABLE}: unknown instruction set 'mmx'; .*portable"):
        CpuBackend().make_ops(torch.device("cpu"), torch.float32, None)


@pytest.mark.parametrize(
    ("processor", "expected"), [("Nehalem", ["portable"]), ("Haswell", ["avx2", "portable"])], ids=["no AVX2", "AVX2"]
)
def test_an_older_processor_gets_what_it_has(processor: str, expected: list[str]) -> None:
    """Under an emulator: never an instruction that is not there, and a sentence for one that was asked for."""
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("no emulator of other x86-64 processors here (qemu-x86_64-static; Debian: qemu-user-static)")
    program = (
        "from engine.kernels.cpu import _C; print(_C.available_isas()); print(_C.Runtime(1, '', False).isa)\n"
        "try: _C.Runtime(1, 'avx512_vnni', False)\n"
        "except ValueError as error: print(error)"
    )
    command = [emulator, "-cpu", processor, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    refusal = f"this processor does not support the instruction set 'avx512_vnni'; it has: {', '.join(expected)}"
    assert done.stdout.splitlines() == [str(expected), expected[0], refusal], done.stderr[-500:]


def test_the_description_names_what_was_chosen(isa: str) -> None:
    ops = CpuOps(1, "int8", isa=isa)
    assert isa in ops.description
    assert "int8" in ops.description


def test_unknown_quantization_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp8' is not known on the CPU; use int16, int8 or int4"):
        CpuOps(1, "fp8")


def test_thread_counts_are_checked() -> None:
    assert 1 <= default_num_threads() <= len(allowed_cpus())
    assert check_num_threads(1) == 1
    with pytest.raises(ValueError, match=r"may run on .* processors only"):
        CpuOps(len(allowed_cpus()) + 1)
    with pytest.raises(ValueError, match="at least one"):
        check_num_threads(0)


def test_facts_about_the_machine_are_read_from_its_files(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    for text, expected in (("max 100000", None), ("150000 100000", 1), ("400000 100000", 4), ("50000 100000", 1)):
        limit.write_text(text)
        assert cgroup_cpus(limit) == expected
    assert cgroup_cpus(tmp_path / "absent") is None
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 7}, tmp_path) == 2


def test_torch_is_left_with_one_thread() -> None:
    torch.set_num_threads(2)
    CpuOps(1)
    assert torch.get_num_threads() == 1


def test_results_in_use_are_never_recycled() -> None:
    ops = CpuOps(1)
    weight, _ = both(ops, torch.randn(300, 200))
    x = torch.randn(16, 200)
    kept = [ops.linear(x * i, weight) for i in range(20)]
    views = [ops.linear(x * i, weight)[3:5, ::7] for i in range(20)]
    for i in range(20):
        assert torch.equal(kept[i], ops.linear(x * i, weight))
        assert torch.equal(views[i], kept[i][3:5, ::7])


def test_buffers_are_reused_and_bounded() -> None:
    ops = CpuOps(1)
    weight, _ = both(ops, torch.randn(512, 64))
    x = torch.randn(512, 64)
    addresses = {ops.linear(x, weight).data_ptr() for _ in range(10)}
    assert len(addresses) <= 2
    for rows in range(1, 512, 7):
        ops.linear(x[:rows], weight)
    assert ops.runtime.cached_bytes <= 3 * 512 * 512 * 4
    ops.runtime.trim()
    assert ops.runtime.cached_bytes == 0


def test_python_threads_may_share_the_ops() -> None:
    ops = CpuOps(2)
    weight, _ = both(ops, torch.randn(600, 300))
    inputs = [torch.randn(rows, 300) for rows in (1, 40, 90, 200)]
    expected = [ops.linear(x, weight) for x in inputs]
    failures = []

    def work(index: int) -> None:
        failures.extend(i for i in range(60) if not torch.equal(ops.linear(inputs[index], weight), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_pinned_threads_do_the_same_work() -> None:
    count = len(allowed_cpus())
    pinned, free = CpuOps(count, pin=True), CpuOps(count)
    rows, x = torch.randn(100, 80), torch.randn(33, 80)
    assert torch.equal(pinned.linear(x, both(pinned, rows)[0]), free.linear(x, both(free, rows)[0]))
    assert len(allowed_cpus()) == count


def test_many_pools_come_and_go() -> None:
    x, rows = torch.randn(3, 40), torch.randn(20, 40)
    for _ in range(30):
        ops = CpuOps(2)
        assert ops.linear(x, both(ops, rows)[0]).isfinite().all()


@pytest.mark.parametrize("kind", [_C.Kind.F32, _C.Kind.I16, _C.Kind.I8, _C.Kind.BF16], ids=lambda k: k.name)
def test_the_ceiling_is_a_rate(isa: str, kind: _C.Kind) -> None:
    assert _C.Runtime(1, isa, False).ceiling(kind, 20000) > 1e8
