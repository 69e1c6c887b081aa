"""Captured segments leave a container: whole, once, and the last of them too."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.operate.test_capture import capture, offer, taken
from tests.operate.test_segments import record

from treadle.base import segment_stream, segments
from treadle.base.segment_stream import End, Sent
from treadle.operate import handout
from treadle.operate.__main__ import main


def sent(folder: Path, **options) -> tuple[list[str], End]:
    out = io.BytesIO()
    handout.send(folder, out, finish_s=0.2, **options)
    found = list(segment_stream.read([out.getvalue()]))
    end = found[-1]
    assert isinstance(end, End)
    return [one.name for one in found if isinstance(one, Sent)], end


def write(folder: Path, *numbers: int, close: bool = True) -> segments.SegmentWriter:
    writer = segments.SegmentWriter(folder, "abc")
    writer.append([segments.encode(record(number)) for number in numbers])
    if close:
        writer.close()
    return writer


def test_finished_segments_are_sent_until_they_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 1)
    first, end = sent(tmp_path)
    assert len(first) == 1
    assert end == End(1)
    assert sent(tmp_path)[0] == first, "nobody has said that it is kept"
    handout.drop(tmp_path, [*first, "../elsewhere.msgpack", "gone.msgpack"])
    assert sent(tmp_path) == ([], End(0))


def test_segment_that_is_being_written_waits_for_the_next_time(tmp_path: Path) -> None:
    writer = write(tmp_path, 1, close=False)
    assert sent(tmp_path) == ([], End(0, writing=1))
    writer.close()
    assert len(sent(tmp_path)[0]) == 1


def test_segment_whose_writer_was_killed_is_sent(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from tests.operate.test_handout import write\n"
        "write(pathlib.Path(sys.argv[1]), 1, 2, close=False); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".open"]
    assert len(sent(tmp_path)[0]) == 1
    assert len(list(segments.read_segments(tmp_path))) == 2


def test_two_writers_of_one_instance_in_one_moment_have_files_of_their_own(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(segments.clock, "now", lambda moment=segments.clock.now(): moment)
    for number in range(3):
        write(tmp_path, number)
    write(tmp_path, 3, close=False)
    write(tmp_path, 4, close=False)
    assert len(list(segments.read_segments(tmp_path))) == 5


def test_beyond_its_bytes_nothing_is_kept_and_the_collector_is_told(tmp_path: Path) -> None:
    box = capture(tmp_path, most_bytes=400)
    for number in range(20):
        offer(box, taken(number))
        box.flush()
    assert 0 < box.captured < 20
    assert box.captured + box.dropped["disk"] == 20
    assert handout.waiting(tmp_path) <= 400
    names, end = sent(tmp_path)
    assert end.full == box.dropped["disk"]
    handout.drop(tmp_path, names)
    before = box.captured
    offer(box, taken(21))
    box.close()
    assert box.captured == before + 1, "there is room again"
    assert sent(tmp_path)[1].full == 0


def test_ended_server_waits_until_its_segments_are_taken(tmp_path: Path) -> None:
    write(tmp_path, 1)
    waiting = subprocess.Popen([
        sys.executable, "-c",
        "import sys, pathlib; from treadle.operate import handout; "
        "handout.wait(pathlib.Path(sys.argv[1]), 30)", str(tmp_path),
    ])  # fmt: skip
    until = time.monotonic() + 20
    while not (tmp_path / "ended").exists() and time.monotonic() < until:
        time.sleep(0.01)
    names, end = sent(tmp_path, server=waiting.pid)
    assert end.ended
    assert waiting.poll() is None
    handout.drop(tmp_path, names)
    assert waiting.wait(10) == 0
    handout.begin(tmp_path)
    assert not sent(tmp_path)[1].ended


def test_ended_server_that_nobody_asks_goes_after_a_while(tmp_path: Path) -> None:
    write(tmp_path, 1)
    began = time.monotonic()
    subprocess.run([
        sys.executable, "-c",
        "import sys, pathlib; from treadle.operate import handout; "
        "handout.wait(pathlib.Path(sys.argv[1]), 0.5)", str(tmp_path),
    ], check=True)  # fmt: skip
    assert time.monotonic() - began < 20
    assert len(sent(tmp_path)[0]) == 1


def test_process_that_is_no_model_server_gets_no_signal(tmp_path: Path) -> None:
    writer = write(tmp_path, 1, close=False)
    other = subprocess.Popen(["sleep", "30"])
    try:
        assert sent(tmp_path, server=other.pid)[1].writing == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    writer.close()


def test_asked_server_finishes_what_it_writes(tmp_path: Path) -> None:
    box = capture(tmp_path)
    asked = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: (asked.set(), box.flush(0)))
    offer(box, taken(1))
    until = time.monotonic() + 10
    while not list(tmp_path.glob("*.open")) and time.monotonic() < until:
        time.sleep(0.01)
    real = handout._ask
    try:
        handout._ask = lambda pid: os.kill(pid, signal.SIGUSR1) is None
        out = io.BytesIO()
        handout.send(tmp_path, out, server=os.getpid())
    finally:
        handout._ask = real
        signal.signal(signal.SIGUSR1, before)
        box.close()
    assert asked.is_set()
    (name,) = [one.name for one in segment_stream.read([out.getvalue()]) if isinstance(one, Sent)]
    assert name.endswith(".msgpack")


def test_wrong_words_are_said(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("TREADLE_CAPTURE", raising=False)
    assert main(["capture", "send"]) == 2
    assert "nothing is captured here" in capsys.readouterr().err
    assert main(["capture", "send", "name", "--folder", str(tmp_path)]) == 2
    assert "takes no names" in capsys.readouterr().err
