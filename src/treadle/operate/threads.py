"""How many threads a prediction may use: the CPUs that this container really has, by the workers.

A numerical library starts as many threads as the machine has cores. In a container with a quota of
one CPU on a machine of 64, they share that CPU and spend it on waiting for one another (dmlc/xgboost
#7653: 28 s instead of 0.3 s). Read from the control groups, version 2 or 1; nothing is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
             "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")  # fmt: skip


def cpus(root: Path = Path("/")) -> float:
    """CPUs that this process may use: its affinity, or the smallest quota above it, if less."""
    if hasattr(os, "sched_getaffinity"):
        here = float(len(os.sched_getaffinity(0)))
    else:
        here = float(os.cpu_count() or 1)
    return min([here, *_quotas(root)])


def share(cpus_here: float, workers: int) -> int:
    """Threads of each worker, 1 or more. Half a CPU is no thread: it would be throttled."""
    return max(1, math.floor(cpus_here / workers + 1e-9))


def settle(workers: int, wanted: int | None, environ: MutableMapping[str, str]) -> int:
    """Set the libraries' variables before one of them is loaded; what a person set stays.

    Returns the number for those that read no variable (`chosen`).
    """
    number = wanted if wanted is not None else share(cpus(), workers)
    if wanted is not None:
        environ["OMP_NUM_THREADS"] = str(number)  # the option is nearer than the variable
    for variable in VARIABLES:
        environ.setdefault(variable, str(number))
    chosen_here = chosen(environ)
    environ.setdefault("OMP_THREAD_LIMIT", str(max(chosen_here, number)))
    # Threads that spin while they wait for the next request take the CPU from the one that answers.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return chosen_here


def chosen(environ: MutableMapping[str, str] | None = None) -> int:
    """What `settle` decided, for ONNX Runtime, XGBoost and LightGBM, which are told by argument."""
    text = (os.environ if environ is None else environ).get("OMP_NUM_THREADS", "1")
    try:
        return max(1, int(text.split(",")[0]))  # a list: one number for each level of nesting
    except ValueError:
        return 1


def _quotas(root: Path) -> Iterator[float]:
    """CPUs by the quota of each control group from this process's up to the mount's root."""
    for hierarchy, mounted, path in _groups(root):
        # In a container the path is often that of the host, and the mount already the container's.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            found = _quota(mounted.joinpath(*parts[:depth]), hierarchy)
            if found is not None:
                yield found


def _quota(folder: Path, hierarchy: int) -> float | None:
    try:
        if hierarchy == 2:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        found = int(quota) / int(period)  # `max` is no number: no quota
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return found if found > 0 else None


def _groups(root: Path) -> Iterator[tuple[int, Path, str]]:
    """Version, mount point and this process's group, where CPUs are counted."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for mount in mounts:
            left, _, right = mount.partition(" - ")
            fields, kind, options = left.split(), right.split()[0], right.split()[-1].split(",")
            fits = (kind == "cgroup2" and controllers == "") or (
                kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options
            )
            if fits:
                # The part of the hierarchy that is mounted here (proc_pid_mountinfo(5), field 4).
                shown = fields[3].rstrip("/")
                inside = path[len(shown) :] if path.startswith(shown + "/") else path
                yield (
                    2 if kind == "cgroup2" else 1,
                    root / fields[4].lstrip("/"),
                    "" if path == shown else inside,
                )
