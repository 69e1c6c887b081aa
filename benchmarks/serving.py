"""Our model server beside the ones that people use: same models, one core, every answer checked.

    python benchmarks/serving.py --install            # the peers, once, into the cache folder
    python benchmarks/serving.py [--only logreg,flights] [--peers treadle,nginx,mlflow]
                                 [--rounds 5] [--seconds 2] [--quick] [--json FILE]
    python benchmarks/serving.py --table FILE         # the Markdown of a run
    python benchmarks/serving.py soak [--seconds 60] [--rate 5000] [--careful] [--json FILE]

The server is pinned to one core, wrk (and this process) to another. All servers of a model are
started, checked and stopped (SIGSTOP); in each round each of them is let run alone, in an order that
changes from round to round: 64 connections with single rows, 1 connection, 16 connections with 100
rows each. The model called in its process, pinned like the servers, is measured in the same rounds.
Before and after the rounds the answers of every server are compared with that model's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import install, models, servers, soak, tables
from serving.measure import (
    HERE,
    Check,
    Failed,
    Server,
    ask,
    cores,
    cpu_s,
    free_port,
    load,
    memory_mb,
)

REPOSITORY = Path(__file__).resolve().parent.parent
CELLS = {"64": (64, 1), "1": (1, 1), "100": (16, 100)}
"""Connections and rows of a request."""
CHECKED = 64
"""Single rows asked in a check, besides all rows in larger requests."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "treadle-benchmarks"


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Running:
    """A server of this run and what was found out about it."""

    peer: servers.Peer
    place: servers.Place
    found: dict[str, Any]
    check: Check
    bodies: Mapping[str, Path]
    server: Server | None = None

    def rest(self) -> None:
        """Do not disturb the others."""
        if self.server is not None and self.peer.stopped:
            self.server.freeze()

    def fail(self, error: Exception, when: str) -> None:
        """Leave it out from now on; the table says why."""
        self.found["error"] = f"{when}: {error}"
        say(f"  {self.peer.name}: {self.found['error']}")
        if self.server is not None:
            self.server.end()
            self.server = None


