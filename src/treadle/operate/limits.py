"""What a server believes of a stranger: sizes, counts and times, each with its default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server process. Sizes are checked before memory is taken."""

    max_head_bytes: int = 64 << 10
    """Request line and headers together; more is 431."""
    max_headers: int = 100
    """Header lines; more is 431."""
    max_body_bytes: int = 64 << 20
    """A body, after decompression too; more is 413."""
    max_rows: int = 1_000_000
    """Rows of one request; more is 400."""
    max_depth: int = 32
    """Nesting of JSON; more is 400."""
    max_queue_requests: int = 1024
    """Requests that wait for the model; the next is answered 503 with `Retry-After`."""
    max_queue_rows: int = 2_000_000
    """Rows that wait for the model, all requests together."""
    max_batch_rows: int = 4096
    """Rows that one call of the model gets at most (a single request may be larger)."""
    deadline_s: float = 60.0
    """From a request's last byte to its answer; later it is 504 and leaves the queue."""
    head_timeout_s: float = 10.0
    """From a request's first byte to the end of its headers; later it is 408."""
    body_timeout_s: float = 60.0
    """From the end of the headers to the last byte of the body; later it is 408."""
    keep_alive_s: float = 120.0
    """How long an idle connection stays open."""
    max_connections: int = 8192
    """Open connections; while there are as many, no more are accepted."""
