"""`python -m treadle.operate health`: does the server beside this process say that it is ready?

For containers' health checks, which have neither a shell nor curl. Standard library alone, and
little of it: it runs every few seconds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

_ASK_S = 3.0
_REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n"


def check(environ: Mapping[str, str], *, wait_s: float = 0.0) -> int:
    """0 if it is ready (within `wait_s` seconds), else 1; the reason is printed."""
    until = time.monotonic() + wait_s
    while True:
        said = _ask(environ)
        if said == "200":
            return 0
        if time.monotonic() >= until:
            print(f"not ready: {said}")
            return 1
        time.sleep(0.05)


def _ask(environ: Mapping[str, str]) -> str:
    """The status code, or what is wrong."""
    probe = environ.get("TREADLE_PROBE")
    address: tuple[str, int] | str = probe or (
        "127.0.0.1",
        int(environ.get("TREADLE_PORT") or 8080),
    )
    family = socket.AF_UNIX if probe else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ASK_S)
            connection.connect(address)
            connection.sendall(_REQUEST)
            head = connection.recv(64)
    except OSError as error:
        return str(error.strerror or error)
    parts = head.split(b" ", 2)
    return parts[1].decode("ascii", "replace") if len(parts) > 1 else "no answer"
