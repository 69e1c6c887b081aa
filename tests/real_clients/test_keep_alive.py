"""Keep-alive clients without retries through everything that happens to a service.

Each test counts every request: 0 of them may fail, but for those that were in the hands of a worker
when it was killed. Swaps, drains and replacements are 10,000 requests together; `make soak` runs the
whole ten times.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from tests.real_clients.conftest import Serve, Served, free_port
from tests.real_clients.load import (
    HEADERS,
    Crowd,
    children,
    owners,
    resident_bytes,
    wait_for,
)

from treadle.base import supervision
from treadle.base.spec import ProcessTarget
from treadle.deploy import process

RUNS = [
    pytest.param(1, marks=[pytest.mark.slow, pytest.mark.soak]),
    *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 11)),
]


def health(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def roll_out(tmp_path: Path, folders: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Roll-outs of the process target: its supervisor swaps servers on one port."""
    home = tmp_path / "environments" / "local"

    def go(release: int, **more: Any) -> Any:
        return process.roll_out(
            home, ProcessTarget(target="process", port=0), release, folders["linear"],
            environment="local", name="demo", content="", **more,
        )  # fmt: skip

    yield go
    state = supervision.read(home / supervision.STATE, supervision.Supervised)
    try:
        process.stop(home)
    finally:
        if state is not None and supervision.alive(state):
            os.kill(state.pid, signal.SIGKILL)


@pytest.mark.parametrize("run", RUNS)
def test_no_request_fails_while_versions_are_swapped(
    roll_out: Callable[..., Any], run: int
) -> None:
    port = int(roll_out(1).address.rpartition(":")[2])
    with Crowd(lambda: port) as crowd:
        for release in range(2, 6):
            crowd.until(release * 600)
            roll_out(release, linger_s=3)
        crowd.until(crowd.answered + 1000)
    assert crowd.failures == [] and crowd.answered >= 4000
    for client in crowd.clients:
        assert client.versions.keys() <= {str(n) for n in range(1, 6)}
        assert client.versions["5"]


@pytest.mark.parametrize("run", RUNS)
def test_no_request_fails_while_servers_are_drained_one_after_the_other(
    serve: Serve, folders: dict[str, Path], run: int
) -> None:
    """As a rolling update does it: new connections go to the new one, then the old gets SIGTERM."""
    current = [serve(folders["linear"])]
    with Crowd(lambda: current[-1].port) as crowd:
        for number in range(1, 4):
            crowd.until(number * 800)
            current.append(serve(folders["linear"]))
            old = current[-2]
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(timeout=60) == 0
        crowd.until(max(3500, crowd.answered + 300))
    assert crowd.failures == [] and crowd.answered >= 3500


@pytest.fixture
def workers(serve: Serve, folders: dict[str, Path]) -> tuple[Served, Callable[[], list[int]]]:
    served = serve(folders["linear"], "--workers", "2")
    return served, lambda: children(served.process.pid)


@pytest.mark.parametrize("run", RUNS)
def test_no_request_fails_while_workers_are_replaced(
    workers: tuple[Served, Callable[[], list[int]]], run: int
) -> None:
    """SIGTERM to a worker: it drains, and another takes its place."""
    served, living = workers
    first = set(living())
    assert len(first) == 2
    with Crowd(lambda: served.port) as crowd:
        for number, pid in enumerate(sorted(first), start=1):
            crowd.until(number * 800)
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda pid=pid: pid not in living())
            wait_for(lambda: len(living()) == 2 and health(served.port) == 200)
        crowd.until(2500)
    assert crowd.failures == [] and crowd.answered >= 2500
    assert first.isdisjoint(living())


@pytest.mark.parametrize("run", RUNS)
def test_kill_9_of_a_worker_fails_its_own_requests_alone(
    workers: tuple[Served, Callable[[], list[int]]], run: int
) -> None:
    served, living = workers
    with Crowd(lambda: served.port, clients=12, pause_s=0) as crowd:
        crowd.until(1000)
        killed = living()[run % 2]
        held = owners(served.port, living())
        assert set(held.values()) == set(living())
        at = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in living())
        wait_for(lambda: len(living()) == 2 and health(served.port) == 200)
        crowd.until(crowd.answered + 1000)
    assert all(len(client.failures) <= 1 for client in crowd.clients)
    for failure in crowd.failures:
        assert failure.at - at < 5
        assert held.get(failure.local_port) == killed
    assert len(crowd.failures) <= sum(pid == killed for pid in held.values())


# ---- overload ------------------------------------------------------------------------------------


