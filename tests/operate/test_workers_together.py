"""What all workers say together, whichever is asked: counters, readiness, captured requests."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.operate.serving import Client, Served, load, wait_for

from treadle.base import segment_stream, segments
from treadle.base.segment_stream import Sent


def test_counters_add_up_over_workers_and_over_a_replacement(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2")
    first = served.until(2)
    name = ("treadle_requests_total", "/invocations", "200")

    def rows() -> float:
        return served.metrics()["treadle_predictions_total",]

    asking = load(served.port, 6, 50, lambda: None)
    answered = sum(len(client.answers) for client in asking)
    assert answered == 300
    found = served.metrics()
    assert found[name] == found["treadle_predictions_total",] == answered
    assert found["treadle_prediction_duration_seconds_count",] == answered
    assert found["treadle_batch_requests_sum",] == answered
    assert found["treadle_workers_ready",] == found["treadle_workers_wanted",] == 2
    assert len({key for key in found if key[0] == "treadle_worker_resident_memory_bytes"}) == 2

    os.kill(first.popitem()[1], signal.SIGKILL)
    seen = [rows() for _ in range(20)]
    served.until(3)
    wait_for(lambda: served.metrics()["treadle_workers_ready",] == 2)
    load(served.port, 4, 25, lambda: None)
    assert min(seen) == answered
    found = served.metrics()
    assert found[name] == found["treadle_predictions_total",] == answered + 100
    assert found["treadle_worker_restarts_total",] == 1
    wait_for(lambda: served.metrics()["treadle_queued_requests",] == 0)
    assert len({key for key in found if key[0] == "treadle_worker_resident_memory_bytes"}) == 2


def test_while_a_worker_is_missing_the_others_say_that_they_are_not_ready(
    serve: Callable[..., Served],
) -> None:
    served = serve("--workers", "2")
    first = served.until(2)
    wait_for(lambda: served.ready() == 200)
    os.kill(next(iter(first.values())), signal.SIGKILL)
    wait_for(lambda: served.logged("died by signal 9"))
    answers: list[int] = []
    wait_for(lambda: answers.append(served.ready()) or answers[-1] == 200)
    assert len(served.until(3)) == 3
    assert answers[:-1] == [503] * (len(answers) - 1)


def test_one_worker_alone_counts_and_is_ready(serve: Callable[..., Served]) -> None:
    served = serve()
    port = int(wait_for(lambda: served.logged(r"serves on http://127\.0\.0\.1:(\d+)"))[0][1])
    client = Client(port)
    client.predict()
    assert client.once("/v2/health/ready", None)[0] == 200
    text = client.once("/metrics", None)[1].decode()
    assert "treadle_workers_ready 1.0\n" in text
    assert "treadle_workers_wanted 1.0\n" in text
    assert 'treadle_requests_total{path="/invocations",status="200"} 1.0\n' in text


def test_captured_requests_of_all_workers_are_told_by_any(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve("--workers", "2", "--capture", str(tmp_path / "capture"))
    served.until(2)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)

    def captured() -> float:
        """Of one worker alone, as it is one connection."""
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = re.search(r"^treadle_captured_requests_total (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else -1

    load(served.port, 6, 20, lambda: None)
    wait_for(lambda: captured() == 120)
    connection.close()


def test_what_workers_captured_is_handed_out_to_the_last_request(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve(
        "--workers", "2", TREADLE_CAPTURE=str(tmp_path), TREADLE_CAPTURE_WAIT="60",
    )  # fmt: skip
    served.until(2)
    asking = load(served.port, 4, 10, lambda: None)
    assert [c.failures for c in asking] == [0] * 4
    first = handed_out(tmp_path, served.process.pid)
    load(served.port, 4, 5, lambda: None)
    served.process.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "ended").exists)
    assert served.process.poll() is None, "it waits for who collects"
    last = handed_out(tmp_path, served.process.pid)
    assert served.process.wait(30) == 0
    assert first == 40
    assert first + last == 60


def handed_out(folder: Path, server: int) -> int:
    """Send and drop, as who collects does; the number of records."""
    command = [sys.executable, "-m", "treadle.operate", "capture"]
    place = ["--folder", str(folder), "--server", str(server)]
    done = subprocess.run([*command, "send", *place], capture_output=True, check=True)
    names = [one.name for one in segment_stream.read([done.stdout]) if isinstance(one, Sent)]
    found = [one.segment for one in segments.read_segments(folder) if one.segment in names]
    subprocess.run([*command, "drop", *names, *place], check=True)
    return len(found)
