"""The head of an HTTP/1.1 request: strictly parsed, and remembered, because clients repeat it.

A client that keeps its connection sends the same bytes again and again. So a head that was parsed
is kept under its own bytes, and the next equal one costs one look into a dictionary (0.2 µs instead
of 5). Two generations bound the memory: a full young one becomes the old one, and what is asked for
moves up again, so a million different heads do not push out one that is in use. Heads that carry a
header made for one request (`traceparent`, `x-request-id`) are not kept at all.
Heads with `authorization` are kept too: only the very same bytes find the entry, and the dictionary's
keyed hash tells a guesser nothing about a part of them.

What could be read in two ways is refused: a proxy before us may have read it in the other one
(RFC 9112, section 11.2). llhttp (through httptools) parses; the checks here are what it leaves out.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

import httptools

from treadle.operate.limits import Limits
from treadle.operate.request import Head

CLOSE: Final = 1
"""The connection ends after the answer: the client said so, or is of HTTP/1.0."""
BODILESS: Final = 2
"""The answer has no body: HEAD."""
KEPT_1_0: Final = 4
"""HTTP/1.0 with `Connection: keep-alive`: the answer has to say so too."""
EXPECTS: Final = 8
"""`Expect: 100-continue`: the client waits before it sends its body."""
GZIP: Final = 16
"""The body is compressed."""
CODED: Final = 32
"""The body is in a coding that we do not know: 415."""

CHUNKED: Final = -1
"""The length of a body that says it chunk by chunk."""

HEADS: Final = 512
_HEAD_BYTES: Final = 2048
"""At most so many heads a generation, each at most so long: 5 MB in the worst case."""

_CONTROLS = bytes(
    code for code in range(256) if code not in (9, 10, 13) and (code < 32 or code == 127)
)
_ALLOWED = bytes(code for code in range(256) if code not in _CONTROLS)
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_ABSOLUTE = re.compile(r"https?://[^/?#@]+(?=[/?]|$)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-fv:.]+\])(?::[0-9]*)?")
_DIGITS = re.compile(rb"[0-9]+")
_ONCE = frozenset((b"content-length", b"transfer-encoding", b"host", b"content-type",
                   b"content-encoding", b"authorization", b"inference-header-content-length"))  # fmt: skip
"""Two of these would leave open which one counts."""


_PER_REQUEST = frozenset((b"traceparent", b"x-request-id", b"x-correlation-id", b"x-amzn-trace-id",
                          b"x-b3-traceid", b"x-cloud-trace-context", b"idempotency-key"))  # fmt: skip
"""A head with one of these does not come again."""


class Refused(Exception):
    """A request that HTTP itself forbids to be answered otherwise; the connection closes after it."""

    def __init__(self, status: int, message: str, head: Head | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.head = status, message, head


class Parsed(NamedTuple):
    """A head, and what it says about the body and the connection."""

    head: Head
    length: int
    """Of the body in bytes, or CHUNKED."""
    flags: int
    """CLOSE | BODILESS | …"""


class Heads:
    """Parses heads, and remembers them."""

    def __init__(self, limits: Limits) -> None:
        self.known: dict[bytes, Parsed] = {}
        """The young generation."""
        self._old: dict[bytes, Parsed] = {}
        self._limits = limits

    def parse(self, block: bytes) -> Parsed:
        """The head of which `block` is the bytes, from the first to the CRLF of its last line.

        Raises:
            Refused: it breaks a rule.
        """
        parsed = self.known.get(block)
        if parsed is not None:
            return parsed
        parsed = self._old.get(block)
        if parsed is None:
            parsed = _parse(block, self._limits)
        if len(block) <= _HEAD_BYTES and _PER_REQUEST.isdisjoint(parsed.head.headers):
            if len(self.known) >= HEADS:
                self._old = self.known
                self.known = {}
            self.known[block] = parsed
        return parsed

    def check(self, begun: bytearray, since: int) -> None:
        """Refuse a head of which only the beginning is there, where no end could mend it.

        What stands before `since` was looked at earlier.

        Raises:
            Refused: it breaks a rule.
        """
        _check_bytes(begun[since : self._limits.max_head_bytes], whole=False)
        if len(begun) > self._limits.max_head_bytes + 1:  # one may be the CR of the empty line
            raise _too_large(begun, self._limits)


def _check_bytes(text: bytes | bytearray, *, whole: bool) -> None:
    """CR and LF only together, no other control but the tab (RFC 9112, 2.2; RFC 9110, 5.5)."""
    if text.translate(None, _ALLOWED):
        raise Refused(400, "a control character in the head")
    returns = text.count(b"\r")
    if not whole and text.endswith(b"\r"):
        returns -= 1  # its LF may be on the way
    if not returns == text.count(b"\n") == text.count(b"\r\n"):
        raise Refused(400, "a line of the head does not end with CRLF")


def _too_large(text: bytes | bytearray, limits: Limits) -> Refused:
    if b"\r\n" not in text[: limits.max_head_bytes]:
        return Refused(414, f"the request line is longer than {limits.max_head_bytes} bytes")
    return Refused(431, f"the headers are longer than {limits.max_head_bytes} bytes")


class _Collector:
    """What llhttp calls for every header."""

    __slots__ = ("headers", "lines")

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.lines = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines += 1
        name, value = name.lower(), value.strip(b" \t")
        before = self.headers.get(name)
        if before is None:
            self.headers[name] = value
        elif name in _ONCE:
            raise Refused(400, f"the header {name.decode('latin-1')} is there twice")
        else:
            self.headers[name] = before + b", " + value


def _parse(block: bytes, limits: Limits) -> Parsed:
    most = limits.max_head_bytes
    _check_bytes(block if len(block) <= most else block[:most], whole=len(block) <= most)
    if len(block) > most:
        raise _too_large(block, limits)
    line = _REQUEST_LINE.match(block)
    if line is None:
        raise Refused(400, "the request line is not: METHOD target HTTP/1.1")
    method, target = line[1].decode(), line[2].decode()
    if line[3] != b"1" or line[4] not in b"01":
        # HTTP/1.2 does not exist; who sends it, or the preface of HTTP/2, is not understood.
        raise Refused(505, "the server speaks HTTP/1.1")
    path, query = _target(method, target)
    head = Head(method, path, query)  # for the words of an error
    if block.count(b"\n", line.end()) > limits.max_headers:
        raise Refused(431, f"there are more than {limits.max_headers} header lines", head)
    if b"\n " in block or b"\n\t" in block:
        raise Refused(400, "a header goes on in the next line", head)  # obs-fold: RFC 9112, 5.2
    headers = _headers(block, head)
    modern = line[4] == b"1"
    host = headers.get(b"host")
    if host is None:
        if modern:
            raise Refused(400, "the header host is missing", head)  # RFC 9112, 3.2
    elif not _HOST.fullmatch(host):
        raise Refused(400, "the header host is not a host", head)
    length, flags = _length(headers, head, modern), _flags(headers, head, modern)
    return Parsed(Head(method, path, query, headers), length, flags)


def _headers(block: bytes, head: Head) -> dict[bytes, bytes]:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(block)
        parser.feed_data(b"\r\n")
    except httptools.HttpParserUpgrade:
        # A wish that a server may ignore (RFC 9110, 7.8). Java's client sends it with each
        # first request; the body of such a request is read as of any other.
        pass
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, Refused):
            raise Refused(400, error.__context__.message, head) from None
        raise
    except httptools.HttpParserInvalidMethodError:
        raise Refused(501, "the server does not know this method", head) from None
    except httptools.HttpParserError as error:
        raise Refused(400, f"the head is not HTTP/1.1: {error}", head) from None
    return collector.headers


def _target(method: str, target: str) -> tuple[str, str]:
    """Path and query (RFC 9112, 3.2)."""
    if method == "CONNECT":
        raise Refused(501, "the server is no proxy")
    if not target.startswith("/"):
        whole = _ABSOLUTE.match(target)
        if whole:  # its host is to count, not the header's; both are nothing to us
            target = target[whole.end() :]
            if not target.startswith("/"):
                target = "/" + target
        elif method != "OPTIONS" or target != "*":
            raise Refused(400, "the target is neither a path nor a URL")
    if "#" in target:
        raise Refused(400, "a target has no fragment")
    path, _, query = target.partition("?")
    return (unquote(path) if "%" in path else path), query


def _length(headers: dict[bytes, bytes], head: Head, modern: bool) -> int:
    """How long the body is (RFC 9112, 6)."""
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Refused(400, "both content-length and transfer-encoding are there", head)
        if not modern:
            raise Refused(400, "HTTP/1.0 has no transfer-encoding", head)
        codings = [part.strip(b" \t") for part in coding.lower().split(b",")]
        if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            raise Refused(400, "the transfer-encoding does not end with chunked", head)
        if len(codings) > 1:
            raise Refused(501, "the server knows no transfer-encoding but chunked", head)
        return CHUNKED
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length):
        raise Refused(400, "content-length is not a number", head)
    return int(length.lstrip(b"0") or b"0")  # llhttp has refused what does not fit into 64 bits


def _flags(headers: dict[bytes, bytes], head: Head, modern: bool) -> int:
    flags = BODILESS if head.method == "HEAD" else 0
    options = headers.get(b"connection")
    words = {word.strip(b" \t") for word in options.lower().split(b",")} if options else set()
    if b"close" in words:
        flags |= CLOSE
    elif not modern:
        flags |= KEPT_1_0 if b"keep-alive" in words else CLOSE
    expected = headers.get(b"expect")
    if expected is not None and modern:  # HTTP/1.0 does not know it: RFC 9110, 10.1.1
        if expected.lower() != b"100-continue":
            raise Refused(417, "the server meets no expectation but 100-continue", head)
        flags |= EXPECTS
    coding = headers.get(b"content-encoding")
    if coding is not None:
        coding = coding.lower()
        if coding in (b"gzip", b"x-gzip"):
            flags |= GZIP
        elif coding not in (b"", b"identity"):
            flags |= CODED
    return flags
