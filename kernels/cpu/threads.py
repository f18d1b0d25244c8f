"""How many threads a process may use, and how many are worth using."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def allowed_cpus() -> set[int]:
    """The logical processors that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cgroup_cpus(limit_file: Path = _CGROUP_LIMIT) -> int | None:
    """Whole processors of a container's quota; None when there is no quota."""
    try:
        quota, period = limit_file.read_text().split()[:2]
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


def physical_cores(cpus: set[int], root: Path = _CPUS) -> int:
    """Cores behind ``cpus``: two hardware threads of one core share its arithmetic units."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add((root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def default_num_threads() -> int:
    cores = physical_cores(allowed_cpus())
    return min(cores, cgroup_cpus() or cores)


def check_num_threads(num_threads: int) -> int:
    """``num_threads``, or a ValueError that says what is possible."""
    cpus = len(allowed_cpus())
    if num_threads < 1:
        raise ValueError(f"cpu_threads is {num_threads}; at least one thread is needed")
    if num_threads > cpus:
        raise ValueError(
            f"cpu_threads is {num_threads}, but this process may run on {cpus} processors only; "
            f"more threads than processors make every step slower. Use {default_num_threads()}."
        )
    return num_threads
