"""Several workers on one port, as processes: death, silence, swap; a client never retries."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy import models

from treadle.base import segment_stream, segments, supervision
from treadle.base.segment_stream import Sent
from treadle.base.supervision import Supervised, Wanted
from treadle.deploy import process as target

BODY = json.dumps({"dataframe_split": {"columns": ["x", "z"], "data": [[1.0, 2.0]]}})
JSON = {"Content-Type": "application/json"}


def wait_for(what: Callable[[], Any], seconds: float = 60, log: Any = ()) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen in time:\n" + "".join(log)
        time.sleep(0.05)
    return found


class Client:
    """One keep-alive connection. A lost answer is a failure; then it connects again."""

    def __init__(self, port: int) -> None:
        self.port, self.failures, self.answers = port, 0, []  # type: int, int, list[Any]
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, path: str = "/invocations", body: str | None = BODY) -> Any:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self._connection.request("POST" if body else "GET", path, body, JSON)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.failures += 1
            self.close()
            return None
        if answer.headers["Connection"] == "close":
            self.close()
        return answer.status, data, answer.headers

    def once(self, path: str = "/invocations", body: str | None = BODY) -> Any:
        found = self.ask(path, body)
        self.close()
        assert found is not None
        return found

    def predict(self) -> None:
        found = self.ask()
        if found is not None:
            self.answers.append(
                (found[0], json.loads(found[1]), found[2]["X-Prediction-Id"].split(".")[2])
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Served:
    """`serve --workers N`, and what it logs."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "treadle.operate", "serve", *arguments, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for line in lines:
                self.lines.append(line)

    def logged(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in list(self.lines) if (found := re.search(pattern, line))]

    @property
    def port(self) -> int:
        return int(wait_for(lambda: self.logged(r"began \(pid \d+\) on 127\.0\.0\.1:(\d+)"))[0][1])

    @property
    def pids(self) -> dict[str, int]:
        """Instance → pid of all workers that ever served, the oldest first."""
        started = {m[1]: int(m[2]) for m in self.logged(r"\(instance (\S+), pid (\d+)")}
        return {m[1]: started[m[1]] for m in self.logged(r"\(instance (\S+)\) serves$")}

    def until(self, workers: int) -> dict[str, int]:
        """Wait until as many have served in all."""
        return wait_for(
            lambda: (p := self.pids) and len(p) >= workers and p, seconds=90, log=self.lines
        )

    def metrics(self) -> dict[tuple[str, ...], float]:
        status, text, _ = Client(self.port).once("/metrics", None)
        assert status == 200
        return {
            (s.name, *s.labels.values()): s.value
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
        }

    def ready(self) -> int:
        return Client(self.port).once("/v2/health/ready", None)[0]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self._reader.join()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {
        "one": models.linear(home / "one", 1, 0),
        "two": models.linear(home / "two", 0, 1),
        "broken": models.linear(home / "broken", 1, 1, broken=True),
    }


@pytest.fixture
def serve(folders: dict[str, Path]) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def go(*arguments: str, model: str = "one", **environ: str) -> Served:
        started.append(Served(str(folders[model]), *arguments, **environ))
        return started[-1]

    yield go
    for served in started:
        if served.process.poll() is None:
            served.end()
        served._reader.join()


def load(port: int, clients: int, requests: int, during: Callable[[], None]) -> list[Client]:
    """Each client asks so many times, on a connection of its own, while something happens."""
    asking = [Client(port) for _ in range(clients)]
    half = threading.Barrier(clients + 1)

    def go(client: Client) -> None:
        for number in range(requests):
            if number == requests // 4:
                half.wait()
            client.predict()
        client.close()

    threads = [threading.Thread(target=go, args=(client,)) for client in asking]
    for thread in threads:
        thread.start()
    half.wait()
    during()
    for thread in threads:
        thread.join()
    return asking


