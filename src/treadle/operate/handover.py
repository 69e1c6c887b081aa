"""One listening socket for servers that come and go in containers of their own.

A process that only holds the socket hands it, the very descriptor, to each server that asks on a
Unix socket in a shared folder. So two versions accept from one queue while they are swapped, and no
connection is lost, as with a supervisor on one machine; and a server needs no network of its own.
The connection stays open: when it ends, the holder is gone and with it the address that clients
know, so the server ends too, to be started again and to ask the next holder.

Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path

from treadle.base.errors import Unreachable, UsageError
from treadle.operate.http.listener import BACKLOG, bind

_log = logging.getLogger("treadle.handover")
_ASK_S = 30.0
"""How long a server waits for its holder: both may be starting after a reboot."""


def hold(host: str, port: int, path: Path) -> None:
    """Listen on an address, and hand the socket out at `path` until a signal ends it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    listener = bind(host, port)
    listener.listen(BACKLOG)
    path.unlink(missing_ok=True)  # of a holder that was killed
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asked.bind(str(path))
    os.chmod(path, 0o600)
    asked.listen(16)
    asked.settimeout(0.2)
    _log.info("holding %s:%d for the servers that ask", *listener.getsockname()[:2])
    kept: list[socket.socket] = []
    while not ended.is_set():
        try:
            server, _ = asked.accept()
        except TimeoutError:
            kept = [one for one in kept if _open(one)]
            continue
        with contextlib.suppress(OSError):
            socket.send_fds(server, [json.dumps({"listener": 1}).encode()], [listener.fileno()])
            kept.append(server)
    path.unlink(missing_ok=True)


def _open(server: socket.socket) -> bool:
    try:
        server.setblocking(False)
        still = server.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        still = False
    if not still:
        server.close()
    return still


def take(path: Path, *, wait_s: float = _ASK_S) -> socket.socket:
    """The socket that a holder hands out at `path`; when the holder ends, this process is told to.

    Unreachable if nobody hands one out in time.
    """
    until = time.monotonic() + wait_s
    while True:
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            holder.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(holder, 1024, 4)
        except OSError as error:
            holder.close()
            if time.monotonic() > until:
                raise Unreachable(
                    f"nobody hands out a listening socket at {path}: {error.strerror}",
                    hint="start `python -m treadle.operate hold` first",
                ) from None
            time.sleep(0.1)
            continue
        if len(descriptors) != 1:
            holder.close()
            raise UsageError(f"{path} hands out {len(descriptors)} sockets instead of one")
        threading.Thread(target=_watch, args=(holder,), daemon=True, name="holder").start()
        return socket.socket(fileno=descriptors[0])


def _watch(holder: socket.socket) -> None:
    """End this process in order when the holder has ended."""
    holder.settimeout(None)
    with contextlib.suppress(OSError):
        while holder.recv(1):
            pass
    _log.warning("the holder of the listening socket has ended: so does this server")
    os.kill(os.getpid(), signal.SIGTERM)
