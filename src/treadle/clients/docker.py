"""A Docker engine, through the `docker` command: so contexts, `ssh://` hosts, credential helpers and
Podman's stand-in all work as the user has set them up.

Only what is labelled as ours is ever changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from treadle.base.errors import Refused, TreadleError, Unreachable, UsageError

LABEL = "dev.treadle"
_START_S = 120.0


@dataclass(frozen=True)
class Container:
    """What an engine says of a container."""

    id: str
    name: str
    status: str
    """created, running, restarting, exited, dead …"""
    health: str | None
    """starting, healthy, unhealthy; None where it has no check."""
    exit_code: int
    restarts: int
    started: str
    image: str
    labels: dict[str, str]
    ports: dict[str, tuple[str, int]]
    """`8080/tcp` → host address and port."""


class Engine(Protocol):
    """What of an engine is used."""

    def platform(self) -> str:
        """What it runs: `linux/amd64`. Unreachable if no engine answers."""

    def load(self, pieces: Iterable[bytes]) -> None:
        """Take an image archive."""

    def images(self, label: str) -> list[dict[str, Any]]:
        """Images with a label: id, tags, layers (diff_ids, lowest first)."""

    def image(self, name: str) -> dict[str, Any] | None:
        """One image by name or id."""

    def pull(self, reference: str) -> None:
        """Have an image from a registry."""

    def run(self, arguments: Sequence[str]) -> str:
        """`docker run --detach …`; the container's id."""

    def container(self, name: str) -> Container | None:
        """One container."""

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers with these labels, running or not."""

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to its first process."""

    def update_restart(self, name: str) -> None:
        """Have it not be started again when it ends."""

    def stop(self, name: str, timeout_s: float) -> None:
        """Have it end."""

    def remove(self, name: str) -> None:
        """Remove it; nothing if it is gone."""

    def logs(self, name: str, lines: int | None) -> list[str]:
        """The last lines of its log."""

    def follow(self, name: str, lines: int) -> Iterator[str]:
        """The last lines, and those to come."""

    def execute(self, name: str, command: Sequence[str]) -> str:
        """Run a command inside; its output. TreadleError if it fails."""

    def copy_out(self, name: str, path: str, folder: Path) -> None:
        """Copy what is in a folder of the container into one of this machine."""

    def volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Have a named volume."""

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; nothing if it is gone."""