def test_two_workers_serve_one_port_and_end_together(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", "--instance", "here")
    pids = served.until(2)
    assert len(set(pids.values())) == 2
    assert all(re.fullmatch("here-[0-9a-f]{4}", name) for name in pids)
    asking = load(served.port, 8, 20, lambda: None)
    assert [c.failures for c in asking] == [0] * 8
    assert all(a[:2] == (200, {"predictions": [1.0]}) for c in asking for a in c.answers)
    assert {a[2] for c in asking for a in c.answers} <= set(pids)
    assert served.end() == 0
    for pid in pids.values():
        assert supervision.start_of(pid) == ""


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


def test_workers_asked_to_leave_answer_once_more_and_end_by_themselves(
    serve: Callable[..., Served],
) -> None:
    served = serve("--workers", "2")
    pids = served.until(2)
    asking = [Client(served.port) for _ in range(6)]
    for client in asking:
        client.predict()
    served.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: served.logged("asked to leave after a swap"), log=served.lines)
    for client in asking:
        client.predict()  # on the connection from before: the server lingers for it
    assert [client.failures for client in asking] == [0] * 6
    assert [len(client.answers) for client in asking] == [2] * 6
    assert served.process.wait(timeout=60) == 0
    for pid in pids.values():
        assert supervision.start_of(pid) == ""


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_worker_loses_its_own_requests_alone_and_is_replaced(
    serve: Callable[..., Served], rounds: int
) -> None:
    served = serve("--workers", "2")
    for number in range(rounds):
        before = served.until(2 + number)
        victim = list(before)[-1]
        asking = load(served.port, 6, 250, lambda: os.kill(before[victim], signal.SIGKILL))  # noqa: B023
        for client in asking:
            # A connection fails once at most: what was in flight; its next one finds somebody.
            assert client.failures <= 1
            assert len(client.answers) + client.failures == 250
            assert all(a[:2] == (200, {"predictions": [1.0]}) for a in client.answers)
        after = served.until(3 + number)
        assert list(after)[: len(before)] == list(before)
    assert len(served.logged("died by signal 9")) == rounds
    assert served.end() == 0


