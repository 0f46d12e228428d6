"""The number of threads by what the process may use, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lggseg.utils import threads
from lggseg.utils.threads import threads_each, usable_cpus

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "lgg-unet"
OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity"
)


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight CPUs and no settings of the user."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    """A made-up ``/`` with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def version_2(group: str, quotas: dict[str, str]) -> dict[str, str]:
    """The files of version 2: this process's group, and the ``cpu.max`` of some groups."""
    files = {f"sys/fs/cgroup/{name}/cpu.max": text for name, text in quotas.items()}
    return {"proc/self/cgroup": f"0::{group}", **files}


def version_1(group: str, quotas: dict[str, str], controllers: str = "cpu") -> dict[str, str]:
    """The same of version 1, with a period of 0.1 s."""
    files = {"proc/self/cgroup": f"9:memory:/else\n3:{controllers}:{group}\n0::/"}
    for name, text in quotas.items():
        folder = f"sys/fs/cgroup/{controllers}/{name}"
        files |= {f"{folder}/cpu.cfs_quota_us": text, f"{folder}/cpu.cfs_period_us": "100000"}
    return files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        (version_2("/", {".": "max 100000"}), 8),
        (version_2("/", {".": "200000 100000"}), 2),
        (version_2("/", {".": "50000 100000"}), 1),
        (version_2("/", {".": "150000 100000"}), 2),
        (version_2("/", {".": "6400000 100000"}), 8),
        (version_2("/pod/job", {"pod/job": "max 100000", "pod": "300000 100000"}), 3),
        (version_2("/pod/job", {"pod/job": "200000 100000", "pod": "300000 100000"}), 2),
        (version_2("/docker/0123", {".": "400000 100000"}), 4),  # a container's own root
        (version_2("/", {"unified": "100000 50000"}), 2),
        (version_2("/", {".": "100000 0"}), 8),
        (version_2("/", {".": "no number"}), 8),
        (version_1("/", {".": "-1"}), 8),
        (version_1("/", {".": "250000"}), 3),
        (version_1("/pod/job", {"pod/job": "-1", "pod": "100000"}), 1),
        (version_1("/docker/0123", {".": "200000"}), 2),
        (version_1("/", {".": "200000"}, "cpu,cpuacct"), 2),
        (version_1("/", {".": "200000"}, "cpuset"), 8),  # not the controller of CPU time
    ],
)
def test_quota_of_the_control_group(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert usable_cpus(write(tmp_path, files)) == expected


def test_one_thread_per_core_within_the_quota(tmp_path: Path) -> None:
    siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {siblings.format(cpu): f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    assert threads.threads(tmp_path) == 8
    assert threads.threads(write(tmp_path, cores)) == 4
    assert usable_cpus(tmp_path) == 8
    write(tmp_path, version_2("/", {".": "300000 100000"}))
    assert threads.threads(tmp_path) == 3


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), ("64", 64), ("5,2", 5), ("0", 2), ("", 2), ("all", 2)]
)
def test_the_users_number_of_threads_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int
) -> None:
    write(tmp_path, version_2("/", {".": "200000 100000"}))
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.threads(tmp_path) == expected


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [threads_each(count, tmp_path) for count in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_each(count, tmp_path) for count in (1, 2, 3, 20)] == [3, 3, 2, 1]
    write(tmp_path, version_2("/", {".": "400000 100000"}))
    assert threads_each(2, tmp_path) == 2


def test_idle_cpus_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CPU 0 idles for 80 of 100 ticks (disk included), CPU 1 not at all, the rest is not told."""
    stat, head = "proc/stat", "cpu 1 2 3 4 5 6 7 8 0 0\n"
    write(tmp_path, {stat: f"{head}cpu0 10 0 0 50 5 0 0 0 0 0\ncpu1 10 0 0 50 5 0 0 0 0 0\nintr 5"})
    later = f"{head}cpu0 20 0 5 120 15 0 5 0 0 0\ncpu1 90 10 0 50 5 0 0 10 0 0\nintr 9"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: write(tmp_path, {stat: later}))
    assert threads.idle_cpus(root=tmp_path) == pytest.approx(0.8 + 0 + 1)


def torch_has(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let torch believe that it has so many threads."""
    numbers = [count]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(threads, "_lowered", {})


