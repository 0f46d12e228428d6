"""``make run PROFILE=smoke`` on a small machine: half a core, one core, 4 GiB, full disks.

    python benchmarks/small_machine.py [half_core | one_core | four_gib | full_runs | …]

Needs root and Linux: a control group limits CPU and memory, a file system in memory is the full
disk. Runs, cache and simulated cohort are new each time. Prints, per case, a line of JSON: exit
status, seconds, the most memory in use, the last line, and whether there was a traceback. A case is
in order when it ends with status 0, or with a sentence and without a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GROUPS = Path("/sys/fs/cgroup")
GIB = 2**30
# What the control group of a case is told: the controller, its file in version 1 and in version 2
# of control groups, and the value for each.
Limit = tuple[str, str, str, str, str]
HALF_CORE: Limit = ("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000")
FOUR_GIB: Limit = ("memory", "memory.limit_in_bytes", "memory.max", str(4 * GIB), str(4 * GIB))
LIMITS = {"half_core": HALF_CORE, "four_gib": FOUR_GIB}
# The folder of a case that is a disk of so many MB.
DISKS = {"full_runs": ("runs", 8), "full_cache": ("cache", 8), "full_tmp": ("tmp", 1)}
CASES = [*LIMITS, "one_core", *DISKS]


@contextmanager
def control_group(limit: Limit | None) -> Iterator[Path]:
    """A group with this limit and a count of its memory, of which members are written into
    ``cgroup.procs``."""
    controller, old, new, old_value, new_value = limit or ("memory", "", "", "", "")
    first = (GROUPS / controller).is_dir()
    group = (GROUPS / controller if first else GROUPS) / f"lggseg-{os.getpid()}"
    group.mkdir()
    try:
        if limit:
            (group / (old if first else new)).write_text(old_value if first else new_value)
        yield group
    finally:
        group.rmdir()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """``folder`` as a file system of its own in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run(folder: Path, case: str) -> dict[str, Any]:
    """Execute all notebooks in ``folder`` as ``make run PROFILE=smoke`` does; returns what came of
    it."""
    places = {"LGGSEG_RUNS": "runs", "LGGSEG_CACHE": "cache", "TMPDIR": "tmp"}
    (folder / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {name: str(folder / place) for name, place in places.items()}
    command = [sys.executable, "-m", "lggseg.cli", "notebooks"]
    command += ["--profile", "smoke", "--out", str(folder / "out")]
    with control_group(LIMITS.get(case)) as group:

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            if case == "one_core":
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

        start = time.perf_counter()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, preexec_fn=enter
        )
        seconds = time.perf_counter() - start
        peak = [group / "memory.max_usage_in_bytes", group / "memory.peak"]
        peaks = [int(file.read_text()) / GIB for file in peak if file.exists()]
    said = (done.stdout + done.stderr).replace("\r", "\n").strip().splitlines()
    return {
        "case": case,
        "status": done.returncode,
        "seconds": round(seconds),
        "gib": round(peaks[0], 2) if peaks else None,
        "traceback": "Traceback (most recent call last)" in done.stdout + done.stderr,
        "last_lines": said[-3:],
    }


def main() -> None:
    """Try the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}")
    for case in parser.parse_args().cases or CASES:
        with tempfile.TemporaryDirectory() as name:
            if case in DISKS:
                place, megabytes = DISKS[case]
                with small_disk(Path(name) / place, megabytes):
                    result = run(Path(name), case)
            else:
                result = run(Path(name), case)
        print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
