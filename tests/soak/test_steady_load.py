"""Under a steady rate no answer is wrong or lost, no id is given twice, and memory stays flat."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from benchmarks.serving import soak

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serving.py"


class Server(asyncio.Protocol):
    """Answers every request with the sum of its row, or as the test wants it."""

    count = 0

    def __init__(self, how):
        self.how, self.buffer = how, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head, gap, body = self.buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if not gap or len(body) < length:
            return
        self.buffer = b""
        Server.count += 1
        number = Server.count
        asyncio.get_running_loop().call_later(self.how.get("wait", 0), self.answer, number, body)

    def answer(self, number, body):
        if self.how.get("drop") and number % 10 == 0:
            self.transport.abort()
            return
        off = 0.01 if self.how.get("off") and number % 10 == 0 else 0
        rows = [[sum(row) + off] for row in json.loads(body)["inputs"]]
        data = json.dumps({"predictions": rows}).encode()
        identity = "same" if self.how.get("same") else f"id.{number}"
        status = b"503 Busy" if self.how.get("busy") and number % 10 == 0 else b"200 OK"
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nX-Prediction-Id: %s\r\n\r\n" % (
            status, len(data), identity.encode(),
        )  # fmt: skip
        # In two parts: an answer need not come in one piece.
        self.transport.write(head + data[:3])
        self.transport.write(data[3:])


def pace(rate=500, seconds=0.4, connections=4, **how):
    """A short run against such a server: the client, and its summary."""

    async def whole():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Server(how), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        questions = [
            soak.question(port, "/invocations", {}, json.dumps({"inputs": [[i, 1]]}).encode(), [[i + 1]])
            for i in range(7)
        ]  # fmt: skip
        client = soak.Client(port, questions, tolerance=1e-9, connections=connections)
        await client.open()
        await client.pace(rate, seconds)
        await client.close()
        await asyncio.sleep(0.01)  # the server's side of them
        server.close()
        memory = soak.Memory(0)
        memory.samples = array("d", [100.0, 101.0])
        return soak.summary(client, memory, rate, seconds, seconds, 0.1)

    return asyncio.run(whole())


def test_right_answers_are_all_counted():
    found = pace()
    assert (found["sent"], found["answers"]) == (200, 200)
    assert found["wrong"] == found["lost"] == found["refused"] == 0
    assert found["flat"]


def test_wrong_values_refusals_and_ids_given_twice_are_found():
    assert pace(off=True)["reasons"] == {"another value": 20}
    assert pace(busy=True)["refused"] == 20
    assert pace(same=True)["reasons"] == {"a prediction id given twice": 199}


def test_a_connection_that_breaks_loses_its_request_and_is_replaced():
    found = pace(drop=True)
    assert found["lost"] == 20
    assert found["answers"] == 180


def test_replacement_that_comes_when_all_are_closed_keeps_nobody_waiting():
    async def whole():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Server({}), "127.0.0.1", 0)
        client = soak.Client(server.sockets[0].getsockname()[1], [], tolerance=0, connections=2)
        await client.open()
        late = loop.create_task(client._again())
        await asyncio.sleep(0)
        closed = loop.create_task(client.close())
        await asyncio.wait_for(asyncio.gather(late, closed), 10)
        server.close()
        return client.open_connections

    assert asyncio.run(whole()) == set()


def test_latency_counts_from_when_a_request_was_to_be_sent():
    """One connection, 20 ms an answer: 10 requests due at once wait for one another."""
    found = pace(rate=10_000, seconds=0.001, connections=1, wait=0.02)
    assert found["answers"] == 10
    assert found["latency_ms"]["max"] >= 195
    assert found["sent_late_ms"]["max"] >= 175


def test_growing_memory_is_not_flat_and_the_warm_up_does_not_count():
    memory = soak.Memory(0)
    memory.samples = array("d", [50.0] * 5 + [100.0] * 60 + [104.0])
    assert min(memory.settled()) == 100
    rss = memory.settled()
    assert max(rss) / min(rss) - 1 <= 0.05


def run(tmp_path, *more):
    out = tmp_path / "soak.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "soak", "--careful", "--json", out, *more],
        capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(out.read_text()) if out.exists() else {}
    assert done.returncode == 0, (found.get("reasons"), done.stdout, done.stderr)
    assert found["answers"] == found["sent"]
    assert found["wrong"] == found["lost"] == found["refused"] == 0
    assert found["flat"], found["rss_mb"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_minute_of_checked_answers(tmp_path):
    """5,000 a second, or half of what this machine can do."""
    run(tmp_path, "--seconds", "60")


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_half_an_hour_of_checked_answers(tmp_path):
    run(tmp_path, "--seconds", "1800")
