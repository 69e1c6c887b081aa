"""Server processes that end: by signals, after a swap, with their supervisor; no request is lost."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.support.echo import echo

from treadle.operate.http.listener import bind

ROOT = Path(__file__).parents[3]
FRONTS = pytest.mark.parametrize("front", ["own", "uvicorn"])


class Process:
    """A server process that says what happens to it."""

    def __init__(
        self, listener: socket.socket, front: str, *arguments: str, give: int = -1
    ) -> None:
        given = [listener.fileno(), *([give] if give >= 0 else [])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.echo_server", str(given[0]), front, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=given, cwd=ROOT, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        self.wait_for("started")

    def wait_for(self, word: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.startswith(word):
                return
        raise AssertionError((self.said, self.process.stderr and self.process.stderr.read()))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code of a server that ended by itself."""
        out, errors = self.process.communicate(timeout=20)
        self.said += out.splitlines()
        assert "Traceback" not in errors, errors
        return self.process.returncode


@contextmanager
def server(listener: socket.socket, front: str = "own", *arguments: str, give: int = -1) -> Iterator[Process]:  # fmt: skip
    made = Process(listener, front, *arguments, give=give)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.communicate()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(bind("127.0.0.1", 0)) as bound:
        bound.listen(1024)
        yield bound


class Client(Thread):
    """Keeps its connection and never tries again: a lost request is a lost request."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self.port, self.number, self.enough = port, number, Event()
        self.good, self.failed, self.reconnected = 0, [], 0  # type: int, list[str], int

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.enough.is_set():
            body = f"{self.number} {self.good}".encode()
            path = ("/a", "/late", "/slow")[self.good % 50 % 3 if self.good % 50 < 3 else 0]
            try:
                connection.request("POST", path, body)
                answer = connection.getresponse()
                text = answer.read()
                assert (answer.status, text) == (200, echo("POST", path, body=body))
                if answer.headers.get("Connection") == "close":
                    self.reconnected += 1
                self.good += 1
            except Exception as error:
                self.failed.append(repr(error))
                connection.close()
            time.sleep(0.001)
        connection.close()


@FRONTS
def test_clients_that_never_try_again_lose_nothing_through_swaps(
    listener: socket.socket, front: str
) -> None:
    clients = [Client(listener.getsockname()[1], number) for number in range(8)]
    with server(listener, front) as first, server(listener, front) as second:
        for client in clients:
            client.start()
        time.sleep(0.3)
        first.signal(signal.SIGUSR2)
        first.wait_for("drained")
        assert first.ended() == 0
        with server(listener, front) as third:
            time.sleep(0.2)
            second.signal(signal.SIGUSR2)
            assert second.ended() == 0
            time.sleep(0.2)
            for client in clients:
                client.enough.set()
            for client in clients:
                client.join()
            third.signal(signal.SIGTERM)
            assert third.ended() == 0
    assert [client.failed for client in clients] == [[]] * 8
    assert sum(client.good for client in clients) > 100
    assert sum(client.reconnected for client in clients) >= 8


@pytest.mark.slow
@FRONTS
def test_of_ten_thousand_requests_none_is_lost_through_many_swaps(
    listener: socket.socket, front: str
) -> None:
    clients = [Client(listener.getsockname()[1], number) for number in range(8)]
    present = Process(listener, front)
    try:
        for client in clients:
            client.start()
        while sum(client.good for client in clients) < 10_000:
            following = Process(listener, front)
            present.signal(signal.SIGUSR2)
            assert present.ended() == 0
            present = following
        for client in clients:
            client.enough.set()
        for client in clients:
            client.join()
    finally:
        present.process.kill()
        present.process.communicate()
    assert [client.failed for client in clients] == [[]] * 8


@FRONTS
def test_32_what_is_in_flight_at_the_end_is_answered(listener: socket.socket, front: str) -> None:
    with server(listener, front, "--stop", "0") as only:
        connection = http.client.HTTPConnection(*listener.getsockname()[:2], timeout=10)
        connection.request("GET", "/slow")
        time.sleep(0.1)
        only.signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert answer.read() == echo("GET", "/slow")
        assert only.ended() == 0
        connection.close()


@FRONTS
def test_an_idle_client_finds_somebody_while_the_server_lingers(
    listener: socket.socket, front: str
) -> None:
    with server(listener, front, "--swap", "20") as only:
        connection = http.client.HTTPConnection(*listener.getsockname()[:2], timeout=10)
        connection.request("GET", "/a")
        assert connection.getresponse().read() == echo("GET", "/a")
        only.signal(signal.SIGUSR2)
        only.wait_for("drained")
        connection.request("GET", "/a")
        answer = connection.getresponse()
        assert answer.read() == echo("GET", "/a") and answer.headers["Connection"] == "close"
        assert only.ended() == 0  # nobody is there any more: the rest of the 20 s is not waited for


@FRONTS
def test_a_stop_shortens_the_lingering_of_a_swap(listener: socket.socket, front: str) -> None:
    with server(listener, front, "--swap", "60", "--stop", "0") as only:
        with socket.create_connection(listener.getsockname()) as idle:
            idle.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000)
            only.signal(signal.SIGUSR2)
            only.wait_for("drained")
            only.signal(signal.SIGTERM)
            assert only.ended() == 0


@FRONTS
def test_what_never_ends_is_cut_off_after_the_grace(listener: socket.socket, front: str) -> None:
    with server(listener, front, "--stop", "0", "--grace", "0.2") as only:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.1)
            only.signal(signal.SIGTERM)
            assert only.ended() == 0


def test_it_ends_with_its_supervisor(listener: socket.socket) -> None:
    reader, writer = os.pipe()
    with server(listener, "own", "--lifeline", str(reader), give=reader) as only:
        os.close(reader)
        os.write(writer, b"still here")
        only.wait_for("beat")
        os.close(writer)
        assert only.ended() == 0


def test_signals_flush_and_the_loop_shows_that_it_turns(listener: socket.socket) -> None:
    with server(listener) as only:
        only.signal(signal.SIGUSR1)
        only.wait_for("flushed")
        only.wait_for("beat")
        only.signal(signal.SIGINT)
        assert only.ended() == 0
        assert only.said[-1] == "ended False"  # uvicorn was not imported


def test_two_workers_on_one_socket_have_about_as_many_connections(
    listener: socket.socket, tmp_path: Path
) -> None:
    counts = os.open(tmp_path / "counts", os.O_RDWR | os.O_CREAT)
    os.truncate(counts, 16)
    workers = [("--worker", str(counts), str(number)) for number in (0, 1)]
    with (
        server(listener, "own", *workers[0], give=counts) as one,
        server(listener, "own", *workers[1], give=counts) as two,
    ):
        before = [descriptors(one), descriptors(two)]
        clients = []
        for _ in range(60):
            clients.append(socket.create_connection(listener.getsockname()))
            clients[-1].sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert clients[-1].recv(1000)
        gained = [descriptors(one) - before[0], descriptors(two) - before[1]]
        assert sum(gained) >= 60 and min(gained) >= 20, gained
        for client in clients:
            client.close()
        for process in (one, two):
            process.signal(signal.SIGTERM)
            assert process.ended() == 0
    os.close(counts)


def descriptors(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.process.pid}/fd"))
