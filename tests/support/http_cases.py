"""Requests as bytes, and what becomes of them: by our protocol and, where it differs, by uvicorn.

Where uvicorn (httptools) does otherwise, the line says why we do not do as it does.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

from tests.support.echo import echo

from treadle.operate.limits import Limits

KEPT, CLOSED, WAITS = "kept", "closed", "waits"
"""The connection afterwards: it takes another request, is closed, or waits for the rest."""

Expected = tuple[list["int | bytes"], str]
"""Answers (a status, or the body of a 200) and the connection's state."""

LIMITS = Limits(max_head_bytes=4096, max_headers=100, max_body_bytes=100_000)


@dataclass(frozen=True)
class Case:
    name: str
    raw: bytes
    answers: list[int | bytes]
    state: str
    uvicorn: Expected | None = None
    why: str = ""

    @property
    def methods(self) -> list[str]:
        """Of the first request, as far as it matters to reading the answers."""
        return [self.raw.split(b" ", 1)[0].decode("latin-1")]


def ok(method: str, path: str, query: str = "", body: bytes = b"") -> bytes:
    return echo(method, path, query, body)


def g(
    line: bytes = b"GET /a HTTP/1.1", *headers: bytes, host: bool = True, body: bytes = b""
) -> bytes:
    """A request with a host."""
    lines = [line, *([b"Host: x"] if host else []), *headers]
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


HEAD = b""
P = b"POST /a HTTP/1.1"
TE = b"Transfer-Encoding: chunked"
GZ = gzip.compress(b"hello", mtime=0)

