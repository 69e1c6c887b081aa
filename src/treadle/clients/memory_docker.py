"""The twin of a Docker engine in memory: the same contract, and no process is started.

What a container would do is told by a function: from what it was started with to a `Program`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from treadle.base.errors import TreadleError, UsageError
from treadle.clients.docker import Container

_FLAGS = frozenset({"--read-only", "--no-healthcheck"})
"""Options of `run` that take no value; every other one takes the word after it."""
_FIRST_PORT = 32768


@dataclass(frozen=True)
class Started:
    """What a container was started with."""

    name: str
    image: str
    options: tuple[tuple[str, str], ...]
    """Option and value, in order; a flag's value is empty."""
    command: tuple[str, ...]

    def all(self, option: str) -> list[str]:
        """Every value of an option."""
        return [value for name, value in self.options if name == option]

    def one(self, option: str, default: str = "") -> str:
        """The last value of an option."""
        return next(iter(reversed(self.all(option))), default)

    def pairs(self, option: str) -> dict[str, str]:
        """`NAME=VALUE` of an option that is repeated: labels, variables."""
        return {name: value for name, _, value in (one.partition("=") for one in self.all(option))}


@dataclass(frozen=True)
class Program:
    """What the first process of a container does, as far as an engine can see it."""

    exit_code: int | None = None
    """Ends at once with this code; None: it runs until a signal ends it."""
    says: tuple[str, ...] = ()
    ends_at: frozenset[str] = frozenset({"TERM", "KILL"})
    """Signals that end it, with exit code 0 (KILL: 137)."""
    execute: Callable[[Sequence[str]], str] = lambda _: ""
    """What a command inside prints; TreadleError where it fails."""


def runs(_: Started) -> Program:
    """A program that runs until it is ended."""
    return Program()


@dataclass
class _Running:
    started: Started
    program: Program
    container: Container
    restart: str
    stopped: bool = False
    """By a person: then it is not started again."""
    log: list[str] = field(default_factory=list)


