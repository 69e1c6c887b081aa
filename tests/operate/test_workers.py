"""Several workers on one port, as processes: how they begin, serve and end."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.operate.serving import BODY, JSON, Client, Served, load, wait_for

from treadle.base import supervision


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
