"""One connection of our own HTTP/1.1: bytes in, requests to the service, answers out.

A request that comes in one piece costs a search for the head's end, one look into the remembered
heads, one cut for the body and one write. All else (a body in pieces, chunks, gzip, pipelines, a
slow client, errors) leaves that way early.

Several requests may be with the service at once; their answers go out in the order of the requests.
Beyond MOST_PIPELINED, or while the client does not read its answers, the connection is not read.

A client that shuts down its sending side with an answer outstanding gets HALF_CLOSED_S for it, then
it counts as gone and its requests leave the queue. nginx and uvicorn drop it at once, but then
`printf … | nc` gets nothing; waiting for ever would keep everybody in the queue who gave up.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from treadle.operate.http import inflate
from treadle.operate.http.answers import LENGTHS
from treadle.operate.http.body import Measured, Reader, Skipped
from treadle.operate.http.chunked import Chunks, TooLarge
from treadle.operate.http.head import (
    BODILESS,
    CHUNKED,
    CLOSE,
    CODED,
    EXPECTS,
    GZIP,
    Parsed,
    Refused,
)
from treadle.operate.request import Head, Reply, Ticket

if TYPE_CHECKING:
    from treadle.operate.http.connections import Connections

_log = logging.getLogger("treadle.http")

MOST_PIPELINED: Final = 16
"""Requests of one connection that are with the service at once."""
HALF_CLOSED_S: Final = 1.0
LINGER_S: Final = 5.0
"""How long we listen after an early error: a close with unread bytes would be a reset, and the
client could lose the answer (RFC 9112, 9.6)."""
_SKIPPED_BYTES: Final = 64 << 10
"""A refused body of at most this length is read and dropped; for a longer one we close."""
_JOINED_BYTES: Final = 64 << 10
"""A longer body is not copied behind its head, but written after it."""

_HEAD, _BODY, _DEAF = range(3)
"""What the next byte belongs to; deaf: to nothing that will be answered."""
_SPECIAL: Final = EXPECTS | CODED | GZIP


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_blocked", "_checked", "_continue", "_early", "_ended", "_half_closed", "_held", "_next",
        "_parsed", "_paused", "_phase", "_reader", "_rest", "_serial", "_shared", "_since",
        "_tickets", "_transport", "_unread", "_unsent", "_unsent_since", "_within",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self._phase = _HEAD
        self._since = shared.now
        """When the phase began, or the connection became idle."""
        self._serial = self._next = 0
        """Numbers of the next request to come and of the next to be answered."""
        self._early: dict[int, tuple[int, Reply]] = {}
        """Answers that wait for those before them."""
        self._tickets: dict[int, Ticket] = {}
        self._rest = bytearray()
        """What came and was not looked at: a head without its end, or held-back requests."""
        self._checked = 0
        """How much of an endless head was found good."""
        self._held = False
        """Whether `_rest` waits for answers to go out, not for bytes to come."""
        self._blocked = False
        """Whether the client does not read what we write."""
        self._paused = False
        self._within = False
        """Whether requests are being read just now: an answer given at once does not read on."""
        self._continue = False
        """Whether `100 Continue` is due once the answers before it are out."""
        self._half_closed = 0.0
        """When the client stopped sending; 0: it has not."""
        self._unread = False
        """Whether bytes came, or are to come, behind the last request that was looked at."""
        self._ended = False
        """Whether the last answer is out."""
        self._unsent, self._unsent_since = 0, 0.0
        """How much the client has not taken yet, and since when it is exactly as much."""
        self._parsed: Parsed | None = None
        """The head of the body that is being read."""
        self._reader: Reader | None = None

    # ---- what the loop calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._shared.all.add(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It left, or we closed: nobody waits for what is in the queue."""
        self._shared.all.discard(self)
        self._phase, self._ended = _DEAF, True
        self._rest.clear()
        self._forget()

    def data_received(self, data: bytes) -> None:
        """The next bytes."""
        phase = self._phase
        if phase == _HEAD:
            if not self._rest:
                self._requests(data)
                return
            rest = self._rest
            before = len(rest)
            rest += data
            if self._held:
                return
            if rest.find(b"\r\n\r\n", max(0, before - 3)) < 0:
                self._wait_for_head()
                return
            data = bytes(rest)
            self._rest = bytearray()
            self._requests(data)
        elif phase == _DEAF:
            self._unread = True
        else:
            rest_of_it = self._more_body(data)
            if rest_of_it and self._phase == _HEAD:
                self._requests(rest_of_it)

    def eof_received(self) -> bool:
        """The client sends no more: True keeps our side open."""
        if self._ended or (self._serial == self._next and not self._held):
            return False
        if self._transport.get_extra_info("sslcontext") is not None:
            return False  # TLS knows no half
        self._half_closed = self._shared.now
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers: read none of its requests."""
        self._blocked = True
        self._pause()

    def resume_writing(self) -> None:
        """It does again."""
        self._blocked = False
        self._go_on()

    # ---- requests ----

    def _requests(self, data: bytes) -> None:
        """Read whole requests, as many as there are."""
        shared = self._shared
        service, usual = shared.service, shared.usual
        position, size = 0, len(data)
        most = shared.limits.max_body_bytes
        self._within = True
        try:
            while position < size:
                if self._blocked or self._serial - self._next >= MOST_PIPELINED:
                    self._rest += data[position:]
                    self._held = True
                    self._pause()
                    return
                end = data.find(b"\r\n\r\n", position)
                if end < 0:
                    while data.startswith(b"\r\n", position):
                        position += 2  # empty lines before a request: RFC 9112, 2.2
                    if position < size:
                        self._rest += data[position:]
                        self._since, self._checked = shared.now, 0
                        self._wait_for_head()
                    return
                block = data[position : end + 2]
                found = usual.get(block)
                if found is not None:
                    refusal = None
                    parsed, handler = found
                    head, length, flags = parsed
                else:
                    if block.startswith(b"\r\n"):
                        position += 2
                        continue
                    parsed, handler = shared.heads.parse(block), service.answer
                    head, length, flags = parsed
                    refusal = service.refusal(head, length if length >= 0 else None)
                    if refusal is None and not flags & _SPECIAL and 0 <= length <= most:
                        shared.learn(block, parsed)
                position = end + 4
                until = position + length
                if (
                    refusal is not None
                    or flags & _SPECIAL
                    or not position <= until <= size
                    or length > most
                ):
                    rest = self._unusual(parsed, refusal, data, position)
                    if rest is None or self._phase != _HEAD:
                        return
                    data, position, size = rest, 0, len(rest)
                    continue
                body = data[position:until] if length else b""
                position = until
                serial = self._serial
                self._serial = serial + 1
                self._unread = position < size
                if flags & CLOSE:
                    self._phase = _DEAF
                respond = partial(self._answered, serial, flags)
                try:
                    ticket = handler(head, body, respond)
                except Exception:
                    self._failed(serial, flags, head)
                else:
                    if ticket is not None:
                        self._tickets[serial] = ticket
                if self._phase != _HEAD:
                    return
        except Refused as refused:
            self._refuse(refused.status, refused.message, refused.head)
        finally:
            self._within = False

    def _wait_for_head(self) -> None:
        """The end of a head is not here yet: see whether it may still become one."""
        rest = self._rest
        while rest.startswith(b"\r\n"):
            del rest[:2]
            self._checked = 0
        try:
            self._shared.heads.check(rest, self._checked)
        except Refused as refused:
            self._refuse(refused.status, refused.message, refused.head)
            return
        self._checked = len(rest) - rest.endswith(b"\r")

    def _unusual(
        self, parsed: Parsed, refusal: Reply | None, data: bytes, position: int
    ) -> bytes | None:
        """A request that is refused, or whose body is not simply there; what follows it, or None."""
        head, length, flags = parsed
        shared = self._shared
        if refusal is None:
            if length > shared.limits.max_body_bytes:
                refusal = shared.service.error(413, self._too_large(), head)
            elif flags & CODED and length:
                refusal = shared.service.error(415, "a body may be compressed by gzip alone", head)
                refusal = refusal._replace(headers=refusal.headers + b"accept-encoding: gzip\r\n")
        self._parsed, self._since = parsed, shared.now
        rest = data[position:]
        if refusal is not None:
            serial = self._serial
            self._serial = serial + 1
            # After `Expect` the client may send the body or not, so the next byte may be either.
            skips = length == 0 or (0 < length <= _SKIPPED_BYTES and not flags & EXPECTS)
            if skips and not refusal.close and not flags & CLOSE:
                self._phase, self._reader = _BODY, Skipped(length)
                left = self._more_body(rest)
                self._unread = left is None or left != b""
                self._answered(serial, flags, refusal)
                return left
            self._phase, self._unread = _DEAF, length != 0 or rest != b""
            self._answered(serial, flags | CLOSE, refusal)
            return None
        if flags & EXPECTS and not rest and length:
            self._continue = True
            self._say_continue()
        self._phase = _BODY
        if length == CHUNKED:
            self._reader = Chunks(shared.limits.max_body_bytes)
        else:
            self._reader = Measured(length)
        return self._more_body(rest)

    def _more_body(self, data: bytes) -> bytes | None:
        """Bytes of a body; what follows it once it is complete, else None."""
        reader, parsed = self._reader, self._parsed
        assert reader is not None
        assert parsed is not None
        try:
            rest = reader.feed(data)
        except Refused as refused:
            self._refuse(refused.status, refused.message, parsed.head)
            return None
        except TooLarge:
            self._refuse(413, self._too_large(), parsed.head)
            return None
        if rest is not None:
            self._reader = self._parsed = None
            self._phase, self._since = _HEAD, self._shared.now
            if not isinstance(reader, Skipped):
                self._complete(parsed, bytes(reader.body), more=bool(rest))
        return rest

    def _too_large(self) -> str:
        return f"the body is larger than {self._shared.limits.max_body_bytes} bytes"

    def _complete(self, parsed: Parsed, body: bytes, *, more: bool) -> None:
        """A body is whole: hand it on."""
        flags = parsed.flags
        serial = self._serial
        self._serial = serial + 1
        self._continue, self._unread = False, more
        if flags & CLOSE:
            self._phase = _DEAF
        if not flags & GZIP or not body:
            self._ask(serial, parsed, body)
            return
        most = self._shared.limits.max_body_bytes
        try:
            body = inflate.gunzip(body, min(most, inflate.QUICK_BYTES))
        except inflate.TooLarge:
            if most > inflate.QUICK_BYTES:
                loop = asyncio.get_running_loop()
                future = loop.run_in_executor(None, inflate.gunzip, body, most)
                future.add_done_callback(partial(self._inflated, serial, parsed))
            else:
                self._answer_error(serial, parsed, 413, self._too_large())
        except inflate.NotGzip:
            self._answer_error(serial, parsed, 400, "the body is not gzip as its header says")
        else:
            self._ask(serial, parsed, body)

    def _inflated(self, serial: int, parsed: Parsed, future: asyncio.Future[bytes]) -> None:
        """A thread has decompressed a large body."""
        if self._ended:
            return
        try:
            body = future.result()
        except inflate.TooLarge:
            self._answer_error(serial, parsed, 413, self._too_large())
        except inflate.NotGzip:
            self._answer_error(serial, parsed, 400, "the body is not gzip as its header says")
        except Exception:  # no memory, no threads
            self._failed(serial, parsed.flags, parsed.head)
        else:
            self._ask(serial, parsed, body)

    def _ask(self, serial: int, parsed: Parsed, body: bytes) -> None:
        respond = partial(self._answered, serial, parsed.flags)
        try:
            ticket = self._shared.service.answer(parsed.head, body, respond)
        except Exception:
            self._failed(serial, parsed.flags, parsed.head)
        else:
            if ticket is not None:
                self._tickets[serial] = ticket

    # ---- answers ----

    def _answered(self, serial: int, flags: int, reply: Reply) -> None:
        """The answer to a request, perhaps before the answers to those before it."""
        if self._tickets:
            self._tickets.pop(serial, None)
        if serial != self._next:
            if serial < self._next or serial in self._early:
                _log.error("a request was answered twice; the second answer is dropped")
            elif not self._ended:
                self._early[serial] = (flags, reply)
            return
        if self._ended:
            return
        goes_on = self._write(flags, reply)
        while goes_on and self._early:
            found = self._early.pop(self._next, None)
            if found is None:
                break
            goes_on = self._write(*found)
        if not goes_on:
            self._forget()
        elif not self._within:
            if self._continue:
                self._say_continue()
            if self._held:
                self._go_on()
            elif self._half_closed and self._serial == self._next:
                self.close()

    def _write(self, flags: int, reply: Reply) -> bool:
        """One answer, in one write; whether the connection goes on."""
        status, body, kind, more, close = reply
        shared = self._shared
        self._next += 1
        self._since = shared.now
        begin = shared.answers.begin.get(status)
        if flags or close or begin is None or shared.service.draining:
            close = close or bool(flags & CLOSE) or (
                shared.service.draining and self._next == self._serial
                and self._phase == _HEAD and not (self._rest or self._unread)
            )  # fmt: skip
            self._transport.write(shared.answers.whole(reply, flags, close=close))
            if close:
                self._end()
                return False
        elif len(body) < len(LENGTHS):
            self._transport.write(b"".join((begin, kind, LENGTHS[len(body)], more, b"\r\n", body)))
        elif len(body) <= _JOINED_BYTES:
            self._transport.write(
                b"%b%b\r\ncontent-length: %d\r\n%b\r\n%b" % (begin, kind, len(body), more, body)
            )
        else:
            self._transport.writelines(
                (b"%b%b\r\ncontent-length: %d\r\n%b\r\n" % (begin, kind, len(body), more), body)
            )
        return True

    def _say_continue(self) -> None:
        """`100 Continue`, once the answers before it are out."""
        if self._serial == self._next:
            self._continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _failed(self, serial: int, flags: int, head: Head) -> None:
        """The service raised: the client is told no more than that."""
        _log.exception("the service failed")
        if serial >= self._next and serial not in self._early:
            reply = self._shared.service.error(500, "the server failed", head)
            self._answered(serial, flags, reply)

    def _answer_error(self, serial: int, parsed: Parsed, status: int, message: str) -> None:
        reply = self._shared.service.error(status, message, parsed.head)
        self._answered(serial, parsed.flags, reply)

    def _refuse(self, status: int, message: str, head: Head | None) -> None:
        """What came is not HTTP as it should be, or too slow: nothing after it can be trusted."""
        self._phase, self._unread, self._held = _DEAF, True, False
        self._rest.clear()
        self._continue = False
        serial = self._serial
        self._serial = serial + 1
        bodiless = BODILESS if head is not None and head.method == "HEAD" else 0
        self._answered(serial, CLOSE | bodiless, self._shared.service.error(status, message, head))

    # ---- ends and pauses ----

    def _end(self) -> None:
        """The last answer is written: close, in two steps if the client may still be sending."""
        self._ended, self._phase = True, _DEAF
        self._since = self._shared.now
        self._rest.clear()
        if self._unread and not self._half_closed:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._resume()
        else:
            self._transport.close()

    def _forget(self) -> None:
        """Nobody will be given what is not answered yet."""
        self._early.clear()
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.cancel()

    def _go_on(self) -> None:
        """Answers went out: read what was held back."""
        if self._blocked or self._serial - self._next >= MOST_PIPELINED:
            return
        self._resume()
        if self._held:
            self._held = False
            data = bytes(self._rest)
            self._rest = bytearray()
            self._requests(data)
            if self._half_closed and self._serial == self._next and not self._held:
                self.close()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._since = self._shared.now  # it was us who did not read
            self._transport.resume_reading()

    @property
    def idle(self) -> bool:
        """Whether nothing is being read or answered."""
        return self._phase == _HEAD and self._serial == self._next and not self._rest

    def check(self) -> None:
        """Look at the clock: is anything late?"""
        shared = self._shared
        limits, age = shared.limits, shared.now - self._since
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, shared.now
        if unsent and shared.now - self._unsent_since > limits.body_timeout_s:
            self.abort()  # it does not read its answers
        elif self._ended:
            if age > LINGER_S and not unsent:
                self.close()
        elif self._half_closed and shared.now - self._half_closed > HALF_CLOSED_S:
            self.abort()
        elif self._phase == _BODY:
            # While `100 Continue` is due, it is the client that waits.
            if age > limits.body_timeout_s and not self._paused and not self._continue:
                if isinstance(self._reader, Skipped):
                    self.close()  # its answer is out
                else:
                    head = self._parsed.head if self._parsed else None
                    self._refuse(408, "the body did not come in time", head)
        elif self._rest and not self._held:
            if age > limits.head_timeout_s:
                self._refuse(408, "the headers did not come in time", None)
        elif self._serial == self._next and self._phase == _HEAD and age > limits.keep_alive_s:
            self.close()

    def close(self) -> None:
        """Close after what is written already."""
        self._phase = _DEAF
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._phase = _DEAF
        self._transport.abort()