class Bench:
    """One run over some models and servers."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.core, mine = cores()
        os.sched_setaffinity(0, {mine})
        self.tools, self.environment = install.tools(options.venvs)
        self.run: dict[str, Any] = {"cases": {}, "loads": [os.getloadavg()[0]]}
        self.numbers = itertools.count()

    # ---- models ----

    def make(self, name: str, folder: Path) -> str:
        """models.py on all cores; what it printed. Failed with its words."""
        done = subprocess.run(
            [sys.executable, HERE / "models.py", name, folder], capture_output=True, text=True,
            check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"},
            preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),
        )  # fmt: skip
        if done.returncode:
            raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr else "it failed")
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    def case(self, name: str) -> None:
        """One model, all its servers."""
        say(f"{name}: making the model ...")
        folder = self.folder / name
        self.make(name, folder)
        case = json.loads((folder / "case.json").read_text())
        chosen = [
            peer
            for peer in servers.SERVERS.values()
            if name in peer.cases and (not self.options.peers or peer.name in self.options.peers)
        ]
        entry: dict[str, Any] = {"title": case["title"], "asked": len(case["rows"]), "peers": {}}
        self.run["cases"][name] = entry
        running = [self.prepare(peer, case, folder, entry) for peer in chosen]
        inside = Inside(case, folder, self.core, self.environment)
        try:
            for one in running:
                self.start(one)
            entry["inprocess"] = self.rounds([r for r in running if r.server is not None], inside)
            for one in running:
                if one.server is not None:
                    self.finish(one)
        finally:
            inside.end()
            for one in running:
                if one.server is not None:
                    one.server.end()
        self.run["loads"].append(os.getloadavg()[0])

    def prepare(
        self, peer: servers.Peer, case: dict[str, Any], folder: Path, entry: dict[str, Any]
    ) -> Running:
        """Bodies and questions; nothing is started."""
        found: dict[str, Any] = {
            "title": peer.title, "setting": peer.setting, "ours": peer.ours, "cells": {}
        }  # fmt: skip
        entry["peers"][peer.name] = found
        rows, right, columns = case["rows"], case["expected"], case["columns"]
        questions = [
            (servers.body(peer.form, columns, rows[i : i + n]), right[i : i + n])
            for n, starts in ((1, range(CHECKED)), (100, range(0, len(rows), 100)))
            for i in starts
        ]
        constant = peer.constant
        bodies = {}
        for cell, (_, n) in CELLS.items():
            file = folder / f"{peer.form}-{n}.jsonl"
            starts = range(len(rows)) if n == 1 else range(0, len(rows) - n, 20)
            if constant:  # the same bytes again and again, so that wrk is not the limit
                file, starts = folder / f"{peer.form}-{n}-constant.jsonl", range(1)
            lines = [servers.body(peer.form, columns, rows[i : i + n]) for i in starts]
            file.write_bytes(b"\n".join(lines) + b"\n")
            bodies[cell] = file
        known = peer.directory in case["directories"]
        place = servers.Place(
            case, folder / "unused", 0, self.options.venvs, self.tools,
            Path(case["directories"][peer.directory]) if known else None,
        )  # fmt: skip
        check = Check(
            peer.path, peer.headers,
            [(questions[0][0], right[:1])] * CHECKED if constant else questions,
            max(case["tolerance"], 1e-6 if peer.directory == "compiled" else 0),
            answer_key=peer.answer_key, identified=peer.ours,
        )  # fmt: skip
        one = Running(peer, place, found, check, bodies)
        found["skipped"] = peer.skip()
        if peer.directory == "compiled" and not found["skipped"]:
            try:
                made = self.make(f"{case['case']}:compiled", folder / "compiled")
                one.place = servers.Place(
                    case, folder, 0, self.options.venvs, self.tools, Path(made)
                )
            except Failed as error:
                found["skipped"] = str(error)
        if found["skipped"]:
            say(f"  {peer.name} is left out: {found['skipped']}")
        return one

    # ---- servers ----

    def launch(self, one: Running) -> tuple[Server, servers.Place, float]:
        """Start a server; seconds to its first right answer."""
        folder = self.folder / f"server-{next(self.numbers)}"
        folder.mkdir()
        place = servers.Place(
            one.place.case, folder, free_port(), one.place.venvs, one.place.tools,
            one.place.directory,
        )  # fmt: skip
        command = one.peer.command(place)
        environment = servers.environment(one.peer, place)
        if "LD_LIBRARY_PATH" in self.environment:
            environment["LD_LIBRARY_PATH"] = self.environment["LD_LIBRARY_PATH"]
        server = Server(command, folder / "log.txt", self.core, environment)
        try:
            return server, place, one.check.first(server, place.port)
        except Failed:
            server.end()
            raise

    def start(self, one: Running) -> None:
        """Start, check, warm, stop for now."""
        if one.found["skipped"]:
            return
        try:
            one.server, one.place, seconds = self.launch(one)
            one.found["starts"] = [seconds]
            one.found["difference"] = one.check.all(one.place.port)
            if one.peer.headers.get("Authorization"):
                self.unauthorized(one)
            self.load(one, "64", 1)
        except Failed as error:
            one.fail(error, "at the start")
        else:
            say(f"  {one.peer.name}: first right answer after {seconds:.2f} s")
            one.rest()

    def unauthorized(self, one: Running) -> None:
        """Without its token a server must not answer."""
        status, _, _ = ask(one.place.port, one.peer.path, one.check.questions[0][0], {})
        if status != 401:
            raise Failed(f"answered {status} without its token")

    def load(self, one: Running, cell: str, seconds: int) -> dict[str, float]:
        """One cell of one server; it must be running."""
        assert one.server is not None
        before = cpu_s(one.server.pid)
        found = load(
            self.tools["wrk"], self.environment, one.place.port, one.peer.path, one.peer.headers,
            one.bodies[cell], CELLS[cell][0], seconds,
        )  # fmt: skip
        cpu = cpu_s(one.server.pid) - before
        if found["refused"] or found["broken"] or not found["requests"]:
            raise Failed(
                f"{found['requests']:.0f} answers, {found['refused']:.0f} not 2xx, "
                f"{found['broken']:.0f} broken under load ({cell})"
            )
        found["rate"] = found["requests"] / found["seconds"]
        found["cpu_us"] = cpu / found["requests"] * 1e6
        found["busy"] = cpu / found["seconds"]
        return found

    def rounds(self, running: list[Running], inside: Inside) -> list[dict[str, float]]:
        """All rounds; what the model in its process took."""
        taken = []
        for number in range(self.options.rounds):
            say(f"  round {number + 1} of {self.options.rounds} ...")
            taken.append(inside.measure(self.options.seconds))
            turn = number % max(1, len(running))
            for cell, one in itertools.product(CELLS, running[turn:] + running[:turn]):
                if one.server is None or cell not in one.peer.cells:
                    continue
                one.server.thaw()
                try:
                    one.check.settle(one.place.port)
                    figures = self.load(one, cell, self.options.seconds)
                    one.found["cells"].setdefault(cell, []).append(figures)
                except (Failed, OSError, TimeoutError) as error:
                    one.fail(error, f"round {number + 1}")
                else:
                    one.rest()
            for one in running:  # ours is started anew in each round
                if number and one.server is not None and one.peer.name in MAIN:
                    again, _, seconds = self.launch(one)
                    one.found["starts"].append(seconds)
                    again.end()
        return taken

    def finish(self, one: Running) -> None:
        """Memory, and all answers once more."""
        assert one.server is not None
        one.server.thaw()
        rss, pss = memory_mb(one.server.pid)
        one.found["rss_mb"], one.found["pss_mb"] = [rss], [pss]
        try:
            one.check.settle(one.place.port)
            worst = one.check.all(one.place.port)
            one.found["difference"] = max(worst, one.found["difference"])
            if one.peer.ours:
                status, _, text = ask(one.place.port, "/metrics", None, one.peer.headers)
                if status != 200 or b"treadle_" not in text:
                    raise Failed(f"/metrics answered {status}")
                kept = sum(f.stat().st_size for f in one.place.folder.rglob("capture/**/*")
                           if f.is_file())  # fmt: skip
                one.found["captured_bytes"] = kept
                if not kept:
                    raise Failed("nothing was captured")
        except (Failed, OSError) as error:
            one.fail(error, "after the rounds")
        else:
            one.server.end()
            one.server = None


MAIN = ("treadle", "treadle-frame", "treadle-compiled")
"""Ours whose start is measured in every round."""


class Inside:
    """The model in a process of its own, without a server (inprocess.py)."""

    def __init__(
        self, case: Mapping[str, Any], folder: Path, core: int, environment: Mapping[str, str]
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / "inprocess.py", folder / "case.json"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                 "PYTHONWARNINGS": "ignore"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - one thread
        )  # fmt: skip
        self.name = case["case"]
        self._line()

    def _line(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} could not be called in a process of its own")
        return dict(json.loads(line))

    def measure(self, seconds: float) -> dict[str, float]:
        """Percentiles of a call, in ms."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        """Close its input; it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