class MemoryEngine:
    """Containers, volumes and images in dicts."""

    def __init__(
        self, program: Callable[[Started], Program] = runs, *, taken: Iterable[int] = ()
    ) -> None:
        """`program`: what a container does; `taken`: ports of the machine that others have."""
        self.program = program
        self.volumes: dict[str, dict[str, bytes]] = {}
        """Volume → path in it → content."""
        self.known_images: dict[str, dict[str, Any]] = {}
        self.started: list[Started] = []
        """All that ever was, in order."""
        self._taken = set(taken)
        self._containers: dict[str, _Running] = {}
        self._numbers = itertools.count(1)

    # ---- images ----

    def platform(self) -> str:
        """See Engine."""
        return "linux/amd64"

    def load(self, pieces: Iterable[bytes]) -> None:
        """See Engine. The content is not looked at."""
        for _ in pieces:
            pass

    def images(self, label: str) -> list[dict[str, Any]]:
        """See Engine."""
        del label
        return list(self.known_images.values())

    def image(self, name: str) -> dict[str, Any] | None:
        """See Engine."""
        return self.known_images.get(name)

    def pull(self, reference: str) -> None:
        """See Engine."""
        self.known_images[reference] = {
            "id": reference, "tags": [reference], "layers": [], "platform": self.platform(),
        }  # fmt: skip

    # ---- containers ----

    def run(self, arguments: Sequence[str]) -> str:
        """See Engine."""
        started = _parsed(arguments)
        if started.name in self._containers:
            raise TreadleError(f"docker run failed: the name {started.name} is already in use")
        identifier = f"{next(self._numbers):064x}"
        created = Container(
            identifier, started.name, "created", None, 0, 0, "", started.image,
            started.pairs("--label"), {},
        )  # fmt: skip
        one = _Running(started, self.program(started), created, started.one("--restart", "no"))
        self._containers[started.name] = one
        for volume in started.all("--volume"):
            self.volumes.setdefault(volume.partition(":")[0], {})
        # As the real one: a container whose port cannot be had stays, created and not started.
        one.container = replace(created, ports=self._published(started))
        self.started.append(started)
        self._begin(one)
        return identifier

    def _published(self, started: Started) -> dict[str, tuple[str, int]]:
        found = {}
        for text in started.all("--publish"):
            host, wanted, inside = text.rsplit(":", 2)
            used = dict.fromkeys(self._taken, "") | {
                port: f" by the container {one.container.name}"
                for one in self._containers.values() if one.container.status == "running"
                for _, port in one.container.ports.values()
            }  # fmt: skip
            port = int(wanted) if wanted else next(
                n for n in itertools.count(_FIRST_PORT) if n not in used
            )  # fmt: skip
            if port in used:
                raise UsageError(
                    f"the port is in use{used[port]}: {host}:{port}",
                    hint="choose another port in deploy:",
                )
            found[f"{inside}/tcp"] = (host, port)
        return found

    def _begin(self, one: _Running) -> None:
        one.log += one.program.says
        one.container = replace(one.container, status="running", started="2026-01-01T00:00:00Z")
        if one.program.exit_code is not None:
            self._end(one, one.program.exit_code)

    def _end(self, one: _Running, code: int) -> None:
        again = one.restart == "unless-stopped" and not one.stopped
        ports = one.container.ports if again else {}
        one.container = replace(
            one.container, status="restarting" if again else "exited", exit_code=code, ports=ports,
            restarts=one.container.restarts + again,
        )  # fmt: skip
        if again and one.program.exit_code is None:
            one.log += one.program.says
            one.container = replace(one.container, status="running")

    def crash(self, name: str, code: int = 137) -> None:
        """End a container's process as from outside: its restart policy holds."""
        self._end(self._get(name), code)

    def _get(self, name: str) -> _Running:
        if name not in self._containers:
            raise TreadleError(f"docker failed: No such container: {name}")
        return self._containers[name]

    def container(self, name: str) -> Container | None:
        """See Engine."""
        return self._containers[name].container if name in self._containers else None

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """See Engine."""
        return [
            one.container for one in self._containers.values()
            if labels.items() <= one.container.labels.items()
        ]  # fmt: skip

    def signal(self, name: str, signal: str) -> None:
        """See Engine."""
        one = self._get(name)
        if one.container.status != "running":
            raise TreadleError(f"docker kill failed: Container {name} is not running")
        if signal in one.program.ends_at:
            one.stopped = one.stopped or signal == "KILL"
            self._end(one, 137 if signal == "KILL" else 0)

    def update_restart(self, name: str) -> None:
        """See Engine."""
        self._get(name).restart = "no"

    def stop(self, name: str, timeout_s: float) -> None:
        """See Engine."""
        del timeout_s
        one = self._get(name)
        one.stopped = True
        if one.container.status in ("running", "restarting"):
            self._end(one, 0 if "TERM" in one.program.ends_at else 137)

    def remove(self, name: str) -> None:
        """See Engine."""
        self._containers.pop(name, None)

    def logs(self, name: str, lines: int | None) -> list[str]:
        """See Engine."""
        log = self._get(name).log
        return list(log) if lines is None else log[len(log) - min(lines, len(log)) :]

    def follow(self, name: str, lines: int) -> Iterator[str]:
        """See Engine. Ends with what there is."""
        yield from self.logs(name, lines)

    def execute(self, name: str, command: Sequence[str]) -> str:
        """See Engine."""
        one = self._get(name)
        if one.container.status != "running":
            raise TreadleError(f"docker exec failed: Container {name} is not running")
        return one.program.execute(command)

    def copy_out(self, name: str, path: str, folder: Path) -> None:
        """See Engine. Knows what lies in volumes."""
        folder.mkdir(parents=True, exist_ok=True)
        for volume in self._get(name).started.all("--volume"):
            volume_name, where = volume.split(":")[:2]
            inside = path.removeprefix(where).strip("/")
            if not path.startswith(where):
                continue
            prefix = f"{inside}/" if inside else ""
            files = {k: v for k, v in self.volumes[volume_name].items() if k.startswith(prefix)}
            for file, content in files.items():
                target = folder / file.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            if files or not inside:
                return
        raise TreadleError(f"docker cp failed: Could not find the file {path} in container {name}")

    # ---- volumes ----

    def volume(self, name: str, labels: Mapping[str, str]) -> None:
        """See Engine."""
        del labels
        self.volumes.setdefault(name, {})

    def remove_volume(self, name: str) -> None:
        """See Engine."""
        self.volumes.pop(name, None)


def _parsed(arguments: Sequence[str]) -> Started:
    """The words of `docker run`: options, image, command."""
    options: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest and rest[0].startswith("--"):
        word = rest.pop(0)
        options.append((word, "" if word in _FLAGS else rest.pop(0)))
    if not rest:
        raise TreadleError("docker run failed: requires at least 1 argument")
    name = next((value for word, value in options if word == "--name"), "")
    return Started(name, rest[0], tuple(options), tuple(rest[1:]))
