"""A real PostgreSQL of Debian for tests: its own cluster in a scratch folder on a free port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "s3cret"


def binaries() -> Path | None:
    """The newest folder with initdb and pg_ctl, or None."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    folders += [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    return next(
        (f for f in reversed(folders) if (f / "initdb").exists() and (f / "pg_ctl").exists()), None
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a running server (`postgresql://…/postgres`); skips the test where there is none."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user: dict[str, object] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres to run PostgreSQL: apt-get install postgresql")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="treadle-pg-", dir="/tmp"))
    if user:
        os.chown(folder, account.pw_uid, account.pw_gid)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    port = free_port()

    def run(*command: str) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environ,
            timeout=60,
            check=False,
            **user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stdout + done.stderr + log(folder)

    try:
        run(
            str(found / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(secret),
            "--no-sync",
            "-E",
            "UTF8",
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        # pg_ctl's children keep its pipes open: the log goes to a file, and so does its own output.
        with (folder / "ctl").open("w") as out:
            done = subprocess.run(
                [
                    str(found / "pg_ctl"),
                    "-D",
                    str(folder / "data"),
                    "-w",
                    "-t",
                    "60",
                    "-l",
                    str(folder / "log"),
                    "-o",
                    options,
                    "start",
                ],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=environ,
                timeout=90,
                check=False,
                **user,  # type: ignore[call-overload]
            )
        assert done.returncode == 0, (folder / "ctl").read_text() + log(folder)
        yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(
            [str(found / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "-w", "stop"],
            capture_output=True,
            cwd="/",
            env=environ,
            timeout=60,
            check=False,
            **user,  # type: ignore[call-overload]
        )
        shutil.rmtree(folder, ignore_errors=True)


def log(folder: Path) -> str:
    path = folder / "log"
    return path.read_text() if path.exists() else ""