# ---- the soak ------------------------------------------------------------------------------------


def run_soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our server under a steady rate; see serving/soak.py."""
    options.peers, options.rounds = (), 0
    with contextlib.suppress(Failed):
        core, mine = cores()
        os.sched_setaffinity(0, {mine})
    say(f"{options.case}: making the model ...")
    subprocess.run(
        [sys.executable, HERE / "models.py", options.case, folder / options.case],
        check=True, capture_output=True,
    )  # fmt: skip
    case = json.loads((folder / options.case / "case.json").read_text())
    name = "treadle" if "tensor" in case["directories"] else "treadle-frame"
    peer = servers.SERVERS[name]
    assert peer.directory is not None
    directory = Path(case["directories"][peer.directory])
    (folder / "server").mkdir()
    place = servers.Place(case, folder / "server", free_port(), folder, {}, directory)
    pinned = min(os.sched_getaffinity(0)) if "core" not in locals() else core
    server = Server(
        peer.command(place), place.folder / "log.txt", pinned, servers.environment(peer, place)
    )
    rows, right = case["rows"], case["expected"]

    def question(start: int, count: int) -> soak.Question:
        body = servers.body(peer.form, case["columns"], rows[start : start + count])
        return soak.question(place.port, peer.path, {}, body, right[start : start + count])

    # Single rows, and among every 32 of them a request of 20.
    questions = []
    for start in range(len(rows)):
        questions.append(question(start, 1))
        if start % 32 == 31:
            questions.append(question(start - 20, 20))
    check = Check(
        peer.path, {}, [(servers.body(peer.form, case["columns"], rows[:1]), right[:1])],
        case["tolerance"], answer_key=peer.answer_key, identified=True,
    )  # fmt: skip
    try:
        say(f"first right answer after {check.first(server, place.port):.2f} s; soaking ...")
        return soak.soak(
            place.port, server.pid, questions, tolerance=case["tolerance"], rate=options.rate,
            seconds=options.seconds, connections=options.connections, careful=options.careful,
        )  # fmt: skip
    finally:
        server.end()


# ---- the command ---------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": str(os.cpu_count()), "processor": processor, "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
    }  # fmt: skip


def ours() -> str:
    """Versions of what our server is made of."""
    names = ("treadle", "scikit-learn", "numpy", "pandas", "lightgbm", "onnxruntime", "msgspec",
             "uvloop", "httptools", "uvicorn")  # fmt: skip
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def commit() -> str:
    """The commit of the working tree, with a plus where files differ."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = lambda *a: subprocess.run(  # noqa: E731
            ["git", *a], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("rev-parse", "--short", "HEAD") + (
            "+" if run("status", "--porcelain", "-uno") else ""
        )
    return "unknown"


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """A folder for models, servers and logs."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="treadle-serving-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of names with commas."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = sorted(set(found) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return found

    return parse


def parser() -> argparse.ArgumentParser:
    """Options of the comparison; `soak` has its own."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--install", action="store_true", help="install the peers, then end")
    add("--venvs", type=Path, default=CACHE / "serving", metavar="DIR",
        help="where the peers live (default: %(default)s)")  # fmt: skip
    add("--only", type=names(models.CASES), default=models.CASES, metavar="MODEL,…")
    add("--peers", type=names(tuple(servers.SERVERS)), default=(), metavar="SERVER,…")
    add("--rounds", type=int, default=5)
    add("--seconds", type=int, default=2, help="of a cell; wrk knows whole seconds only")
    add("--quick", action="store_true", help="one round of one second: proves that all runs")
    add("--json", type=Path, metavar="FILE", help="every sample")
    add("--table", type=Path, metavar="FILE", help="print the Markdown of such a file, then end")
    add("--keep", type=Path, metavar="DIR", help="leave models and logs in this (new) folder")
    return made


