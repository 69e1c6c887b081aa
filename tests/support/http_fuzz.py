"""Any bytes, in any pieces, against the protocol: what has to hold whatever comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tests.support.echo import Echo, echo
from tests.support.http_cases import CASES, LIMITS
from tests.support.wire import Answer, Wire, read_answers

from treadle.operate.http.connections import Connections
from treadle.operate.request import Head


async def converse(pieces: Sequence[bytes]) -> tuple[Wire, Echo]:
    """A connection that gets these bytes; every answer that can come has come."""
    service = Echo()
    connections = Connections(service, LIMITS)
    wire, connection = Wire(), connections()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(4):
        await asyncio.sleep(0)
    if not wire.closed:
        connection.eof_received()
    connection.connection_lost(None)
    return wire, service


def check(pieces: Sequence[bytes]) -> list[Answer]:
    """Talk, and hold the outcome to what always has to be true.

    Nothing is raised; what is written are whole answers, at most one to a request; each 200 is the
    answer to the request at its place; nothing follows an answer that closes.
    """
    wire, service = asyncio.run(converse(pieces))
    heads = [head for head, _ in service.requests]
    answers, left = read_answers(
        bytes(wire.written), [head.method if isinstance(head, Head) else "" for head in heads]
    )
    assert not left, left
    assert len(answers) <= len(heads)
    for answer, (head, body) in zip(answers, service.requests, strict=False):
        if answer.status == 200:
            assert isinstance(head, Head) and isinstance(body, bytes)
            if head.method != "HEAD" and head.path != "/big":
                assert answer.body == echo(head.method, head.path, head.query, body)
        elif not isinstance(head, Head):
            assert answer.status >= 400 and answer.headers["connection"] == "close"
    assert all(answer.headers.get("connection") != "close" for answer in answers[:-1])
    if answers and answers[-1].headers.get("connection") == "close":
        assert wire.ended
    return answers


def mutate(rng: random.Random, data: bytes) -> bytes:
    """The same bytes with a few mistakes."""
    changed = bytearray(data)
    for _ in range(rng.randrange(4)):
        where = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[where:where] = rng.choice(_TOKENS)
            case 1:
                del changed[where : where + rng.randrange(1, 8)]
            case 2:
                changed[where : where + 1] = bytes([rng.randrange(256)])
            case 3:
                changed[where : where + 2] = rng.choice(_TOKENS)
            case _:
                changed[where:where] = changed[where : where + rng.randrange(60)]
    return bytes(changed)


_TOKENS = (b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"0", b"5", b"\r\n\r\n", b",", b";",
           b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0", b"\xff",
           b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"0\r\n\r\n")  # fmt: skip


def random_pieces(rng: random.Random) -> list[bytes]:
    """Some requests of the table in a row, with mistakes, cut somewhere."""
    raw = b"".join(mutate(rng, rng.choice(CASES).raw) for _ in range(rng.randrange(1, 5)))
    return cut(raw, [rng.randrange(len(raw) + 1) for _ in range(rng.randrange(6))])


def cut(raw: bytes, bounds: Sequence[int]) -> list[bytes]:
    """The bytes in pieces."""
    edges = sorted({0, len(raw), *(bound % (len(raw) + 1) for bound in bounds)})
    return [raw[a:b] for a, b in zip(edges, edges[1:], strict=False)]
