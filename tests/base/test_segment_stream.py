"""What a container sends of its captured requests: whole, or known to be not."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base import segment_stream
from treadle.base.errors import StateCorrupt, TreadleError, Unreachable
from treadle.base.segment_stream import End, Sent


def sent(number: int, data: bytes) -> Sent:
    name = f"20130501T060000.000000Z-houses-local-abc-{number:06}.msgpack"
    return Sent(name, len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")


def stream(parts: list[bytes], end: End) -> bytes:
    told = b"".join(segment_stream.line(sent(n, one)) + one for n, one in enumerate(parts))
    return told + segment_stream.line(end)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in zip(places, places[1:], strict=False)]


def read(data: list[bytes]) -> tuple[list[tuple[Sent, bytes]], End]:
    found: list[tuple[Sent, bytes]] = []
    for one in segment_stream.read(data):
        if isinstance(one, Sent):
            found.append((one, b""))
        elif isinstance(one, End):
            return found, one
        else:
            found[-1] = (found[-1][0], found[-1][1] + one)
    raise AssertionError("no end")


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=300), max_size=4), st.booleans(),
    st.integers(0, 9), st.lists(st.integers(0, 5000), max_size=8),
)  # fmt: skip
def test_what_was_sent_is_read_however_it_was_cut(
    parts: list[bytes], ended: bool, full: int, cuts: list[int]
) -> None:
    end = End(len(parts), 1, ended, full)
    found, told = read(pieces(stream(parts, end), cuts))
    assert found == [(sent(n, one), one) for n, one in enumerate(parts)]
    assert told == end


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=3), st.integers(0, 10_000))
def test_stream_that_is_cut_off_is_never_taken_for_a_shorter_one(
    parts: list[bytes], cut: int
) -> None:
    whole = stream(parts, End(len(parts)))
    with pytest.raises(Unreachable, match="cut off"):
        list(segment_stream.read([whole[: cut % len(whole)]]))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(TreadleError):
        list(segment_stream.read([data, b"\n"]))


@pytest.mark.parametrize(
    "text",
    [
        b'{"name": "../../etc/20130501T060000.000000Z-a-000001.msgpack", "size": 1, "digest": "x"}',
        b'{"name": "20130501T060000.000000Z-a-000001.msgpack/..", "size": 1, "digest": "x"}',
        b'{"name": "20130501T060000.000000Z-a-000001.msgpack", "size": -1, "digest": "x"}',
        b'{"name": "20130501T060000.000000Z-a-000001.msgpack", "size": true, "digest": "x"}',
        b'{"name": "20130501T060000.000000Z-a-000001.msgpack", "size": 1, "digest": 5}',
        b'{"name": 5, "size": 1, "digest": "x"}', b'{"end": 5}', b'{"end": {"segments": 1, "x": 2}}',
        b"[]", b"5", b"x" * 5000,
    ],
)  # fmt: skip
def test_line_that_no_server_writes_is_refused(text: bytes) -> None:
    with pytest.raises(StateCorrupt, match="is not what a model server sends"):
        list(segment_stream.read([text, b"\n"]))


def test_what_comes_after_the_end_is_refused() -> None:
    whole = stream([], End(0))
    for more in ([whole + b"x"], [whole, b"", b"x"]):
        with pytest.raises(StateCorrupt, match="after the stream's end"):
            list(segment_stream.read(more))