def soak_parser() -> argparse.ArgumentParser:
    """Options of `serving.py soak`."""
    made = argparse.ArgumentParser(prog="serving.py soak", description=soak.__doc__)
    add = made.add_argument
    add("--seconds", type=float, default=60)
    add("--rate", type=float, default=5000, help="requests a second")
    add("--connections", type=int, default=64)
    add("--case", choices=models.CASES, default="logreg")
    add("--careful", action="store_true", help="at most half of what this machine can do")
    add("--json", type=Path, metavar="FILE")
    add("--keep", type=Path, metavar="DIR")
    return made


def main(arguments: Sequence[str]) -> int:
    """Measure, print; 1 when one of ours fails."""
    if arguments[:1] == ["soak"]:
        options = soak_parser().parse_args(arguments[1:])
        with workplace(options.keep) as folder:
            try:
                found = run_soak(options, folder)
            except Failed as error:
                say(f"soak failed: {error}")
                return 1
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
        print(tables.soak_lines(found))
        for reason, count in found["reasons"].items():
            say(f"{count} × {reason}")
        return int(bool(found["wrong"] or found["lost"] or found["refused"] or not found["flat"]))
    options = parser().parse_args(arguments)
    if options.table:
        print(tables.report(json.loads(options.table.read_text())))
        return 0
    options.venvs = options.venvs.expanduser().resolve()
    if options.install:
        failed = install.install(options.venvs)
        for name, reason in failed.items():
            say(f"{name} could not be installed: {reason}")
        return int(bool(failed))
    if options.quick:
        options.rounds = options.seconds = 1
    began = time.perf_counter()
    try:
        with workplace(options.keep) as folder:
            bench = Bench(folder, options)
            for name in options.only:
                bench.case(name)
    except Failed as error:
        say(f"benchmark failed: {error}")
        return 1
    run = bench.run | {
        "machine": machine(), "commit": commit(), "minutes": (time.perf_counter() - began) / 60,
        "versions": {
            "ours": ours(), **install.versions(options.venvs, bench.tools, bench.environment)
        },
        "options": {"rounds": options.rounds, "seconds": options.seconds},
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(tables.report(run))
    peers = [peer for case in run["cases"].values() for peer in case["peers"].values()]
    return int(any(peer["ours"] and peer.get("error") for peer in peers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