CASES = [
    Case("a GET", g(), [ok("GET", "/a")], KEPT),
    Case(
        "a POST", g(P, b"Content-Length: 5", body=b"hello"), [ok("POST", "/a", body=b"hello")], KEPT
    ),
    Case("a body of length 0", g(P, b"Content-Length: 0"), [ok("POST", "/a")], KEPT),
    Case("a POST without a length", g(P), [ok("POST", "/a")], KEPT),
    Case(
        "a GET with a body",
        g(b"GET /a HTTP/1.1", b"Content-Length: 5", body=b"hello"),
        [ok("GET", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "leading zeros in the length",
        g(P, b"Content-Length: 005", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case("a query", g(b"GET /a?b=1&c=%20 HTTP/1.1"), [ok("GET", "/a", query="b=1&c=%20")], KEPT),
    Case("an escaped path", g(b"GET /a%20%C3%A4%2Fb HTTP/1.1"), [ok("GET", "/a ä/b")], KEPT),
    Case("a broken escape", g(b"GET /a%zz HTTP/1.1"), [ok("GET", "/a%zz")], KEPT),
    Case("two slashes", g(b"GET //a HTTP/1.1"), [ok("GET", "//a")], KEPT),
    Case("HEAD", g(b"HEAD /a HTTP/1.1"), [HEAD], KEPT),
    Case("OPTIONS of the server", g(b"OPTIONS * HTTP/1.1"), [ok("OPTIONS", "*")], KEPT),
    Case("DELETE", g(b"DELETE /a HTTP/1.1"), [ok("DELETE", "/a")], KEPT),
    Case("an answer without a body", g(b"GET /empty HTTP/1.1"), [204], KEPT),
    Case(
        "an absolute target",
        g(b"GET http://y:80/a?q=1 HTTP/1.1"),
        [ok("GET", "/a", query="q=1")],
        KEPT,
    ),
    Case(
        "an absolute target without a path",
        g(b"GET http://y HTTP/1.1"),
        [ok("GET", "/")],
        KEPT,
        uvicorn=([400], CLOSED),
        why="RFC 9112 3.2.1: an empty path is /",
    ),
    Case(
        "header names in any case",
        g(P, b"cOnTeNt-LeNgTh: 5", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "white space around a value",
        g(P, b"Content-Length: \t 5 \t", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "no space behind the colon",
        g(P, b"Content-Length:5", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "an empty value",
        g(P, b"X-A:", b"Content-Length: 1", body=b"h"),
        [ok("POST", "/a", body=b"h")],
        KEPT,
    ),
    Case("a header twice", g(b"GET /a HTTP/1.1", b"X-A: 1", b"X-A: 2"), [ok("GET", "/a")], KEPT),
    Case(
        "bytes above 127 in a value",
        g(b"GET /a HTTP/1.1", b"X-A: \xc3\xa4"),
        [ok("GET", "/a")],
        KEPT,
    ),
    Case("an empty line before the request", b"\r\n" + g(), [ok("GET", "/a")], KEPT),
    Case("three empty lines before the request", b"\r\n\r\n\r\n" + g(), [ok("GET", "/a")], KEPT),
    Case(
        "chunks", g(P, TE, body=b"5\r\nhello\r\n0\r\n\r\n"), [ok("POST", "/a", body=b"hello")], KEPT
    ),
    Case(
        "several chunks",
        g(P, TE, body=b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "sizes in hexadecimal, with zeros before",
        g(P, TE, body=b"00a\r\nhellohello\r\n0B\r\nhellohello!\r\n000\r\n\r\n"),
        [ok("POST", "/a", body=b"hellohellohellohello!")],
        KEPT,
    ),
    Case("no chunk but the last", g(P, TE, body=b"0\r\n\r\n"), [ok("POST", "/a")], KEPT),
    Case(
        "chunked in capitals",
        g(P, b"Transfer-Encoding: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "a trailer",
        g(P, TE, body=b"5\r\nhello\r\n0\r\nX-A: 1\r\nX-B:\r\n\r\n"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "a trailer about the length",
        g(P, TE, body=b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case(
        "a chunk extension",
        g(P, TE, body=b"5;a=b;c\r\nhello\r\n0\r\n\r\n"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "chunk extensions",
        g(P, TE, body=b'5;a=b; c;d="e f"\r\nhello\r\n0;x\r\n\r\n'),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
        uvicorn=([400], CLOSED),
        why="RFC 9112 7.1.1: white space around extensions is to be understood",
    ),
    Case(
        "Connection: close", g(b"GET /a HTTP/1.1", b"Connection: close"), [ok("GET", "/a")], CLOSED
    ),
    Case(
        "Connection: keep-alive",
        g(b"GET /a HTTP/1.1", b"Connection: keep-alive"),
        [ok("GET", "/a")],
        KEPT,
    ),
    Case(
        "close among other options",
        g(b"GET /a HTTP/1.1", b"Connection: TE, Close"),
        [ok("GET", "/a")],
        CLOSED,
    ),
    Case(
        "Connection: close, then another request",
        g(b"GET /a HTTP/1.1", b"Connection: close") + g(),
        [ok("GET", "/a")],
        CLOSED,
    ),
    Case("HTTP/1.0", g(b"GET /a HTTP/1.0", host=False), [ok("GET", "/a")], CLOSED),
    Case(
        "HTTP/1.0 with a body",
        g(b"POST /a HTTP/1.0", b"Content-Length: 5", host=False, body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        CLOSED,
    ),
    Case(
        "HTTP/1.0 keep-alive",
        g(b"GET /a HTTP/1.0", b"Connection: keep-alive", host=False),
        [ok("GET", "/a")],
        KEPT,
        uvicorn=([ok("GET", "/a")], CLOSED),
        why="RFC 9112 9.3: a server may keep it; uvicorn never does",
    ),
    Case(
        "HTTP/1.0 with Expect",
        g(b"POST /a HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        CLOSED,
    ),
    Case(
        "three requests in a row",
        g() + g(P, b"Content-Length: 5", body=b"hello") + g(b"GET /b HTTP/1.1"),
        [ok("GET", "/a"), ok("POST", "/a", body=b"hello"), ok("GET", "/b")],
        KEPT,
    ),
    Case(
        "a late answer before a quick one",
        g(b"GET /late HTTP/1.1") + g(),
        [ok("GET", "/late"), ok("GET", "/a")],
        KEPT,
    ),
    Case(
        "chunks, then another request",
        g(P, TE, body=b"5\r\nhello\r\n0\r\n\r\n") + g(b"GET /b HTTP/1.1"),
        [ok("POST", "/a", body=b"hello"), ok("GET", "/b")],
        KEPT,
    ),
    Case(
        "Expect: 100-continue with the body at once",
        g(P, b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "Expect of something else",
        g(P, b"Expect: a miracle", b"Content-Length: 5", body=b"hello"),
        [417],
        CLOSED,
        uvicorn=([ok("POST", "/a", body=b"hello")], KEPT),
        why="RFC 9110 10.1.1: 417 is for that",
    ),
    Case("a service that closes", g(b"GET /close HTTP/1.1"), [ok("GET", "/close")], CLOSED),
    Case("a refused request", g(b"GET /refused HTTP/1.1"), [401], KEPT),
    Case(
        "a refused request with a body",
        g(b"POST /refused HTTP/1.1", b"Content-Length: 5", body=b"hello") + g(),
        [401, ok("GET", "/a")],
        KEPT,
    ),
    Case(
        "a refused request with chunks",
        g(b"POST /refused HTTP/1.1", TE, body=b"5\r\nhello\r\n0\r\n\r\n"),
        [401],
        CLOSED,
        uvicorn=([401], KEPT),
        why="RFC 9112 9.6: we close rather than read what nobody wants",
    ),
    Case(
        "a refused request that expects",
        g(b"POST /refused HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 5"),
        [401],
        CLOSED,
        uvicorn=([401], WAITS),
        why="RFC 9110 10.1.1: whether the body follows is not known, so the connection ends",
    ),
    Case("a service that fails", g(b"GET /raise HTTP/1.1"), [500], KEPT),
    Case(
        "gzip",
        g(P, b"Content-Encoding: gzip", b"Content-Length: %d" % len(GZ), body=GZ),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "gzip in chunks",
        g(P, b"Content-Encoding: GZIP", TE, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(GZ), GZ)),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "gzip that is none",
        g(P, b"Content-Encoding: gzip", b"Content-Length: 5", body=b"hello"),
        [400],
        KEPT,
    ),
    Case(
        "gzip that is cut off",
        g(P, b"Content-Encoding: gzip", b"Content-Length: 10", body=GZ[:10]),
        [400],
        KEPT,
    ),
    Case(
        "a coding we do not know",
        g(P, b"Content-Encoding: br", b"Content-Length: 5", body=b"hello"),
        [415],
        KEPT,
    ),
    Case(
        "an upgrade",
        g(
            b"GET /a HTTP/1.1",
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
        ),
        [ok("GET", "/a")],
        KEPT,
    ),
    Case(
        "an upgrade with a body",
        g(P, b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
        uvicorn=([ok("POST", "/a")], KEPT),
        why="RFC 9110 7.8: an ignored upgrade changes nothing; uvicorn loses the body",
    ),
    Case(
        "a body longer than allowed",
        g(P, b"Content-Length: 999999", body=b"hello"),
        [413],
        CLOSED,
        uvicorn=([413], WAITS),
        why="RFC 9110 15.5.14: the server may close; uvicorn reads on",
    ),
    Case(
        "chunks longer than allowed",
        g(P, TE, body=b"186a1\r\n" + b"x" * 100),
        [413],
        CLOSED,
        uvicorn=([], WAITS),
        why="the size is checked before the bytes are here",
    ),
    # not whole yet
    Case("half a request line", b"GET /a HT", [], WAITS),
    Case("half a head", b"GET /a HTTP/1.1\r\nHost: x\r\n", [], WAITS),
    Case("half a body", g(P, b"Content-Length: 5", body=b"hel"), [], WAITS),
    Case("half a chunk", g(P, TE, body=b"5\r\nhel"), [], WAITS),
    Case("chunks without the last line", g(P, TE, body=b"5\r\nhello\r\n0\r\n"), [], WAITS),
    # against the rules
    Case(
        "no host",
        g(host=False),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9112 3.2: 400 is a must",
    ),
    Case(
        "two hosts",
        g(b"GET /a HTTP/1.1", b"Host: y"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9112 3.2: 400 is a must",
    ),
    Case(
        "a host that is none",
        g(b"GET /a HTTP/1.1", b"Host: a b/c", host=False),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9112 3.2: 400 is a must",
    ),
    Case("an empty host", g(b"GET /a HTTP/1.1", b"Host:", host=False), [ok("GET", "/a")], KEPT),
    Case(
        "two lengths",
        g(P, b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
        [400],
        CLOSED,
    ),
    Case(
        "the same length twice",
        g(P, b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
        [400],
        CLOSED,
    ),
    Case("a list of lengths", g(P, b"Content-Length: 5, 5", body=b"hello"), [400], CLOSED),
    Case("a length with a sign", g(P, b"Content-Length: +5", body=b"hello"), [400], CLOSED),
    Case("a negative length", g(P, b"Content-Length: -5", body=b"hello"), [400], CLOSED),
    Case("a length in hexadecimal", g(P, b"Content-Length: 0x5", body=b"hello"), [400], CLOSED),
    Case("an empty length", g(P, b"Content-Length:", body=b"hello"), [400], CLOSED),
    Case(
        "a length of 30 digits", g(P, b"Content-Length: " + b"9" * 30, body=b"hello"), [400], CLOSED
    ),
    Case(
        "a length with an underscore",
        g(P, b"Content-Length: 1_0", body=b"hellohello"),
        [400],
        CLOSED,
    ),
    Case(
        "a length and chunks",
        g(P, b"Content-Length: 5", TE, body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case(
        "chunks and a length",
        g(P, TE, b"Content-Length: 5", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case("chunked twice", g(P, TE, TE, body=b"5\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case(
        "chunked not last",
        g(P, b"Transfer-Encoding: chunked, gzip", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case(
        "chunked behind another coding",
        g(P, b"Transfer-Encoding: gzip, chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [501],
        CLOSED,
        uvicorn=([ok("POST", "/a", body=b"hello")], KEPT),
        why="RFC 9112 6.1: 501 for a coding that is not understood",
    ),
    Case("another transfer coding", g(P, b"Transfer-Encoding: gzip", body=b"hello"), [400], CLOSED),
    Case(
        "Transfer-Encoding: identity",
        g(P, b"Transfer-Encoding: identity", body=b"hello"),
        [400],
        CLOSED,
    ),
    Case(
        "xchunked",
        g(P, b"Transfer-Encoding: xchunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case(
        "a vertical tab before chunked",
        g(P, b"Transfer-Encoding: \x0bchunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
    ),
    Case("an empty transfer-encoding", g(P, b"Transfer-Encoding:", body=b"hello"), [400], CLOSED),
    Case(
        "chunks in HTTP/1.0",
        g(b"POST /a HTTP/1.0", TE, b"Connection: keep-alive", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [400],
        CLOSED,
        uvicorn=([ok("POST", "/a", body=b"hello")], CLOSED),
        why="RFC 9112 6.1: the framing is faulty",
    ),
    Case("a chunk size that is none", g(P, TE, body=b"z\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a chunk size with 0x", g(P, TE, body=b"0x5\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a chunk size with a sign", g(P, TE, body=b"+5\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a space before a chunk size", g(P, TE, body=b" 5\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a space behind a chunk size", g(P, TE, body=b"5 \r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("an empty chunk size", g(P, TE, body=b"\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case(
        "a chunk size of 17 digits",
        g(P, TE, body=b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n"),
        [ok("POST", "/a", body=b"hello")],
        KEPT,
    ),
    Case(
        "a chunk size beyond 64 bits",
        g(P, TE, body=b"1" + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n"),
        [413],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9112 7.1: a number like any other, and too large",
    ),
    Case("a chunk longer than its size", g(P, TE, body=b"5\r\nhello!\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a chunk shorter than its size", g(P, TE, body=b"6\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("LF behind a chunk size", g(P, TE, body=b"5\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("LF behind a chunk", g(P, TE, body=b"5\r\nhello\n0\r\n\r\n"), [400], CLOSED),
    Case("CR in a chunk extension", g(P, TE, body=b"5;a\rb\r\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("LF in a chunk extension", g(P, TE, body=b"5;a\nhello\r\n0\r\n\r\n"), [400], CLOSED),
    Case("a trailer that is none", g(P, TE, body=b"0\r\nX A\r\n\r\n"), [400], CLOSED),
    Case("LF behind a trailer", g(P, TE, body=b"0\r\nX: A\n\r\n"), [400], CLOSED),
    Case("LF alone", b"GET /a HTTP/1.1\nHost: x\n\n", [400], CLOSED),
    Case("LF behind a header", b"GET /a HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n", [400], CLOSED),
    Case(
        "LF for the empty line",
        b"GET /a HTTP/1.1\r\nHost: x\r\n\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
        [400],
        CLOSED,
    ),
    Case("CR in a value", g(b"GET /a HTTP/1.1", b"X-A: 1\rX-B: 2"), [400], CLOSED),
    Case("CR CR LF", b"GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n", [400], CLOSED),
    Case("NUL in a value", g(b"GET /a HTTP/1.1", b"X-A: 1\x002"), [400], CLOSED),
    Case("a control character in a value", g(b"GET /a HTTP/1.1", b"X-A: 1\x012"), [400], CLOSED),
    Case("DEL in a value", g(b"GET /a HTTP/1.1", b"X-A: 1\x7f2"), [400], CLOSED),
    Case("NUL in the target", g(b"GET /a\x00b HTTP/1.1"), [400], CLOSED),
    Case(
        "a header that goes on in the next line",
        g(b"GET /a HTTP/1.1", b"X-A: 1\r\n 2"),
        [400],
        CLOSED,
    ),
    Case(
        "a first header that begins with a space",
        b"GET /a HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
        [400],
        CLOSED,
    ),
    Case("a space before the colon", g(P, b"Content-Length : 5", body=b"hello"), [400], CLOSED),
    Case("a header without a colon", g(b"GET /a HTTP/1.1", b"X-A"), [400], CLOSED),
    Case("a header without a name", g(b"GET /a HTTP/1.1", b": 1"), [400], CLOSED),
    Case("a name that is no token", g(b"GET /a HTTP/1.1", b"X(A): 1"), [400], CLOSED),
    Case("bytes above 127 in a name", g(b"GET /a HTTP/1.1", b"X-\xc3\xa4: 1"), [400], CLOSED),
    Case(
        "two spaces in the request line",
        g(b"GET  /a HTTP/1.1"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9112 3: one space; a proxy may cut elsewhere",
    ),
    Case("a tab in the request line", g(b"GET\t/a HTTP/1.1"), [400], CLOSED),
    Case("a space behind the version", g(b"GET /a HTTP/1.1 "), [400], CLOSED),
    Case("a space in the target", g(b"GET /a b HTTP/1.1"), [400], CLOSED),
    Case("bytes above 127 in the target", g(b"GET /\xc3\xa4 HTTP/1.1"), [400], CLOSED),
    Case(
        "a fragment",
        g(b"GET /a#b HTTP/1.1"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9112 3.2.1: a target has none",
    ),
    Case("no target", g(b"GET HTTP/1.1"), [400], CLOSED),
    Case("a target without a slash", g(b"GET a HTTP/1.1"), [400], CLOSED),
    Case(
        "an asterisk for GET",
        g(b"GET * HTTP/1.1"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "*")], KEPT),
        why="RFC 9112 3.2.4: it is for OPTIONS",
    ),
    Case(
        "a user in an absolute target",
        g(b"GET http://u@y/a HTTP/1.1"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 9110 4.2.4: to be taken for an error",
    ),
    Case(
        "no version",
        g(b"GET /a"),
        [400],
        CLOSED,
        uvicorn=([ok("GET", "/a")], CLOSED),
        why="RFC 9112 3: it is part of the request line",
    ),
    Case(
        "HTTP/0.9",
        g(b"GET /a HTTP/0.9"),
        [505],
        CLOSED,
        uvicorn=([ok("GET", "/a")], CLOSED),
        why="RFC 9110 15.6.6",
    ),
    Case(
        "HTTP/1.2",
        g(b"GET /a HTTP/1.2"),
        [505],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9110 15.6.6",
    ),
    Case(
        "HTTP/2.0",
        g(b"GET /a HTTP/2.0"),
        [505],
        CLOSED,
        uvicorn=([ok("GET", "/a")], CLOSED),
        why="RFC 9110 15.6.6",
    ),
    Case("HTTP/1.10", g(b"GET /a HTTP/1.10"), [400], CLOSED),
    Case("http in small letters", g(b"GET /a http/1.1"), [400], CLOSED),
    Case(
        "the preface of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        [505],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9110 15.6.6",
    ),
    Case(
        "an unknown method",
        g(b"BREW /a HTTP/1.1"),
        [501],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9110 9.1: 501 is for that",
    ),
    Case(
        "a method in small letters",
        g(b"get /a HTTP/1.1"),
        [501],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9110 9.1: 501 is for that",
    ),
    Case("a method that is no token", g(b"G@T /a HTTP/1.1"), [400], CLOSED),
    Case(
        "CONNECT",
        g(b"CONNECT y:443 HTTP/1.1"),
        [501],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9110 9.1: 501 is for that",
    ),
    Case(
        "two content types",
        g(P, b"Content-Type: a/b", b"Content-Type: c/d", b"Content-Length: 5", body=b"hello"),
        [400],
        CLOSED,
        uvicorn=([ok("POST", "/a", body=b"hello")], KEPT),
        why="RFC 9110 5.3: it is no list, and which one counts is a guess",
    ),
    Case(
        "TLS on the plain port",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 30,
        [400],
        CLOSED,
    ),
    Case(
        "a request line longer than allowed",
        g(b"GET /" + b"a" * 5000 + b" HTTP/1.1"),
        [414],
        CLOSED,
        uvicorn=([ok("GET", "/" + "a" * 5000)], KEPT),
        why="RFC 9112 3: 414",
    ),
    Case(
        "headers longer than allowed",
        g(b"GET /a HTTP/1.1", b"X-A: " + b"a" * 5000),
        [431],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 6585 5: 431",
    ),
    Case(
        "more headers than allowed",
        g(b"GET /a HTTP/1.1", *[b"X-A: 1"] * 100),
        [431],
        CLOSED,
        uvicorn=([ok("GET", "/a")], KEPT),
        why="RFC 6585 5: 431",
    ),
    Case(
        "a smuggled request behind two lengths",
        g(P, b"Content-Length: 0", b"Content-Length: 44", body=g(b"GET /smuggled HTTP/1.1")),
        [400],
        CLOSED,
    ),
    Case(
        "a broken request behind a good one",
        g() + b"GET /b HTTP/1.1\r\nHost : x\r\n\r\n",
        [ok("GET", "/a"), 400],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9112 9.3.2: the good one has its answer",
    ),
    Case(
        "a broken request behind a late one",
        g(b"GET /late HTTP/1.1") + b"GET /b HTTP/1.1\r\nHost : x\r\n\r\n",
        [ok("GET", "/late"), 400],
        CLOSED,
        uvicorn=([400], CLOSED),
        why="RFC 9112 9.3.2: the late one has its answer",
    ),
]
