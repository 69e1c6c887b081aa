"""Accepting: one at a time, as many as allowed, with TLS, when the machine is short of descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.echo import Echo, echo
from tests.support.wire import read_answers, serving

from treadle.base.errors import UsageError
from treadle.operate.http import listener
from treadle.operate.http.connections import Connections
from treadle.operate.http.listener import Certificates, Listener, bind, inherited
from treadle.operate.limits import Limits

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=10)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(GET)
    return answer(connection)


def answer(connection: socket.socket) -> bytes:
    got = b""
    while not (found := read_answers(got)[0]):
        data = connection.recv(10_000)
        assert data
        got += data
    return found[0].body


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- accepting ----


def test_each_readiness_accepts_one_connection() -> None:
    async def play() -> None:
        front = Connections(Echo(), Limits())
        bound = bind("127.0.0.1", 0)
        accepting = Listener(bound, front, count=front.count, limits=Limits())
        accepting.open()
        port = bound.getsockname()[1]
        clients = [connect(port) for _ in range(10)]
        assert accepting._accept() and accepting.greeting == 1
        for _ in range(200):
            await asyncio.sleep(0.001)
            if front.count() == 10:
                break
        assert front.count() == 10
        accepting.close()
        front.abort()
        for client in clients:
            client.close()

    asyncio.run(play())


def test_when_full_the_next_client_waits_until_one_leaves() -> None:
    with serving(Echo(), Limits(max_connections=2)) as (port, front):
        one, two, three = (connect(port) for _ in range(3))
        with closing(two), closing(three):
            assert ask(one) == ask(two) == echo("GET", "/a")
            three.sendall(GET)
            three.settimeout(0.2)
            with pytest.raises(TimeoutError):
                three.recv(100)
            assert front.count() == 2
            one.close()
            three.settimeout(10)
            assert three.recv(100).startswith(b"HTTP/1.1 200 ")


class Exhausted(socket.socket):
    """A socket on a machine that has no descriptors left for a while."""

    failures = [errno.EMFILE, errno.ENFILE]

    def accept(self) -> Any:
        if self.failures:
            raise OSError(self.failures.pop(), "none left")
        return super().accept()


def test_without_descriptors_it_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "_EXHAUSTED_S", 0.05)

    def exhausted(host: str, port: int) -> socket.socket:
        return Exhausted(fileno=bind(host, port).detach())

    monkeypatch.setattr("tests.support.wire.bind", exhausted)
    with serving(Echo()) as (port, _), closing(connect(port)) as connection:
        assert ask(connection) == echo("GET", "/a")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_what_waits_when_accepting_ends_is_still_served() -> None:
    async def play() -> None:
        front = Connections(Echo(), Limits())
        bound = bind("127.0.0.1", 0)
        accepting = Listener(bound, front, count=front.count, limits=Limits())
        accepting.open()
        clients = [connect(bound.getsockname()[1]) for _ in range(5)]
        accepting.close()
        assert accepting.greeting == 5
        for client in clients:
            loop = asyncio.get_running_loop()
            client.setblocking(False)
            await loop.sock_sendall(client, GET)
            assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200 ")
            client.close()
        front.abort()

    asyncio.run(play())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_listens_on_either_internet(host: str) -> None:
    try:
        with closing(bind(host, 0)) as bound:
            family = bound.family
    except UsageError:
        pytest.skip("no such address on this machine")
    assert family == (socket.AF_INET6 if ":" in host else family)
    with serving(Echo(), host=host) as (port, _), closing(connect(port, host)) as connection:
        assert ask(connection) == echo("GET", "/a")


def test_an_answer_does_not_wait_for_more_to_send() -> None:
    with serving(Echo()) as (port, front), closing(connect(port)) as connection:
        ask(connection)
        inside = next(iter(front.all))._transport.get_extra_info("socket")
        assert inside.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_cannot_be_listened_on_is_named() -> None:
    with closing(bind("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen on 127"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen on no-such-host"):
        bind("no-such-host.invalid", 0)
    with pytest.raises(UsageError, match="is no socket"):
        inherited(os.open("/dev/null", os.O_RDONLY))


# ---- TLS ----


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def secure(port: int, **limits: Any) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in limits.items():
        setattr(context, name, value)
    return context.wrap_socket(connect(port))


def subject(connection: ssl.SSLSocket) -> bytes:
    found = connection.getpeercert(binary_form=True)
    assert found
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "first")


@pytest.mark.parametrize("front", ["own", "uvicorn"])
def test_requests_over_tls(pair: tuple[Path, Path], front: str) -> None:
    tls = Certificates(str(pair[0]), str(pair[1]))
    with serving(Echo(), tls=tls, front=front) as (port, _):
        with closing(secure(port)) as connection:
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
            assert connection.selected_alpn_protocol() == "http/1.1"
            for _ in range(2):
                assert ask(connection) == echo("GET", "/a")
            body = b"z" * 300_000
            connection.sendall(
                b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert answer(connection) == echo("POST", "/a", body=body)


def test_an_early_error_is_read_over_tls_too(pair: tuple[Path, Path]) -> None:
    tls = Certificates(str(pair[0]), str(pair[1]))
    with serving(Echo(), tls=tls) as (port, _), closing(secure(port)) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\n\r\n" + b"x" * 10_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_old_tls_is_refused(pair: tuple[Path, Path]) -> None:
    assert Certificates(*map(str, pair)).context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_who_speaks_no_tls_disturbs_nobody(pair: tuple[Path, Path]) -> None:
    tls = Certificates(*map(str, pair))
    with serving(Echo(), tls=tls) as (port, front):
        with closing(connect(port)) as plain:
            plain.sendall(GET)
            assert not plain.recv(1000).startswith(b"HTTP")
        with closing(secure(port)) as connection:
            assert ask(connection) == echo("GET", "/a")
        until(lambda: front.count() == 0)


def test_a_changed_certificate_is_used_by_new_connections(
    pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Certificates(*map(str, pair))
    with serving(Echo(), tls=tls) as (port, _):
        before = secure(port)
        cert, key = certificate(tmp_path, "second")
        os.replace(key, pair[1])
        with closing(secure(port)) as between:  # half of the change: the old pair goes on
            assert subject(between) == subject(before)
        assert "the changed certificate is not used" in caplog.text
        os.replace(cert, pair[0])
        with closing(secure(port)) as after:
            assert subject(after) != subject(before)
        pair[0].write_text("nonsense")
        with closing(secure(port)) as still:
            assert subject(still) != subject(before)
        with closing(before):
            assert ask(before) == echo("GET", "/a")


def test_a_certificate_that_cannot_be_used_is_named(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot use the certificate"):
        Certificates(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="cannot use the certificate"):
        Certificates(str(pair[0]))
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", str(pair[1]),
                    "-out", str(locked)], check=True, capture_output=True)  # fmt: skip
    with pytest.raises(UsageError, match="cannot use the certificate"):
        Certificates(str(pair[0]), str(locked))