def test_a_stopped_worker_is_killed_and_replaced(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", TREADLE_STUCK_AFTER="5")
    first = served.until(2)
    stopped = next(iter(first.values()))
    os.kill(stopped, signal.SIGSTOP)
    after = served.until(3)
    assert served.logged(rf"killing pid {stopped}, stuck: no sign of life for \d+ s")
    assert supervision.start_of(stopped) == ""
    asking = load(served.port, 4, 10, lambda: None)
    assert [c.failures for c in asking] == [0] * 4
    assert stopped not in list(after.values())[1:]


def test_a_reload_loses_no_request(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", "--linger", "5")
    first = served.until(2)

    def reload() -> None:
        served.process.send_signal(signal.SIGHUP)
        served.until(4)

    # Enough to last until the new ones serve, and some more.
    asking = [Client(served.port) for _ in range(4)]
    stop = threading.Event()

    def go(client: Client, pause: float) -> None:
        while not stop.is_set() and len(client.answers) < 2000:
            client.predict()
            time.sleep(pause)

    threads = [
        threading.Thread(target=go, args=(client, 0.005 * (number + 1)))
        for number, client in enumerate(asking)
    ]
    for thread in threads:
        thread.start()
    reload()
    counts = [len(client.answers) for client in asking]
    wait_for(lambda: all(len(c.answers) > n + 3 for c, n in zip(asking, counts, strict=True)))
    stop.set()
    for thread in threads:
        thread.join()
    for client in asking:
        client.close()
    old = set(first)
    for client in asking:
        assert client.failures == 0
        assert {a[:1] for a in client.answers} == {(200,)}
        generations = [a[2] in old for a in client.answers]
        assert generations == sorted(generations, reverse=True)  # never back to an old one
        assert not generations[-1]
    assert served.logged("on the input example: 2 rows, worst difference 0")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_after_any_accidents_all_workers_serve_and_none_is_left_over(
    serve: Callable[..., Served], seed: int
) -> None:
    chance = random.Random(seed)
    served = serve("--workers", "3", "--stuck-after", "4", "--linger", "0.5")
    served.until(3)
    wait_for(lambda: served.ready() == 200)
    for _ in range(12):
        pids = [pid for pid in served.pids.values() if supervision.start_of(pid)]
        accident = chance.choice(("kill", "stop", "reload", "end", "wait"))
        if accident == "reload":
            served.process.send_signal(signal.SIGHUP)
        elif accident == "wait":
            time.sleep(chance.random())
        elif pids:
            number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), number[accident])
        time.sleep(chance.random() / 2)

    def processes() -> list[int]:
        """Workers of this supervisor, however they are."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(served.process.pid)],
            capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        return [int(pid) for pid in listed]

    wait_for(lambda: len(processes()) == 3 and served.metrics()["treadle_workers_ready",] == 3, 120)
    asking = load(served.port, 6, 20, lambda: None)
    assert [c.failures for c in asking] == [0] * 6
    assert all(a[:2] == (200, {"predictions": [1.0]}) for c in asking for a in c.answers)
    last = processes()
    assert served.end() == 0
    assert not any(supervision.start_of(pid) for pid in last)


def test_when_the_supervisor_is_killed_its_workers_end(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2")
    pids = served.until(2)
    served.process.kill()
    wait_for(lambda: not any(supervision.start_of(pid) for pid in pids.values()))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_does_not_load_ends_the_server_with_its_reason(
    serve: Callable[..., Served], workers: str
) -> None:
    served = serve("--workers", workers, model="broken")
    assert served.process.wait(timeout=60) not in (0, None)
    wait_for(lambda: served.logged("error: |could not start|did not get ready"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_as_the_first_process_of_a_container_it_ends_when_asked(
    folders: dict[str, Path], workers: str
) -> None:
    """The kernel gives process 1 no default handlers, and every orphan."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no process namespaces for this user")
    command = [sys.executable, "-P", "-m", "treadle.operate", "serve", str(folders["one"]),
               "--port", "0", "--workers", workers]  # fmt: skip
    # The shell leaves an orphan behind, which has ended when the server is asked to end.
    orphan = ["sh", "-c", '(sleep 0.1 & ) ; exec "$@"', "sh", *command]
    with subprocess.Popen([*inside, *orphan], stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr
        try:
            for line in served.stderr:
                if "serves on" in line:
                    break
            first = _child(served.pid)
            assert first
            if workers == "2":
                wait_for(lambda: not _zombies(first))
            os.kill(first, signal.SIGTERM)
            assert served.wait(timeout=60) == 0
        finally:
            served.kill()


def _child(pid: int) -> int | None:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def _zombies(pid: int) -> list[str]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for one in found if supervision.start_of(int(one)) == ""]


def test_a_port_in_use_is_said_before_anything_is_loaded(folders: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for workers in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-P", "-m", "treadle.operate", "serve", str(folders["one"]),
                 "--workers", workers, "--port", port],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == 2
            assert f"127.0.0.1:{port}: Address already in use" in done.stderr
            assert "starting release" not in done.stderr


# ---- the process target's folder -----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "local"
    home.mkdir()
    yield home
    target.stop(home, timeout_s=60)


