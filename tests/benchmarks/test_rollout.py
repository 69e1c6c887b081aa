"""The clients of roll-outs find what is lost, and only that; others' manifests are what they are said to be."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.keep_alive_client import Clients

from benchmarks import rollout


class Server(http.server.BaseHTTPRequestHandler):
    """Answers; every fifth request as the test wants it."""

    protocol_version = "HTTP/1.1"
    how = ""
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Server.count += 1
        fifth = Server.count % 5 == 0
        if fifth and Server.how == "reset":
            self.close_connection = True
            return
        self.send_response(503 if fifth and Server.how == "busy" else 200)
        self.send_header("Content-Length", "2")
        self.send_header("X-Model-Version", "1")
        if fifth and Server.how == "drain":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")
        if fifth and Server.how == "idle":  # closed without a word, as by a server that ends
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server(how: str) -> Iterator[int]:
    Server.how, Server.count = how, 0
    held = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=held.serve_forever)
    thread.start()
    yield held.server_address[1]
    held.shutdown()
    thread.join()
    held.server_close()


def ask(port: int) -> dict:
    return Clients("127.0.0.1", port, 1, 100).run(0.6, "")


@pytest.mark.parametrize(("how", "kind"), [("reset", "reset"), ("idle", "reset"), ("busy", "answer 503")])  # fmt: skip
def test_what_is_lost_is_counted_by_its_kind_and_not_asked_again(how: str, kind: str) -> None:
    with server(how) as port:
        told = ask(port)
    assert set(told["failed"]) == {kind}
    # One of five fails; of a connection that was closed in silence the next one does as well.
    asked = told["answered"] + told["failed"][kind]
    assert abs(told["failed"][kind] - asked / (6 if how == "idle" else 5)) <= 2


def test_connection_that_was_told_to_close_loses_nothing() -> None:
    with server("drain") as port:
        told = ask(port)
    assert told["failed"] == {}
    assert told["told_to_close"] == told["answered"] // 5 > 0
    assert told["versions"] == {"1": told["answered"]}


def test_nobody_there_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = ask(free.getsockname()[1])
    assert told["answered"] == 0
    assert set(told["failed"]) == {"refused"}


@pytest.mark.parametrize("peer", rollout.PEERS, ids=[one.name for one in rollout.PEERS])
def test_manifests_of_others_are_valid(peer: rollout.Peer) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in peer.objects("others", "registry.example.com/x@sha256:" + "a" * 64, "1", 3):
        validate.validate(one, "1.34", strict=True)


def test_figure_that_misses_its_target_is_marked() -> None:
    row = rollout.Row("a thing", 1.3, "", values=[1.0, 1.5, 1.4])
    assert row.text() == "| a thing | 1.40 [1.00–1.50] | ≤ 1.3 | **no** |  |"
    lost = rollout.Lost("ours", "drain", [{"answered": 10_500, "failed": {"reset": 2}, "slowest_s": 0.01}], "0 of 10,000")  # fmt: skip
    assert lost.text() == "| ours | drain | 10,500 | 2 | 2 reset | 10 | 0 of 10,000 | **no** |"