async def one(port: int, every_s: float, until: float, told: Counter[str]) -> None:
    """A client that asks at a pace of its own, whether or not there was an answer in time."""
    body = b'{"inputs": [[1.0, 2.0, 3.0]]}'
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    asked = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            writer.write(asked)
            head_read = await reader.readuntil(b"\r\n\r\n")
            lines = head_read.decode().lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if line)
            answer = await reader.readexactly(int(fields["content-length"]))
        except (OSError, asyncio.IncompleteReadError) as error:
            told[type(error).__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        status = lines[0].split()[1]
        told[status] += 1
        if status == "503":
            told["retry-after"] += "retry-after" in fields
        elif status == "200":
            told["right"] += b"7.0" in answer
        await asyncio.sleep(max(0, every_s - (time.monotonic() - began)))
    writer.close()


@pytest.mark.parametrize(
    "seconds", [pytest.param(6, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.soak)]
)
def test_33_ten_times_more_than_it_can_do_is_shed_in_words_and_recovered_from(
    serve: Serve, folders: dict[str, Path], seconds: float
) -> None:
    """Bounded memory, 503 with Retry-After for what is too much, right answers for the rest."""
    served = serve(folders["slow"], "--max-queue", "32", "--max-batch-rows", "1")
    crowd: Counter[str] = Counter()
    # What one call takes, so what it can do; nothing is coalesced with one row a batch.
    begun = time.monotonic()
    asyncio.run(one(served.port, 0, begun + 1, crowd))
    capacity = crowd.pop("200")
    crowd.clear()
    before = resident_bytes(served.process.pid)
    clients = 200

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        pace = clients / (10 * capacity)
        await asyncio.gather(*(one(served.port, pace, until, crowd) for _ in range(clients)))

    asyncio.run(all_of_them())
    assert crowd.keys() == {"200", "503", "right", "retry-after"}, crowd
    assert crowd["right"] == crowd["200"] and crowd["retry-after"] == crowd["503"]
    assert crowd["503"] > crowd["200"] > 0
    assert resident_bytes(served.process.pid) < before + (48 << 20)
    after: Counter[str] = Counter()
    asyncio.run(one(served.port, 0, time.monotonic() + 1, after))
    assert set(after) == {"200", "right"}
    with urllib.request.urlopen(f"{served.address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'treadle_requests_total{path="/invocations",status="503"}' in text


# ---- gRPC ----------------------------------------------------------------------------------------


class Calls:
    """Clients over gRPC, each with a channel of its own and no policy of retries.

    What gRPC itself does without being asked stays: a call that no server has looked at, because
    the connection was being closed, goes out once more ("transparent retry", proposal A6).
    """

    def __init__(self, port: int, clients: int = 6) -> None:
        grpc = pytest.importorskip("grpc")
        proto = pytest.importorskip("treadle.operate.codec.proto")
        self.failures: list[str] = []
        self.answered = 0
        self.versions: list[Counter[str]] = [Counter() for _ in range(clients)]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]
        request = proto.message("ModelInferRequest")(model_name="demo")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        tensor.contents.fp32_contents.extend([1, 2, 3])
        self._body = request.SerializeToString()
        self._read = proto.message("ModelInferResponse").FromString
        self._grpc, self._port = grpc, port

    def _run(self, number: int) -> None:
        grpc = self._grpc
        # Without this, all channels of the process would share one connection.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=alone) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", response_deserializer=self._read
            )
            while not self._stop.is_set():
                try:
                    answer = call(self._body, timeout=30)
                    assert answer.outputs[1].contents.fp32_contents[:] == [2, 4, 6]
                    self.answered += 1
                    self.versions[number][answer.model_version] += 1
                except (grpc.RpcError, AssertionError) as error:
                    self.failures.append(repr(error))
                time.sleep(0.004 * number)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, answered: int) -> None:
        wait_for(lambda: self.answered >= answered or len(self.failures) > 100, 180)


@pytest.mark.parametrize("run", RUNS)
def test_no_call_over_grpc_fails_while_versions_are_swapped(
    roll_out: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    port = free_port()
    monkeypatch.setenv("TREADLE_GRPC_PORT", str(port))
    roll_out(1)
    with Calls(port) as calls:
        for release in range(2, 5):
            calls.until((release - 1) * 400)
            roll_out(release, linger_s=3)
        wait_for(lambda: all(versions["4"] for versions in calls.versions) or calls.failures)
    assert calls.failures == []
    assert all(versions["4"] for versions in calls.versions)
