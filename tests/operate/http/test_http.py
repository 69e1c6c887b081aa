"""Our HTTP/1.1 over real sockets: what a mature server does beyond single good or bad requests."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from tests.support.echo import Echo, echo
from tests.support.wire import Answer, Wire, read_answers, serving, talk

from treadle.operate.http import head
from treadle.operate.http.connection import MOST_PIPELINED
from treadle.operate.http.connections import Connections
from treadle.operate.limits import Limits
from treadle.operate.request import Head, Reply, Respond

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
QUICK = Limits(head_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=0.3, max_body_bytes=1_000_000)


def connect(port: int) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", port), timeout=10))


def receive(connection: socket.socket, count: int = 1) -> list[Answer]:
    """So many answers, and nothing behind them."""
    answers: list[Answer] = []
    left = b""
    while len(answers) < count:
        data = connection.recv(1 << 20)
        assert data, left
        more, left = read_answers(left + data)
        answers += more
    assert not left
    return answers


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def service() -> Echo:
    return Echo()


@pytest.fixture
def port(service: Echo) -> Iterator[int]:
    with serving(service, Limits(max_body_bytes=1_000_000)) as (port, _):
        yield port


@pytest.fixture
def quick(service: Echo) -> Iterator[int]:
    with serving(service, QUICK) as (port, _):
        yield port


# ---- Expect: 100-continue (RFC 9110, 10.1.1) ----

EXPECT = b"Expect: 100-continue\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def told_to_go_on(connection: socket.socket) -> bytes:
    """All up to the word to go on."""
    got = b""
    while not got.endswith(CONTINUE):
        more = connection.recv(1000)
        assert more, got
        got += more
    return got


def test_a_client_that_asks_first_is_told_to_go_on(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(POST % (EXPECT, 5))
        assert connection.recv(100) == CONTINUE
        connection.sendall(b"hello")
        assert receive(connection)[0].body == echo("POST", "/a", body=b"hello")


def test_a_client_that_asks_first_is_refused_before_its_body(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(
            b"POST /refused HTTP/1.1\r\nHost: x\r\n" + EXPECT + b"Content-Length: 5\r\n\r\n"
        )
        answer = receive(connection)[0]
        assert answer.status == 401 and answer.headers["connection"] == "close"
        assert connection.recv(100) == b""
    with connect(port) as connection:
        connection.sendall(POST % (EXPECT, 2_000_000))
        assert receive(connection)[0].status == 413


def test_the_answer_before_comes_before_the_word_to_go_on(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/slow" + POST % (EXPECT, 5))
        got = told_to_go_on(connection)
        assert got.startswith(b"HTTP/1.1 200 OK") and echo("GET", "/slow") in got
        connection.sendall(b"hello")
        assert receive(connection)[0].body == echo("POST", "/a", body=b"hello")


# ---- time ----


def test_a_head_that_does_not_end_is_408(quick: int) -> None:
    with connect(quick) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\nHost")
        answer = receive(connection)[0]
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert connection.recv(1) == b""


def test_a_body_that_does_not_end_is_408(quick: int, service: Echo) -> None:
    for begun in (POST % (b"", 5) + b"hel",
                  b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"):  # fmt: skip
        with connect(quick) as connection:
            connection.sendall(begun)
            assert receive(connection)[0].status == 408
            assert connection.recv(1) == b""
    assert not service.answered


def test_a_head_that_trickles_is_408(quick: int) -> None:
    with connect(quick) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\n")
        while not select.select([connection], [], [], 0.01)[0]:
            connection.sendall(b"X: y\r\n")
        assert receive(connection)[0].status == 408


def test_a_body_that_is_waited_for_on_our_account_is_not_late(service: Echo) -> None:
    service.slow_s = 1.8  # the clock is looked at twice a second
    with serving(service, Limits(body_timeout_s=0.6)) as (port, _), connect(port) as connection:
        connection.sendall(GET % b"/slow" + POST % (EXPECT, 5))
        told_to_go_on(connection)
        connection.sendall(b"hello")
        assert receive(connection)[0].status == 200


def test_a_refused_body_that_does_not_come_ends_the_connection(quick: int) -> None:
    with connect(quick) as connection:
        connection.sendall(b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        answer = receive(connection)[0]
        assert answer.status == 401 and "connection" not in answer.headers
        assert connection.recv(1) == b""


def test_a_refused_body_in_pieces_is_not_the_next_request(port: int, service: Echo) -> None:
    body = GET % b"/smuggled"
    with connect(port) as connection:
        connection.sendall(
            b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert receive(connection)[0].status == 401
        for piece in (body[:10], body[10:-1], body[-1:] + GET % b"/a"):
            connection.sendall(piece)
            time.sleep(0.02)
        assert receive(connection)[0].body == echo("GET", "/a")
    assert [h.path for h, _ in service.answered] == ["/a"]


def test_who_does_not_go_after_an_early_error_is_not_waited_for(
    quick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.operate.http.connection.LINGER_S", 0.1)
    with connect(quick) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert receive(connection)[0].status == 400
        with pytest.raises(OSError):
            for _ in range(500):
                connection.sendall(b"more")
                time.sleep(0.01)


def test_an_idle_connection_is_closed_without_a_word(quick: int) -> None:
    with connect(quick) as connection:
        assert connection.recv(1) == b""
    with connect(quick) as connection:
        connection.sendall(GET % b"/a")
        receive(connection)
        assert connection.recv(1) == b""


def test_a_slow_answer_is_not_idleness(service: Echo) -> None:
    with serving(service, Limits(keep_alive_s=0.05, head_timeout_s=0.05)) as (port, _):
        with connect(port) as connection:
            connection.sendall(GET % b"/slow")
            assert receive(connection)[0].body == echo("GET", "/slow")


def test_a_client_that_reads_no_answers_is_cut_off(service: Echo) -> None:
    with serving(service, QUICK) as (port, front):
        with connect(port) as connection:
            connection.sendall(GET % b"/big?30000000")
            until(lambda: front.count() == 1)
            until(lambda: front.count() == 0)


# ---- clients that leave ----


def test_a_client_that_resets_leaves_the_queue(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/never")
        until(lambda: len(service.answered) == 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: service.cancelled == ["/never"])


def test_a_client_that_closes_leaves_the_queue(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/never" * 2)
        until(lambda: len(service.answered) == 2)
    until(lambda: service.cancelled == ["/never"] * 2)


def test_a_client_that_only_stops_sending_gets_its_answers(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/slow" + GET % b"/late")
        connection.shutdown(socket.SHUT_WR)
        assert [a.body for a in receive(connection, 2)] == [echo("GET", "/slow"), echo("GET", "/late")]  # fmt: skip
        assert connection.recv(1) == b""


def test_half_a_request_and_no_more_is_no_request(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall(POST % (b"", 5) + b"hel")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert not service.answered


def test_who_is_refused_while_it_sends_reads_the_answer_instead_of_a_reset(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(POST % (b"", 20_000_000))
        sent = 0
        try:
            while sent < 20_000_000:
                sent += connection.send(b"x" * 100_000)
        except OSError:
            pytest.fail("the connection was reset")
        assert receive(connection)[0].status == 413
        assert connection.recv(1) == b""


# ---- pipelines and pressure ----


def test_answers_come_in_the_order_of_the_requests(port: int) -> None:
    paths = ["/slow", "/a", "/late", "/b", "/slow", "/c"]
    with connect(port) as connection:
        connection.sendall(b"".join(GET % path.encode() for path in paths))
        assert [a.body for a in receive(connection, 6)] == [echo("GET", path) for path in paths]


def test_the_requests_of_one_connection_that_are_served_at_once_are_bounded(
    port: int, service: Echo
) -> None:
    with connect(port) as connection:
        connection.sendall((GET % b"/slow") * 40 + GET % b"/last")
        until(lambda: len(service.answered) == MOST_PIPELINED)
        time.sleep(0.05)
        assert len(service.answered) == MOST_PIPELINED
        assert receive(connection, 41)[-1].body == echo("GET", "/last")


def test_a_client_that_does_not_read_is_not_read(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall((GET % b"/big?1000000") * 200)
        until(lambda: bool(service.answered))
        time.sleep(0.3)
        assert len(service.answered) < 30
        answers = receive(connection, 200)
        assert {len(answer.body) for answer in answers} == {1_000_000}


def test_a_paused_client_with_a_body_under_way_goes_on(port: int) -> None:
    with connect(port) as connection:
        body = b"y" * 900_000
        connection.sendall((GET % b"/big?3000000") + POST % (b"", len(body)))
        time.sleep(0.1)
        big = b""
        while len(big) < 3_000_000:
            big += connection.recv(1 << 20)
        connection.sendall(body)
        assert receive(connection)[0].body == echo("POST", "/a", body=body)


def test_a_connection_that_closes_answers_nothing_that_follows(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall(
            b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET % b"/b"
        )
        assert receive(connection)[0].headers["connection"] == "close"
        assert connection.recv(1) == b""
    assert [h.path for h, _ in service.answered] == ["/slow"]


def test_what_waits_behind_a_closing_answer_leaves_the_queue(port: int, service: Echo) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/late" + GET % b"/close" + GET % b"/never")
        assert [a.status for a in receive(connection, 2)] == [200, 200]
        assert connection.recv(1) == b""


# ---- answers ----


def test_every_answer_has_the_date_of_this_second(port: int) -> None:
    with connect(port) as connection:
        for path in (b"/a", b"/empty", b"/refused", b"/raise"):
            connection.sendall(GET % path)
            date = receive(connection)[0].headers["date"]
            assert date.endswith(" GMT")
            moment = email.utils.parsedate_to_datetime(date).timestamp()
            assert abs(moment - time.time()) < 5


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
def test_small_and_large_answers_are_whole(port: int, size: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(GET % b"/big?%d" % size)
            assert receive(connection)[0].body == b"b" * size


def test_HEAD_is_told_the_length_of_what_it_does_not_get(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"HEAD /big?70000 HTTP/1.1\r\nHost: x\r\n\r\n" + GET % b"/a")
        time.sleep(0.1)
        answers, left = read_answers(connection.recv(100_000), ["HEAD", "GET"])
        assert answers[0].headers["content-length"] == "70000" and answers[0].body == b""
        assert answers[1].body == echo("GET", "/a") and not left


def test_a_failing_service_tells_the_client_nothing(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET % b"/raise" + GET % b"/a")
        failed, good = receive(connection, 2)
        assert failed.status == 500 and b"secret" not in failed.body and good.status == 200


def test_http_1_0_is_told_that_the_connection_stays(port: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            assert receive(connection)[0].headers["connection"] == "keep-alive"


def test_the_service_sees_names_in_lower_case_and_repeated_headers_joined(
    port: int, service: Echo
) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\nHOST: x\r\nX-A: 1\r\nx-a:  2 \r\n\r\n")
        receive(connection)
    assert service.answered[0][0].headers == {b"host": b"x", b"x-a": b"1, 2"}


def test_32_a_draining_service_closes_with_its_last_answer(port: int, service: Echo) -> None:
    with connect(port) as one, connect(port) as three:
        for connection in (one, three):
            connection.sendall(GET % b"/a")
            assert "connection" not in receive(connection)[0].headers
        service.draining = True
        one.sendall(GET % b"/late")
        assert receive(one)[0].headers["connection"] == "close"
        assert one.recv(1) == b""
        three.sendall(GET % b"/slow" + GET % b"/a" + GET % b"/late")
        told = [answer.headers.get("connection") for answer in receive(three, 3)]
        assert told == [None, None, "close"]
        assert three.recv(1) == b""


class Twice(Echo):
    """Answers each request two times."""

    def answer(self, head: Head, body: bytes, respond: Respond) -> None:
        for _ in range(2):
            respond(Reply(200, echo(head.method, head.path, body=body), b"text/plain"))


def test_a_second_answer_to_a_request_is_dropped() -> None:
    wire = talk(Connections(Twice(), Limits()), [GET % b"/a" + GET % b"/b"])
    answers, _ = read_answers(bytes(wire.written))
    assert [answer.body for answer in answers] == [echo("GET", "/a"), echo("GET", "/b")]


def test_an_answer_is_one_write() -> None:
    wire = talk(Connections(Echo(), Limits()), [GET % b"/a", GET % b"/b", GET % b"/big?100000"])
    assert wire.writes == 3


@pytest.mark.parametrize(
    "broken", [b"X A: 1", b"Host: y", b"X: 1\r\n 2", b"Content-Length: x", b"Expect: y"]
)
def test_an_error_has_the_shape_that_belongs_to_its_path_and_method(broken: bytes) -> None:
    class Told(Echo):
        def error(self, status: int, message: str, head: Head | None = None) -> Reply:
            assert head is not None
            return Reply(status, f"{head.method} {head.path}".encode(), b"text/plain")

    for method in ("HEAD", "GET"):
        raw = f"{method} /v2/x HTTP/1.1\r\nHost: x\r\n".encode() + broken + b"\r\n\r\n"
        wire = talk(Connections(Told(), Limits()), [raw])
        assert bytes(wire.written).endswith(b"GET /v2/x" if method == "GET" else b"\r\n\r\n")


# ---- compressed bodies ----


def compressed(data: bytes) -> bytes:
    body = gzip.compress(data)
    return POST % (b"Content-Encoding: gzip\r\n", len(body)) + body


@pytest.mark.parametrize("size", [0, 10, 900_000])
def test_a_gzip_body_is_decompressed(port: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    with connect(port) as connection:
        connection.sendall(compressed(data[:size]) + GET % b"/a")
        first, second = receive(connection, 2)
        assert first.body == echo("POST", "/a", body=data[:size])
        assert second.body == echo("GET", "/a")


def test_a_large_gzip_body_is_decompressed_beside_the_loop_and_answered_in_order() -> None:
    data = b"0123456789" * 1_000_000
    with serving(Echo(), Limits()) as (port, _), connect(port) as connection:
        connection.sendall(compressed(data) + GET % b"/a")
        first, second = receive(connection, 2)
        assert first.body == echo("POST", "/a", body=data)
        assert second.body == echo("GET", "/a")


@pytest.mark.parametrize("most", [1_000_000, 3_000_000])
def test_a_bomb_is_413_and_the_connection_goes_on(most: int) -> None:
    with serving(Echo(), Limits(max_body_bytes=most)) as (port, _), connect(port) as connection:
        connection.sendall(compressed(b"\0" * 50_000_000) + GET % b"/a")
        assert [answer.status for answer in receive(connection, 2)] == [413, 200]


def test_a_large_body_that_is_broken_gzip_is_400() -> None:
    good = gzip.compress(random.Random(0).randbytes(3_000_000))
    body = good[:-8] + bytes(8)
    request = POST % (b"Content-Encoding: gzip\r\n", len(body)) + body
    with serving(Echo(), Limits()) as (port, _), connect(port) as connection:
        connection.sendall(request + GET % b"/a")
        assert [answer.status for answer in receive(connection, 2)] == [400, 200]


def test_who_leaves_while_its_body_is_decompressed_is_not_served(service: Echo) -> None:
    with serving(service, Limits()) as (port, front):
        with connect(port) as connection:
            connection.sendall(compressed(b"\0" * 50_000_000))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: front.count() == 0)
        with connect(port) as connection:
            connection.sendall(GET % b"/a")
            assert receive(connection)[0].status == 200
    assert len(service.answered) <= 2


def test_no_body_is_no_broken_body(port: int) -> None:
    with connect(port) as connection:
        for coding in (b"gzip", b"br"):
            connection.sendall(
                b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Encoding: " + coding + b"\r\n\r\n"
            )
            assert receive(connection)[0].status == 200


def test_an_unknown_coding_is_told_which_is_known(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(POST % (b"Content-Encoding: br\r\n", 5) + b"hello")
        answer = receive(connection)[0]
        assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip")


# ---- remembered heads ----


def test_an_equal_head_is_parsed_once_and_a_flood_of_others_does_not_push_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bytes] = []
    parse = head._parse

    def counted(block: bytes, limits: Limits) -> head.Parsed:
        parsed.append(block)
        return parse(block, limits)

    monkeypatch.setattr(head, "_parse", counted)
    service = Echo()
    connections = Connections(service, Limits())
    flood = [
        b"GET /%d HTTP/1.1\r\nHost: x\r\nAuthorization: %d\r\n\r\n" % (i, i) for i in range(3000)
    ]
    for i, other in enumerate(flood):
        talk(connections, [GET % b"/often", other] if i % 100 == 0 else [other])
    assert parsed.count((GET % b"/often")[:-2]) == 1
    assert len(connections.heads.known) <= 512
    assert len(connections.usual) <= 512
    assert [h.path for h, _ in service.answered if h.path != "/often"] == [f"/{i}" for i in range(3000)]  # fmt: skip


def test_a_head_made_for_one_request_is_not_kept() -> None:
    connections = Connections(Echo(), Limits())
    for i in range(100):
        talk(connections, [b"GET /a HTTP/1.1\r\nHost: x\r\ntraceparent: %d\r\n\r\n" % i])
    assert not connections.heads.known
    assert not connections.usual


def test_only_a_head_that_is_refused_is_asked_about_again() -> None:
    service = Echo()
    connections = Connections(service, Limits())
    for path in (b"/refused", b"/a") * 3:
        whole = (b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" % path) + b"hello"
        for cut in (len(whole), len(whole) - 2):  # the body at once, and in pieces
            wire = talk(connections, [whole[:cut], whole[cut:]] if whole[cut:] else [whole])
            (answer,), _ = read_answers(bytes(wire.written))
            assert answer.status == (401 if path == b"/refused" else 200)
    assert [path for path, _ in service.refusals].count("/refused") == 6
    assert [path for path, _ in service.refusals].count("/a") == 1
    assert [body for _, body in service.answered] == [b"hello"] * 6


def test_service_that_wants_to_be_asked_is_asked_each_time() -> None:
    service = Echo(remembered=False)
    connections = Connections(service, Limits())
    for _ in range(3):
        talk(connections, [GET % b"/a"])
    assert [path for path, _ in service.refusals] == ["/a"] * 3
    assert not connections.usual


def test_head_whose_body_is_too_long_or_coded_is_never_passed_over() -> None:
    connections = Connections(Echo(), Limits(max_body_bytes=4))
    for more, status in ((b"Content-Length: 5\r\n", 413), (b"Content-Length: 1\r\nContent-Encoding: br\r\n", 415)) * 2:  # fmt: skip
        wire = talk(connections, [b"POST /a HTTP/1.1\r\nHost: x\r\n" + more + b"\r\nhello"])
        assert read_answers(bytes(wire.written))[0][0].status == status
    assert not connections.usual


def test_a_broken_head_is_not_remembered_as_good() -> None:
    connections = Connections(Echo(), Limits())
    for _ in range(3):
        wire = talk(connections, [b"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"])
        assert read_answers(bytes(wire.written))[0][0].status == 400


# ---- what a transport tells ----


def test_pauses_end_when_both_reasons_are_over() -> None:
    async def play() -> None:
        service = Echo()
        connections = Connections(service, Limits())
        wire, connection = Wire(), connections()
        connection.connection_made(wire)
        connection.pause_writing()
        assert wire.paused
        connection.data_received(GET % b"/late" * 20)
        assert not service.answered
        connection.resume_writing()
        assert len(service.answered) == MOST_PIPELINED and wire.paused
        connection.pause_writing()
        for _ in range(3):
            await asyncio.sleep(0)
        assert wire.paused and len(service.answered) == MOST_PIPELINED
        connection.resume_writing()
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(service.answered) == 20 and not wire.paused

    asyncio.run(play())
