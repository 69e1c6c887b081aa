"""Captured segments leave a container that has no folder in common with who collects them.

`python -m treadle.operate capture send` writes every finished segment to standard output
(base/segment_stream), after it has had the server finish those that it writes; `capture drop NAME …`
removes the ones that are kept elsewhere by now. Whoever dies between leaves a segment here that is
sent again under the same name: nothing is lost and nothing is doubled.

A server that ends waits a little for its last segments to be taken (`wait`), because its container,
and with it the folder, goes when it does.

Beside the segments the folder holds `ended` (the server has ended) and `INSTANCE.full` (how many
requests were not kept for lack of room).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from treadle.base import segment_stream, segments
from treadle.base.digest import digest_file
from treadle.base.segment_stream import End, Sent

FINISH_S = 3.0
"""So long a server may take to finish the segments that it writes."""
_QUEUED_S = 0.3
"""What was captured is in a file after at most so long (`capture.LATEST_S`, and a little)."""
_ENDED, _FULL = "ended", ".full"
_PIECE = 1 << 18


def main(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """`capture send` and `capture drop`."""
    named = arguments.folder or environ.get("TREADLE_CAPTURE")
    if not named:
        print("error: nothing is captured here: TREADLE_CAPTURE is not set", file=sys.stderr)
        return 2
    if arguments.action == "drop":
        drop(Path(named), arguments.names)
        return 0
    if arguments.names:
        print("error: send takes no names: it sends what is finished", file=sys.stderr)
        return 2
    send(Path(named), sys.stdout.buffer, server=arguments.server)
    return 0


def send(folder: Path, out: BinaryIO, *, server: int = 1, finish_s: float = FINISH_S) -> None:
    """Write every finished segment to `out`; the process `server` is asked to finish its own."""
    ended = (folder / _ENDED).exists()  # before anything is listed: after it nothing comes
    if not ended:
        _have_finished(folder, server, finish_s)
    segments.finish_left(folder)
    sent = writing = 0
    for name, path in segments.segment_files(folder):
        if path.name.endswith(segments.OPEN):
            writing += 1
            continue
        size = path.stat().st_size
        out.write(segment_stream.line(Sent(name, size, digest_file(path))))
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                out.write(piece)
        sent += 1
    out.write(segment_stream.line(End(sent, writing, ended, _full(folder))))
    out.flush()


def drop(folder: Path, names: Sequence[str]) -> None:
    """Remove segments that are kept elsewhere; those that are gone already are no mistake."""
    for name in names:
        if "/" not in name and name.endswith(segments.SUFFIX):
            (folder / name).unlink(missing_ok=True)
    for path in folder.glob(f"*{_FULL}"):
        path.unlink(missing_ok=True)  # it was told


def begin(folder: Path) -> None:
    """A server starts: one of before that ended here is no matter any more."""
    (folder / _ENDED).unlink(missing_ok=True)


def wait(folder: Path, seconds: float) -> None:
    """The server has ended: go on for so long, or until every segment was taken."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # whoever collects may still ask
        signal.signal(number, signal.SIG_IGN)
    try:
        (folder / _ENDED).touch()
    except OSError:
        return  # no folder, or no room in it: nothing can be waited for
    until = time.monotonic() + seconds
    while segments.segment_files(folder) and time.monotonic() < until:
        time.sleep(0.05)


def waiting(folder: Path) -> int:
    """Bytes of all segments in the folder."""
    total = 0
    for _, path in segments.segment_files(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def say_full(folder: Path, instance: str, dropped: int) -> None:
    """Have the next who collects know how many requests found no room until now."""
    with contextlib.suppress(OSError):
        (folder / f"{instance}{_FULL}").write_text(str(dropped))


def _full(folder: Path) -> int:
    total = 0
    for path in folder.glob(f"*{_FULL}"):
        with contextlib.suppress(OSError, ValueError):
            total += int(path.read_text())
    return total


def _have_finished(folder: Path, server: int, finish_s: float) -> None:
    """Return when the segments that were being written are finished, or it takes too long."""
    writing = {path for _, path in segments.segment_files(folder) if path.suffix == ".open"}
    if not _ask(server):
        return
    if not writing:
        time.sleep(_QUEUED_S)  # what was answered a moment ago is in no file yet
    until = time.monotonic() + finish_s
    while any(path.exists() for path in writing) and time.monotonic() < until:
        time.sleep(0.02)


def _ask(server: int) -> bool:
    """Have a model server close its segments; False if that process is none."""
    try:
        if b"treadle.operate" not in Path(f"/proc/{server}/cmdline").read_bytes():
            return False
        os.kill(server, signal.SIGUSR1)
    except OSError:
        return False
    return True
