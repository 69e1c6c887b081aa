"""Virtual environments for the peers, and wrk and nginx where the system has none.

Everything goes into one folder of the user's; nothing needs root: Debian's packages are downloaded
by apt-get and unpacked there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .measure import HERE, Failed

VENVS = ("fastapi", "mlflow", "litserve", "bentoml", "kserve", "mlserver")
DEBIAN = ("wrk", "nginx", "libluajit-5.1-2", "libluajit-5.1-common", "libluajit2-5.1-2")


def install(folder: Path, names: Sequence[str] = VENVS) -> dict[str, str]:
    """Install what is not there; what could not be installed, with the reason."""
    failed: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        done = folder / name / "installed.txt"
        wanted = (HERE / f"{name}.txt").read_text()
        if done.exists() and done.read_text() == wanted:
            continue
        print(f"installing {name} ...", file=sys.stderr, flush=True)
        error = _venv(folder / name, HERE / f"{name}.txt")
        if error is None:
            done.write_text(wanted)
        else:
            failed[name] = error
    try:
        tools(folder)
    except Failed:
        print("unpacking wrk and nginx ...", file=sys.stderr, flush=True)
        _debian(folder / "debian")
        try:
            tools(folder)
        except Failed as error:
            failed["wrk and nginx"] = str(error)
    return failed


def _venv(folder: Path, requirements: Path) -> str | None:
    shutil.rmtree(folder, ignore_errors=True)
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    python = str(folder / "bin" / "python")
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python,
             "--requirement", str(requirements)],
        ]  # fmt: skip
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--requirement", str(requirements)],
        ]  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return " ".join(lines[-2:])[:300] or f"ended with {done.returncode}"
    return None


def _debian(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:  # which of the two luajits wrk needs depends on the release
        subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, check=False)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=False)


def tools(folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The command lines of wrk and nginx, and the environment that they need. Failed without wrk."""
    found: dict[str, list[str]] = {}
    root = folder / "debian" / "root"
    environment = dict(os.environ)
    for name, places in (("wrk", ("usr/bin/wrk",)), ("nginx", ("usr/sbin/nginx",))):
        system = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
        local = next((root / place for place in places if (root / place).exists()), None)
        if system:
            found[name] = [system]
        elif local:
            found[name] = [str(local)]
            libraries = sorted({str(path.parent) for path in root.rglob("lib*.so*")})
            environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    missing = [name for name in ("wrk", "nginx") if name not in found]
    if missing:
        raise Failed(
            f"{' and '.join(missing)} not found: serving.py --install, or Debian's package"
        )
    return found, environment


def versions(folder: Path, tool: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> (
    dict[str, str]
):  # fmt: skip
    """Of what the peers are made of, as their lists name them, and of wrk and nginx."""
    shown = ("mlflow", "mlserver", "bentoml", "litserve", "kserve", "fastapi", "uvicorn", "uvloop",
             "httptools", "scikit-learn", "numpy", "pandas", "lightgbm", "onnxruntime")  # fmt: skip
    found = {}
    for name in VENVS:
        if not (folder / name / "bin" / "python").exists():
            continue
        pins = dict(
            line.split("==", 1)
            for line in (HERE / f"{name}.txt").read_text().splitlines()
            if "==" in line and not line.startswith("#")
        )
        found[name] = ", ".join(f"{part} {pins[part]}" for part in shown if part in pins)
    for name, flag in (("wrk", "-v"), ("nginx", "-v")):
        done = subprocess.run(
            [*tool[name], flag], capture_output=True, text=True, env=dict(environment), check=False
        )
        text = (done.stdout + done.stderr).strip().splitlines()
        found[name] = (
            text[0].split(" Copyright")[0].removeprefix("nginx version: ") if text else "?"
        )
    return found