@pytest.mark.parametrize(("idle", "expected"), [(8.0, 8), (6.6, 7), (0.9, 1), (0.0, 1)])
def test_a_training_leaves_busy_cpus_to_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, idle: float, expected: int
) -> None:
    torch_has(monkeypatch, 8)
    for cpus, count in ((idle, expected), (8.0, 8), (idle, expected)):
        monkeypatch.setattr(threads, "idle_cpus", lambda *_, cpus=cpus: cpus)
        assert threads.leave_busy_cpus(root=tmp_path) == count == torch.get_num_threads()


def test_what_the_user_or_a_search_has_set_is_not_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch_has(monkeypatch, 3)
    monkeypatch.setattr(threads, "idle_cpus", lambda *_: 8.0)
    assert threads.leave_busy_cpus(root=tmp_path) == 3
    monkeypatch.setattr(threads, "idle_cpus", lambda *_: 1.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.leave_busy_cpus(root=tmp_path) == 3


def test_a_short_burst_of_another_process_lowers_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch_has(monkeypatch, 8)
    looks = iter([2.0, 8.0])
    monkeypatch.setattr(threads, "idle_cpus", lambda *_: next(looks))
    assert threads.leave_busy_cpus(root=tmp_path) == 8


def test_a_training_that_goes_on_has_the_threads_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch_has(monkeypatch, 8)
    assert [threads.go_on_with(count, tmp_path) for count in (3, 16, 5)] == [3, 8, 5]
    monkeypatch.setattr(threads, "idle_cpus", lambda *_: 8.0)
    assert threads.leave_busy_cpus(root=tmp_path) == 8, "the next training is not held back"


def run(code: str, cpus: set[int], **variables: str) -> list[str]:
    """What a process prints that may use these CPUs and has no variables but the given."""
    env = {name: value for name, value in os.environ.items() if name not in OURS} | variables
    code = f"import os; os.sched_setaffinity(0, {cpus}); {code}"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=env, check=True, capture_output=True, text=True
    ).stdout.split()


@needs_affinity
@pytest.mark.parametrize("order", ["import lggseg, torch", "import torch, lggseg"])
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["1", "passive", "1000"]),
        ({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "active"}, ["1", "active", "None"]),
    ],
)
def test_torch_keeps_to_the_affinity_and_to_the_users_settings(
    order: str, variables: dict[str, str], expected: list[str]
) -> None:
    waiting = "*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'))"
    code = f"{order}; print(torch.get_num_threads(), {waiting})"
    assert run(code, {0}, **variables) == expected


@needs_affinity
@pytest.mark.parametrize(
    "order", ["apply(Path({!r})); import torch", "import torch; apply(Path({!r}))"]
)
def test_torch_keeps_to_a_quota(tmp_path: Path, order: str) -> None:
    """Whichever of torch and lggseg comes first."""
    root = write(tmp_path, version_2("/", {".": "50000 100000"}))
    code = "from pathlib import Path; from lggseg.utils.threads import apply; "
    code += order.format(str(root))
    code += "; print(torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS', '1'))"
    assert run(code, set(range(os.cpu_count() or 1))) == ["1", "1"]


@needs_affinity
@pytest.mark.parametrize(("variables", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_the_onnx_session_has_that_many_threads_which_do_not_spin(
    variables: dict[str, str], expected: str
) -> None:
    code = (
        "import onnxruntime; opened = []; plain = onnxruntime.InferenceSession;"
        "keep = lambda *a, **k: opened.append(plain(*a, **k)) or opened[-1];"
        "onnxruntime.InferenceSession = keep;"
        f"from lggseg.inference.segmenter import Segmenter; Segmenter.load({str(MODEL)!r});"
        "options = opened[0].get_session_options();"
        "print(options.intra_op_num_threads,"
        "options.get_session_config_entry('session.intra_op.allow_spinning'))"
    )
    assert run(code, {0}, **variables) == [expected, "0"]


def test_it_needs_no_torch() -> None:
    code = "import sys, lggseg.utils.threads; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