def test_a_folder_of_two_workers_swaps_refuses_and_compares(
    folder: Path, folders: dict[str, Path]
) -> None:
    def want(number: int, model: str, workers: int) -> Wanted:
        wanted = Wanted(f"w{number}", str(folders[model]), number, "", ("--name", "demo"),
                        linger_s=1, workers=workers)  # fmt: skip
        supervision.write(folder / supervision.WANTED, wanted)
        return wanted

    def state() -> Supervised:
        found = supervision.read(folder / supervision.STATE, Supervised)
        assert found is not None
        return found

    wanted = want(1, "one", 2)
    with target._listen("127.0.0.1", 0, wanted_port=0, retry=False) as listener:
        port = listener.getsockname()[1]
        process = target._spawn(folder, listener, None)
    first = target._await(folder, wanted, process, 60)
    assert (first.status, first.workers, first.ready, first.error) == ("serving", 2, 2, None)
    assert first.instance == first.instances[0]
    assert first.server_pid == first.server_pids[0]
    assert first.compared is None

    wanted = want(2, "broken", 2)
    os.kill(first.pid, signal.SIGHUP)
    refused = target._await(folder, wanted, None, 60)
    assert refused.error and (refused.release, refused.ready) == (1, 2)
    assert refused.instances == first.instances

    # One of a new generation that is ready and waits for the others dies: all of them go.
    wanted = want(3, "two", 3)
    os.kill(first.pid, signal.SIGHUP)
    log = folder / supervision.LOG
    wait_for(lambda: "worker 2 of 3" in log.read_text())
    early = re.search(r"pid (\d+), worker 1 of 3", log.read_text())
    assert early
    os.kill(int(early[1]), signal.SIGKILL)
    refused = target._await(folder, wanted, None, 60)
    assert refused.error == "the server died by signal 9 before it was ready"
    assert (refused.release, refused.instances) == (1, first.instances)

    wanted = want(4, "two", 3)
    os.kill(first.pid, signal.SIGHUP)
    third = target._await(folder, wanted, None, 60)
    assert (third.release, third.ready, third.workers, third.error) == (4, 3, 3, None)
    assert third.compared == "2 rows, worst difference 1 in y"  # x=1, z=2 and x=3, z=4
    assert Client(port).once()[1] == b'{"predictions":[2.0]}'

    os.kill(third.server_pids[1], signal.SIGKILL)
    wait_for(lambda: state().restarts == 1 and state().ready == 3)
    assert set(third.instances) - set(state().instances) == {third.instances[1]}


# ---- what all workers say together ---------------------------------------------------------------


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


def test_a_reload_is_never_not_ready(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", "--linger", "0.2")
    served.until(2)
    wait_for(lambda: served.ready() == 200)
    answers = []
    served.process.send_signal(signal.SIGHUP)
    while len(served.pids) < 4:
        answers.append(served.ready())
    answers += [served.ready() for _ in range(20)]
    assert set(answers) == {200}
    assert served.metrics()["treadle_workers_wanted",] == 2


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


def test_token_tls_and_grpc_are_those_of_every_worker(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    grpc = pytest.importorskip("grpc", reason="pip install 'treadle[grpc]'")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pem = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(pem), "-out", str(tmp_path / "certificate.pem"), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = (tmp_path / "certificate.pem").read_bytes()
    pem.write_bytes(certificate + pem.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        beside = free.getsockname()[1]
    served = serve(
        "--workers", "2", "--tls-certificate", str(pem), "--grpc-port", str(beside),
        TREADLE_TOKEN="s3cret",
    )  # fmt: skip
    served.until(2)
    assert not served.logged("everybody who reaches")
    trusted = ssl.create_default_context(cadata=certificate.decode())
    for _ in range(8):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", served.port, timeout=60, context=trusted
        )
        for token, status in (("wrong", 401), ("s3cret", 200)):
            headers = {**JSON, "Authorization": f"Bearer {token}"}
            connection.request("POST", "/invocations", BODY, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            if answer.headers["Connection"] == "close":
                connection.close()
        connection.close()
    for _ in range(4):
        credentials = grpc.ssl_channel_credentials(certificate)
        with grpc.secure_channel(f"127.0.0.1:{beside}", credentials) as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            assert ready(b"", timeout=60) == b"\x08\x01"
            model = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            with pytest.raises(grpc.RpcError) as refused:
                model(b"", timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
