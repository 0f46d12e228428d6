"""How many threads this process may use, and how they wait. This module alone decides.

The number of a host's CPUs says little: a container with ``--cpus=2`` sees all 64 of its host, and
64 threads then share the time of two. What counts is the CPU affinity (``taskset``, a cpuset) and
the quota of the control group (Docker's ``--cpus``, Kubernetes' limits, Studio).
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# GNU's OpenMP, which torch uses on Linux, obeys the second; others obey the first.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
# A file's text where there is no quota, in version 2 and in version 1 of control groups.
_UNLIMITED = ("max", "-1")
# The number of threads that leave_busy_cpus has set: the number that it found.
_lowered: dict[int, int] = {}
# Columns of the times of a CPU in /proc/stat: idle, and waiting for a disk.
_IDLE = slice(3, 5)


def usable_cpus(root: Path = ROOT) -> int:
    """The number of CPUs whose time this process may use, at least 1.

    A fraction of a CPU is rounded up, as Java and joblib do: with a quota of 1.5, one thread would
    leave a third of the time unused.

    Args:
        root: Where ``proc`` and ``sys`` lie.

    Returns:
        The CPUs of the affinity, or fewer where a quota of this process's control group, or of a
        group above it, allows less.
    """
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([len(_affinity()), *quotas]))


def threads(root: Path = ROOT) -> int:
    """The number of threads for computation: OMP_NUM_THREADS where it is set; otherwise one per
    physical core, as torch and ONNX Runtime choose, within :func:`usable_cpus`.

    Args:
        root: Where ``proc`` and ``sys`` lie.

    Returns:
        A number, at least 1.
    """
    return _explicit() or min(_cores(root), usable_cpus(root))


def threads_each(processes: int, root: Path = ROOT) -> int:
    """The number of threads for each of several processes that compute at the same time. Together
    they have no more threads than cores, unless there are more processes than cores.

    Args:
        processes: How many there are.
        root: Where ``proc`` and ``sys`` lie.

    Returns:
        A number, at least 1. OMP_NUM_THREADS is the most that it can be.
    """
    cores = min(_cores(root), usable_cpus(root))
    return min(threads(root), max(1, cores // processes))


def apply(root: Path = ROOT) -> None:
    """Make torch and OpenMP keep to :func:`threads`, and let idle threads sleep.

    OpenMP reads its environment variables when ``import torch`` loads it, so ``import lggseg``
    calls this, and comes first. Where torch came first, only its number of threads can still be
    lowered. Variables that the user has set stay as they are.

    Where other processes kept at least one of two cores busy, torch's inference with two threads
    handled 19 slices per second with OpenMP's default of 300,000 spins before a waiting thread
    sleeps, 57 with 10,000 spins, 71 with 1,000 and 72 with none (``benchmarks/contention.py``).
    Some spins remain because without any a training step on idle cores took 125 ms instead of 116.

    Args:
        root: Where ``proc`` and ``sys`` lie.
    """
    if not set(WAITING) & set(os.environ):
        os.environ.update(WAITING)
    # OpenMP and torch see the affinity, but no quota.
    count = threads(root)
    if count < _cores(root):
        os.environ.setdefault("OMP_NUM_THREADS", str(count))
    torch = sys.modules.get("torch")
    if torch and torch.get_num_threads() > count:
        torch.set_num_threads(count)


def leave_busy_cpus(seconds: float = 0.2, root: Path = ROOT) -> int:
    """Lower torch's number of threads to the CPUs that no other process keeps busy now. A CPU must
    be busy in two looks, so that a short burst of another process lowers nothing.

    The threads of a training wait for each other after every operation. A thread whose CPU is taken
    by another process is some milliseconds late each time: where other processes kept at least one
    of two cores busy, a training handled 62 slices per second with one thread, 11 with two, and 9
    with two and OpenMP's default (``benchmarks/contention.py``).

    Call it before a training starts, not within: sums in another order differ in the last bits. It
    never raises the number above what it found the first time. An OMP_NUM_THREADS holds, also the
    one that :func:`apply` sets for a quota.

    Args:
        seconds: How long each look takes. This process should do nothing else.
        root: Where ``proc`` and ``sys`` lie.

    Returns:
        The number of threads that torch has now.
    """
    limit = _limit(root)
    count = limit
    if count > 1 and not _explicit():
        idle = idle_cpus(seconds, root)
        if round(idle) < limit:
            idle = max(idle, idle_cpus(2 * seconds, root))
        count = max(1, min(limit, round(idle)))
    return go_on_with(count, root)


def go_on_with(count: int, root: Path = ROOT) -> int:
    """Set torch's number of threads to that of the training that goes on, for the same last bits.

    Args:
        count: The number that the training began with.
        root: Where ``proc`` and ``sys`` lie.

    Returns:
        The number of threads that torch has now: fewer where this process may not use as many.
    """
    import torch

    limit = _limit(root)
    count = min(count, limit)
    _lowered.pop(torch.get_num_threads(), None)
    if count < limit:
        _lowered[count] = limit
    torch.set_num_threads(count)
    return count


def _limit(root: Path) -> int:
    """The most threads that a training may have: what torch had before any was lowered."""
    import torch

    found = torch.get_num_threads()
    return min(_lowered.get(found, found), threads(root))


def idle_cpus(seconds: float = 0.2, root: Path = ROOT) -> float:
    """How many of the CPUs of the affinity are idle on average, while this process sleeps.

    Args:
        seconds: How long to look.
        root: Where ``proc`` lies.

    Returns:
        A number from 0 to the number of CPUs; all of them where the system does not tell.
    """
    before = _times(root)
    time.sleep(seconds)
    after = _times(root)
    idle = 0.0
    for cpu in _affinity():
        pairs = zip(before.get(cpu, []), after.get(cpu, []), strict=True)
        spent = [new - old for old, new in pairs]
        idle += sum(spent[_IDLE]) / sum(spent) if any(spent) else 1.0
    return idle


def _times(root: Path) -> dict[int, list[int]]:
    """The time that each CPU has spent so far in each of its states."""
    rows = [line.split() for line in (_read(root / "proc/stat") or "").splitlines()]
    cpus = [row for row in rows if row and row[0][:3] == "cpu" and row[0][3:].isdecimal()]
    return {int(row[0][3:]): list(map(int, row[1:9])) for row in cpus}


def _explicit() -> int | None:
    """What OMP_NUM_THREADS says; of a list, one entry per nested level, the first."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cores(root: Path) -> int:
    """How many physical cores the CPUs of the affinity belong to; a core may be two CPUs."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({_read(root / topology.format(cpu)) or str(cpu) for cpu in _affinity()})


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in CPUs, of this process's control groups and of all groups above them."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:  # version 2, alone or beside version 1
            locations = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            locations = ["sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}"]
        else:
            continue
        group = Path(path.lstrip("/"))
        # A container may see its own group as the root: then the inner folders do not exist.
        for location in locations:
            for cgroup in (group, *group.parents):
                yield from _quota(root / location / cgroup)


def _quota(group: Path) -> Iterator[float]:
    """The quota of one control group, where it has one."""
    version_2 = (_read(group / "cpu.max") or "").split()
    version_1 = [_read(group / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    for values in (version_2, version_1):
        if len(values) == 2 and values[0] not in _UNLIMITED and all(map(str.isdecimal, values)):
            time, period = map(int, values)
            if period:
                yield time / period


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