class DockerCommand:
    """An engine by its command-line client."""

    def __init__(self, context: str | None = None, host: str = "") -> None:
        """`context`: a Docker context; else `host`: an engine's address; by default the current
        context, or DOCKER_HOST's."""
        self._context, self._host = context, "" if context else host

    def _call(
        self, *arguments: str, check: bool = True, timeout_s: float | None = _START_S
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                [*self._program(), *arguments], capture_output=True, text=True, check=False,
                timeout=timeout_s, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"the Docker engine{self._named()} has not answered within {timeout_s:g} s",
                hint="docker info",
            ) from None
        if check and done.returncode != 0:
            raise self._error(done.stderr, arguments)
        return done

    def _program(self) -> list[str]:
        found = shutil.which("docker")
        if found is None:
            raise Unreachable(
                "there is no `docker` command here",
                hint="install Docker (https://docs.docker.com/engine/install), or build with "
                "--output oci:DIR, tar:FILE or to a registry: those need none",
            )
        named = ["--context", self._context] if self._context else []
        return [found, *named, *(["--host", self._host] if self._host else [])]

    def _named(self) -> str:
        host = self._host or os.environ.get("DOCKER_HOST")
        if self._context:
            return f" of the context {self._context}"
        return f" at {host}" if host else ""

    def _error(self, text: str, arguments: Sequence[str]) -> TreadleError:
        said = text.strip().removeprefix("docker: ").removeprefix("Error response from daemon: ")
        low = said.lower()
        if "context" in low and ("not found" in low or "does not exist" in low):
            return UsageError(
                f"there is no Docker context {self._context}", hint="docker context ls names them"
            )
        if any(
            sign in low
            for sign in ("cannot connect", "is the docker daemon running", "connection refused",
                         "error during connect", "no such host", "permission denied while trying")
        ):  # fmt: skip
            return Unreachable(
                f"no Docker engine answers{self._named()}: {said.splitlines()[0][:200]}",
                hint="start Docker, or name another engine (context: in deploy:, or DOCKER_HOST)",
            )
        if "port is already allocated" in low or "address already in use" in low:
            return UsageError(
                f"the port is in use{self._by_whom(low)}: {said.splitlines()[0][:200]}",
                hint="choose another port in deploy:, or stop what uses it (docker ps)",
            )
        if "could not select device driver" in low or "nvidia" in low:
            return Refused(
                f"the engine{self._named()} has no such GPU: {said.splitlines()[0][:200]}",
                hint="install the NVIDIA container toolkit there, or leave out gpus:",
            )
        if "no space left" in low:
            return TreadleError(
                f"the disk of the Docker engine{self._named()} is full",
                hint="docker system prune frees what nothing uses",
            )
        shown = " ".join(arguments[:2])
        return TreadleError(f"docker {shown} failed: {said[:500]}")

    def _by_whom(self, said: str) -> str:
        """` by the container NAME` where it is one of this engine's."""
        found = re.search(r":(\d+)(?: failed|: bind)", said)
        if found is None:
            return ""
        names = self._call(
            "ps", "--filter", f"publish={found[1]}", "--format", "{{.Names}}", check=False
        ).stdout.split()
        return f" by the container {names[0]}" if names else ""

    def platform(self) -> str:
        """See Engine."""
        done = self._call("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
        return done.stdout.strip()

    # ---- images ----

    def load(self, pieces: Iterable[bytes]) -> None:
        """See Engine."""
        process = subprocess.Popen(
            [*self._program(), "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            for piece in pieces:
                process.stdin.write(piece)
            process.stdin.close()
        except BrokenPipeError:
            pass  # what it says is read below
        except BaseException:
            process.kill()
            process.wait()
            raise
        assert process.stdout is not None
        said = process.stdout.read().decode(errors="replace")
        if process.wait() != 0:
            raise self._error(said, ["load"])

    def images(self, label: str) -> list[dict[str, Any]]:
        """See Engine."""
        ids = self._call("image", "ls", "--quiet", "--no-trunc", "--filter", f"label={label}")
        names = sorted(set(ids.stdout.split()))
        if not names:
            return []
        told = json.loads(self._call("image", "inspect", *names).stdout)
        return [_image(one) for one in told]

    def image(self, name: str) -> dict[str, Any] | None:
        """See Engine."""
        done = self._call("image", "inspect", name, check=False)
        if done.returncode != 0:
            if "no such image" in done.stderr.lower():
                return None
            raise self._error(done.stderr, ["image", "inspect"])
        return _image(json.loads(done.stdout)[0])

    def pull(self, reference: str) -> None:
        """See Engine."""
        self._call("pull", "--quiet", reference, timeout_s=None)

    # ---- containers ----

    def run(self, arguments: Sequence[str]) -> str:
        """See Engine."""
        return self._call("run", "--detach", *arguments).stdout.strip()

    def container(self, name: str) -> Container | None:
        """See Engine."""
        done = self._call("container", "inspect", name, check=False)
        if done.returncode != 0:
            if "no such container" in done.stderr.lower():
                return None
            raise self._error(done.stderr, ["container", "inspect"])
        return _container(json.loads(done.stdout)[0])

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """See Engine."""
        filters = [
            part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")
        ]
        ids = self._call("ps", "--all", "--quiet", "--no-trunc", *filters).stdout.split()
        if not ids:
            return []
        done = self._call("container", "inspect", *ids, check=False)  # one may just have gone
        return [_container(one) for one in json.loads(done.stdout or "[]")]

    def signal(self, name: str, signal: str) -> None:
        """See Engine."""
        self._call("kill", "--signal", signal, name)

    def update_restart(self, name: str) -> None:
        """See Engine."""
        self._call("update", "--restart", "no", name)

    def stop(self, name: str, timeout_s: float) -> None:
        """See Engine."""
        self._call("stop", "--time", str(round(timeout_s)), name, timeout_s=timeout_s + 30)

    def remove(self, name: str) -> None:
        """See Engine."""
        done = self._call("rm", "--force", "--volumes", name, check=False)
        if done.returncode != 0 and "no such container" not in done.stderr.lower():
            raise self._error(done.stderr, ["rm"])

    def logs(self, name: str, lines: int | None) -> list[str]:
        """See Engine."""
        tail = "all" if lines is None else str(lines)
        done = self._call("logs", "--tail", tail, name)
        return (done.stdout + done.stderr).splitlines()

    def follow(self, name: str, lines: int) -> Iterator[str]:
        """See Engine."""
        process = subprocess.Popen(
            [*self._program(), "logs", "--follow", "--tail", str(lines), name],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield line.rstrip("\n")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()

    def execute(self, name: str, command: Sequence[str]) -> str:
        """See Engine."""
        return self._call("exec", name, *command).stdout

    def copy_out(self, name: str, path: str, folder: Path) -> None:
        """See Engine."""
        folder.mkdir(parents=True, exist_ok=True)
        self._call("cp", f"{name}:{path}/.", str(folder), timeout_s=None)

    # ---- volumes ----

    def volume(self, name: str, labels: Mapping[str, str]) -> None:
        """See Engine."""
        told = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        self._call("volume", "create", *told, name)

    def remove_volume(self, name: str) -> None:
        """See Engine."""
        done = self._call("volume", "rm", name, check=False)
        if done.returncode != 0 and "no such volume" not in done.stderr.lower():
            raise self._error(done.stderr, ["volume", "rm"])


def context_address(context: str) -> str:
    """Where the engine of a context is: `ssh://user@host`, `unix:///…`; empty if it is not known."""
    found = shutil.which("docker")
    if found is None:
        return ""
    done = subprocess.run(
        [found, "context", "inspect", context, "--format", "{{.Endpoints.docker.Host}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


def _image(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": told["Id"],
        "tags": told.get("RepoTags") or [],
        "layers": (told.get("RootFS") or {}).get("Layers") or [],
        "platform": f"{told.get('Os')}/{told.get('Architecture')}",
    }


def _container(told: Mapping[str, Any]) -> Container:
    state = told["State"]
    ports = {}
    for port, bound in ((told.get("NetworkSettings") or {}).get("Ports") or {}).items():
        if bound:
            ports[port] = (str(bound[0]["HostIp"]), int(bound[0]["HostPort"]))
    return Container(
        told["Id"], str(told["Name"]).lstrip("/"), state["Status"],
        (state.get("Health") or {}).get("Status"), int(state.get("ExitCode") or 0),
        int(told.get("RestartCount") or 0), str(state.get("StartedAt") or ""), told["Image"],
        dict(told["Config"].get("Labels") or {}), ports,
    )  # fmt: skip
