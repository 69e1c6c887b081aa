"""Threads from the control groups' quota: trees as kernels and container runtimes show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.operate import threads

V2 = "30 23 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 25 0:28 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_without_control_groups_it_is_the_affinity(tmp_path: Path) -> None:
    assert threads.cpus(tmp_path) == 8


def test_version_2_in_a_container_of_its_own_namespace(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2.format(shown="/"), {"sys/fs/cgroup/cpu.max": "150000 100000"})
    assert threads.cpus(root) == 1.5


def test_version_2_the_smallest_quota_on_the_way_up_holds(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/kubepods/pod1/container",
        V2.format(shown="/"),
        {
            "sys/fs/cgroup/kubepods/cpu.max": "max 100000",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "200000 100000",
            "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "400000 100000",
        },
    )
    assert threads.cpus(root) == 2


def test_a_path_of_the_host_where_the_mount_is_the_containers_already(tmp_path: Path) -> None:
    for shown in ("/docker/abc", "/"):
        root = tree(
            tmp_path / shown.strip("/").replace("/", "-"),
            "4:cpu,cpuacct:/docker/abc\n0::/",
            V1.format(shown=shown),
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
        )
        assert threads.cpus(root) == 3


def test_no_quota_and_nonsense_are_the_affinity(tmp_path: Path) -> None:
    for number, text in enumerate(["max 100000", "", "1", "0 0", "-1 100000", "a b"]):
        root = tree(
            tmp_path / str(number), "0::/", V2.format(shown="/"), {"sys/fs/cgroup/cpu.max": text}
        )
        assert threads.cpus(root) == 8, text
    root = tree(
        tmp_path / "one",
        "4:cpu:/",
        V1.format(shown="/"),
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert threads.cpus(root) == 8


@given(st.floats(0.01, 512), st.integers(1, 64))
def test_workers_never_have_more_threads_than_cpus_unless_each_has_one(
    here: float, workers: int
) -> None:
    each = threads.share(here, workers)
    assert each >= 1
    assert each == 1 or each * workers <= here + 1e-6


def test_what_a_person_set_stays_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpus", lambda: 6.0)
    environ = {"MKL_NUM_THREADS": "7"}
    assert threads.settle(2, None, environ) == 3
    assert environ["MKL_NUM_THREADS"] == "7"
    assert environ["OMP_NUM_THREADS"] == environ["OPENBLAS_NUM_THREADS"] == "3"
    assert threads.chosen(environ) == 3
    environ = {"OMP_NUM_THREADS": "5,2"}
    assert threads.settle(2, None, environ) == threads.chosen(environ) == 5
    environ = {"OMP_NUM_THREADS": "5"}
    assert threads.settle(2, 4, environ) == threads.chosen(environ) == 4
