"""An object store of its own process, for tests: moto's S3 server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
_SERVER = "import sys; from moto.server import main; main(['-H', sys.argv[1], '-p', sys.argv[2]])"


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[str]:
    """Its endpoint, with an empty bucket `data`."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, host, str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    endpoint = f"http://{host}:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        reset(endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def reset(endpoint: str) -> None:
    """Nothing but an empty bucket `data`."""
    for path, method in (("moto-api/reset", "POST"), ("data", "PUT")):
        request = urllib.request.Request(f"{endpoint}/{path}", method=method)
        urllib.request.urlopen(request).close()
