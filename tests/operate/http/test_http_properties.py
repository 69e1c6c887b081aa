"""Random pipelines, cuts and mistakes: no crash, no answer too many, none to another request."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import Callable
from urllib.parse import unquote

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import http_fuzz
from tests.support.echo import echo
from tests.support.http_cases import CASES
from tests.support.http_fuzz import check, cut
from tests.support.wire import Answer

from treadle.operate.http.chunked import Chunks, TooLarge
from treadle.operate.http.head import Refused
from treadle.operate.http.inflate import NotGzip, gunzip
from treadle.operate.http.inflate import TooLarge as TooLong
from treadle.operate.request import Head

PATHS = st.sampled_from(["/a", "/late", "/b", "/c/d"])
BODIES = st.binary(max_size=60)


@st.composite
def requests(draw: Callable[..., object]) -> tuple[bytes, bytes]:
    """A good request, and what its answer says."""
    path, body = str(draw(PATHS)), bytes(draw(BODIES))  # type: ignore[arg-type]
    start = b"POST %b?q HTTP/1.1\r\nHost: x\r\n" % path.encode()
    lines = draw(st.sampled_from([b"", b"X-A: 1\r\n", b"traceparent: 7\r\n", b"Connection: a\r\n"]))
    assert isinstance(lines, bytes)
    framing = draw(st.sampled_from(["length", "chunks", "gzip"]))
    if framing == "chunks":
        sizes = draw(st.lists(st.integers(1, 20), max_size=4))
        parts, position = [], 0
        for size in [*sizes, len(body)]:  # type: ignore[misc]
            part = body[position : position + size]
            position += size
            if part:
                parts.append(b"%x\r\n%b\r\n" % (len(part), part))
        raw = start + lines + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"
    elif framing == "gzip":
        packed = zlib.compressobj(wbits=31)
        data = packed.compress(body) + packed.flush()
        raw = start + lines + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)  # fmt: skip
    else:
        raw = start + lines + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    return raw, echo("POST", path, "q", body)


CUTS = st.lists(st.integers(0, 5000), max_size=10)


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=12), CUTS)
def test_a_pipeline_is_answered_request_by_request(
    pipeline: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    raw = b"".join(request for request, _ in pipeline)
    assert [answer.body for answer in check(cut(raw, cuts))] == [told for _, told in pipeline]


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4), CUTS, st.randoms(use_true_random=False))
def test_mistakes_in_a_pipeline_desynchronise_nothing(
    pipeline: list[tuple[bytes, bytes]], cuts: list[int], rng: random.Random
) -> None:
    check(cut(http_fuzz.mutate(rng, b"".join(request for request, _ in pipeline)), cuts))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), CUTS)
def test_any_bytes_are_survived(raw: bytes, cuts: list[int]) -> None:
    check(cut(raw, cuts))


@pytest.mark.parametrize("seed", range(20))
def test_the_table_of_requests_with_mistakes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        check(http_fuzz.random_pieces(rng))


@pytest.mark.parametrize("seed", range(10))
def test_mistakes_are_answered_alike_however_they_are_cut(seed: int) -> None:
    rng = random.Random(1000 + seed)
    for _ in range(50):
        pieces = http_fuzz.random_pieces(rng)
        assert told(check(pieces)) == told(check([b"".join(pieces)])), pieces


def told(answers: list[Answer]) -> list[tuple[int, bytes, str | None]]:
    """Of two mistakes in one head, the one that is named depends on which came first."""
    return [
        (
            answer.status,
            answer.body if answer.status == 200 else b"",
            answer.headers.get("connection"),
        )
        for answer in answers
    ]


class Oracle:
    """The requests that llhttp by itself finds in a stream: method, target, body."""

    def __init__(self, raw: bytes) -> None:
        self.found: list[tuple[str, str, bytes]] = []
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(raw)

    def on_message_begin(self) -> None:
        self._target = self._body = b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.found.append((method, self._target.decode(), self._body))


@pytest.mark.parametrize("seed", range(20))
def test_what_the_service_gets_is_what_llhttp_reads(seed: int) -> None:
    """Nobody in front of us who reads as strictly can be made to see other requests than we do."""
    rng = random.Random(2000 + seed)
    # We understand white space in chunk extensions, and do not stop at the wish for an upgrade.
    cases = [case for case in CASES if "extension" not in case.name and "upgrade" not in case.name]
    compared = 0
    for _ in range(300):
        raw = b"".join(
            http_fuzz.mutate(rng, rng.choice(cases).raw) for _ in range(rng.randrange(1, 3))
        )
        _, service = asyncio.run(http_fuzz.converse([raw]))
        oracle = Oracle(raw).found
        for number, (head, body) in enumerate(service.requests):
            if isinstance(head, Head) and isinstance(body, bytes):
                method, target, theirs = oracle[number]
                url = httptools.parse_url(target.encode()) if target.startswith("/") else None
                assert head.method == method, raw
                assert url is None or head.path == unquote(url.path.decode()), raw
                if b"gzip" not in head.headers.get(b"content-encoding", b"").lower():
                    assert body == theirs, raw
                compared += 1
    assert compared > 20


@pytest.mark.slow
def test_the_table_of_requests_with_many_mistakes() -> None:
    rng = random.Random(4)
    for _ in range(30_000):
        check(http_fuzz.random_pieces(rng))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), CUTS)
def test_chunks_take_what_they_are_given_or_refuse_it(raw: bytes, cuts: list[int]) -> None:
    """However cut, the same bytes are the same body and the same rest, or refused."""

    def read(pieces: list[bytes]) -> object:
        chunks = Chunks(100)
        rest: bytes | None = None
        try:
            for number, piece in enumerate(pieces):
                rest = chunks.feed(piece)
                if rest is not None:
                    return bytes(chunks.body), rest + b"".join(pieces[number + 1 :])
        except (Refused, TooLarge) as error:
            return type(error)
        return None

    raw = b"5\r\nhello\r\n" + raw
    whole = read([raw])
    assert read(cut(raw, cuts)) == whole
    if isinstance(whole, tuple):
        assert len(whole[0]) <= 100 and raw.endswith(whole[1])


@pytest.mark.parametrize(
    "raw",
    [b"5;" + b"a" * 5000 + b"\r\n", b"5;" + b"a" * 5000, b"0\r\n" + b"x-a: %b\r\n" % (b"1" * 4000) * 5,
     b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 1000],
)  # fmt: skip
def test_what_stands_beside_the_chunks_is_bounded(raw: bytes) -> None:
    with pytest.raises(Refused):
        Chunks(1 << 20).feed(raw)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=4), st.integers(0, 3000), st.binary(max_size=3))
def test_gunzip_gives_the_whole_or_says_why_not(
    members: list[bytes], most: int, behind: bytes
) -> None:
    packed = b""
    for member in members:
        packer = zlib.compressobj(wbits=31)
        packed += packer.compress(member) + packer.flush()
    whole = b"".join(members)
    try:
        found = gunzip(packed + behind, most)
    except TooLong:
        assert len(whole) > most
    except NotGzip:
        assert behind or not members
    else:
        assert found == whole and not behind and len(whole) <= most
    if packed:
        with pytest.raises((NotGzip, TooLong)):
            gunzip(packed[:-1], most)
