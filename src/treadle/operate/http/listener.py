"""Accepting connections: on a socket that several workers share, with TLS where it is wanted.

Each readiness of the socket accepts one connection. An event loop left to itself accepts until the
backlog is empty, so that the worker that woke first gets all clients of a burst, and keeps them for
as long as they keep their connections. Where clients come one by one, the same worker would still be
the first each time (measured: 60 of 60), so a worker that has more connections than another one lets
the others go first, for YIELD_S.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from treadle.base.errors import UsageError
from treadle.operate.limits import Limits

_log = logging.getLogger("treadle.http")

BACKLOG: Final = 1024
_FULL_S: Final = 0.05
"""How often a full server looks whether a connection has ended."""
YIELD_S: Final = 0.002
"""How long a worker with more connections leaves a new one to the others; then it takes it itself."""
_EXHAUSTED_S: Final = 1.0
"""How long nothing is accepted when the machine has no descriptor or memory left."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TLS_CLOSE_S: Final = 5.0
"""How long the other side may take to say goodbye."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an IPv4 or IPv6 address or a name; port 0: any free one.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="choose another --port (0 takes any free one)",
        ) from None
    return listener


def bind_path(path: Path) -> socket.socket:
    """A Unix socket at a path; one that a killed server left there is replaced.

    Raises:
        UsageError: it cannot be had.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen at {path}: {error.strerror}") from None
    return listener


def inherited(descriptor: int) -> socket.socket:
    """The listening socket that the process was started with.

    Raises:
        UsageError: the descriptor is none.
    """
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"descriptor {descriptor} is no socket: {error.strerror}") from None


class Certificates:
    """A certificate and its key, read again when their files change."""

    def __init__(
        self,
        certificate: str,
        key: str | None = None,
        *,
        protocols: tuple[str, ...] = ("http/1.1",),
    ) -> None:
        """`certificate` is a PEM file with the chain; the key may be in the same file.

        `protocols` are what is spoken behind it, in ALPN's words.

        Raises:
            UsageError: they cannot be used.
        """
        self._certificate, self._key, self._protocols = certificate, key, protocols
        self._seen = self._look()
        try:
            self._context = self._load()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot use the certificate {certificate}: {_why(error)}",
                hint="give PEM files: the certificate with its chain, and its unencrypted key",
            ) from None

    def context(self) -> ssl.SSLContext:
        """What a new connection is to use; a broken new certificate leaves the old one."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = self._load()
            except (OSError, ValueError) as error:
                _log.error("the changed certificate is not used: %s", _why(error))
            else:
                _log.info("the certificate was read again")
        return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Changes when a file is written, replaced or (as Kubernetes does) linked elsewhere."""
        return tuple(_mark(path) for path in (self._certificate, self._key) if path is not None)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(self._protocols)
        # An encrypted key must not make the server ask for its password on the terminal.
        context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        return context


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _why(error: Exception) -> str:
    """Without the path, which the log has already and a reply must not have."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class Listener:
    """Accepts on one socket and gives each connection to a new protocol."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        *,
        count: Callable[[], int],
        limits: Limits,
        tls: Certificates | None = None,
        crowded: Callable[[int], bool] | None = None,
    ) -> None:
        """`count` says how many connections are open.

        `crowded` is told this number before each accept, so that other workers may know it, and says
        whether one of them has fewer.
        """
        self._socket, self._protocol = listener, protocol
        self._count, self._limits, self._tls = count, limits, tls
        self._crowded, self._yielded = crowded, False
        self._greeting: set[asyncio.Task[None]] = set()
        """Connections that are accepted and not yet with their protocol."""
        self._pause: asyncio.TimerHandle | None = None
        self._open = False

    def open(self) -> None:
        """Begin to accept."""
        listener = self._socket
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._open = True
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept what waits already, then no more; other processes may go on with the socket."""
        if not self._open:
            return
        self._crowded = None
        for _ in range(BACKLOG):
            if not self._accept():
                break
        self._open = False
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._socket.close()

    @property
    def greeting(self) -> int:
        """How many connections are accepted and not yet counted."""
        return len(self._greeting)

    def _accept(self) -> bool:
        """One connection; whether there was one."""
        present = self._count() + len(self._greeting)
        if present >= self._limits.max_connections:
            self._rest(_FULL_S)
            return False
        if self._crowded is not None and self._crowded(present) and not self._yielded:
            self._yielded = True
            self._rest(YIELD_S)
            return False
        self._yielded = False
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client left
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                _log.warning("cannot accept a connection: %s", error.strerror)
                return False
            _log.error("cannot accept connections: %s; trying again in %g s",
                       error.strerror, _EXHAUSTED_S)  # fmt: skip
            self._rest(_EXHAUSTED_S)
            return False
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(self._greet(connection))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)
        return True

    async def _greet(self, connection: socket.socket) -> None:
        """Hand a connection on, after the handshake where there is TLS."""
        loop = asyncio.get_running_loop()
        try:
            if self._tls is None:
                await loop.connect_accepted_socket(self._protocol, connection)
            else:
                await loop.connect_accepted_socket(
                    self._protocol, connection, ssl=self._tls.context(),
                    ssl_handshake_timeout=self._limits.head_timeout_s,
                    ssl_shutdown_timeout=_TLS_CLOSE_S,
                )  # fmt: skip
        except OSError:  # a port scan, a plain request, a client that left
            connection.close()

    def _rest(self, seconds: float) -> None:
        """Accept nothing for a while: clients wait in the backlog, or go to another worker."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._pause = loop.call_later(seconds, self._again)

    def _again(self) -> None:
        self._pause = None
        if self._open:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)
