"""What the machine has: each check says ok, or what is missing and the command that fixes it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from treadle.base.errors import TreadleError
from treadle.base.log import Report, silent
from treadle.loop.project import SPEC_FILE


@dataclass(frozen=True)
class Check:
    """One thing looked at. `absent` is fine until something asks for it; `missing` is not."""

    name: str
    state: Literal["ok", "absent", "warning", "missing"]
    found: str
    fix: str | None = None


def examine(folder: Path) -> list[Check]:
    """All checks for the project in (or above) `folder`; changes nothing."""
    checks: list[Callable[[Path], Check]] = [
        _python,
        _git,
        _disk,
        _file_system,
        _mlflow,
        _docker,
        _cluster,
        _project,
    ]
    return [check(folder) for check in checks]


def examine_environment(
    environment: str, *, probes: bool = True, report: Report = silent
) -> list[Check]:
    """What the cluster of an environment has and lacks; with `probes`, small pods that are deleted
    again find out what nothing else tells."""
    from treadle.loop.preflight import examine as look
    from treadle.loop.project import open_project

    project = open_project(create=False, report=report)
    found = look(project, project.environment(environment), probes=probes)
    return [Check(one.name, one.state, one.found, one.fix) for one in found]


def _python(_: Path) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"{version} at {sys.executable}")


def _git(folder: Path) -> Check:
    found = shutil.which("git")
    if found is None:
        return Check(
            "git",
            "absent",
            "not installed: runs are recorded without a commit",
            "apt-get install git, or brew install git",
        )
    inside = _run([found, "-C", str(folder), "rev-parse", "--short", "HEAD"])
    if inside is None:
        return Check(
            "git",
            "absent",
            "this folder is in no repository with a commit",
            "git init && git add . && git commit",
        )
    return Check("git", "ok", f"at {inside}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free"
    if free < 1e9:
        return Check("disk", "missing", text, "free some space, or `treadle gc`")
    return Check("disk", "ok", text)


def _file_system(folder: Path) -> Check:
    from treadle.clients.state import network_file_system

    kind = network_file_system(folder)
    if kind:
        return Check(
            "file system",
            "missing",
            f"{folder} is on {kind}: SQLite locks are not safe",
            "set TREADLE_STATE to a folder on a local disk",
        )
    return Check("file system", "ok", "local")


def _mlflow(_: Path) -> Check:
    if importlib.util.find_spec("mlflow") is None:
        return Check(
            "MLflow",
            "absent",
            "not installed: runs wait in the outbox",
            "pip install 'treadle[mlflow]'",
        )
    from importlib.metadata import version

    where = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite in .treadle/"
    return Check("MLflow", "ok", f"{version('mlflow')}, tracking to {where}")


def _docker(_: Path) -> Check:
    found = shutil.which("docker")
    if found is None:
        return Check(
            "docker",
            "absent",
            "not installed (only images need it)",
            "https://docs.docker.com/engine/install",
        )
    version = _run([found, "version", "--format", "{{.Server.Version}}"])
    if version is None:
        return Check(
            "docker",
            "absent",
            "the client is here, no engine answers",
            "start Docker, or set DOCKER_HOST",
        )
    return Check("docker", "ok", f"engine {version}")


def _cluster(_: Path) -> Check:
    found = shutil.which("kubectl")
    if found is None:
        return Check(
            "cluster",
            "absent",
            "no kubectl (only Kubernetes needs it)",
            "https://kubernetes.io/docs/tasks/tools",
        )
    context = _run([found, "config", "current-context"])
    if context is None:
        return Check(
            "cluster",
            "absent",
            "kubectl has no current context",
            "minikube start, or kubectl config use-context NAME",
        )
    return Check("cluster", "ok", f"context {context}")


def _project(folder: Path) -> Check:
    if not any((parent / SPEC_FILE).is_file() for parent in (folder, *folder.parents)):
        return Check("project", "absent", f"no {SPEC_FILE} here", "treadle init")
    from treadle.loop.project import open_project

    try:
        project = open_project(folder, create=False)
        project.journal.verify()
    except TreadleError as error:
        return Check("project", "missing", error.message.splitlines()[0], error.hint)
    return Check("project", "ok", f"{project.spec.project} in {project.folder}")


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
