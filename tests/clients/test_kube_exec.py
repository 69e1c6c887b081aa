"""clients/kube_exec.py against a WebSocket server: logins, ends, and connections that break off."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightkube")
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from treadle.base.errors import Refused, Unreachable
from treadle.clients import kube_login
from treadle.clients.kube import ApiCluster

SUCCESS = b"\x03" + json.dumps({"status": "Success"}).encode()
Handler = Callable[[ServerConnection], Awaitable[None]]


class Server:
    """An API server that knows nothing but one command's end."""

    def __init__(
        self,
        kubeconfig: Path,
        tls: ssl.SSLContext | None = None,
        user: dict[str, Any] | None = None,
        **about: str,
    ) -> None:
        """`user`, and what is said `about` the cluster: what a kubeconfig needs to be let in."""
        self.kubeconfig, self.scheme = kubeconfig, "https" if tls else "http"
        self.user, self.about = user or {}, about
        self.handler: Handler = sends()
        self.refuse: Callable[[Request], Response | None] = lambda request: None
        self.paths: list[str] = []
        self._listening, self._over = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(tls),)
        )
        self._thread.start()
        self._listening.wait()

    async def _serve(self, tls: ssl.SSLContext | None) -> None:
        async with serve(
            lambda connection: self.handler(connection), "127.0.0.1", 0, ssl=tls,
            subprotocols=["v5.channel.k8s.io"], process_request=self._request,
        ) as server:  # fmt: skip
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._listening.set()
            await self._over.wait()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        return self.refuse(request)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._loop.close()

    def run(
        self,
        user: dict[str, Any] | None = None,
        prefix: str = "",
        patience_s: float = 20,
        **more: str,
    ) -> bytes:
        """Output of a command, by a kubeconfig of this server."""
        about = {"server": f"{self.scheme}://127.0.0.1:{self.port}{prefix}", **self.about, **more}
        told = {
            "clusters": [{"name": "c", "cluster": about}],
            "users": [{"name": "u", "user": self.user if user is None else user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        self.kubeconfig.write_text(json.dumps(told))
        cluster = ApiCluster("c")
        try:
            return say(cluster, patience_s)
        finally:
            cluster.close()


def say(cluster: ApiCluster, patience_s: float = 20) -> bytes:
    said = cluster.execute("n", "p", ["say", "a b&c"], container="main", patience_s=patience_s)
    return b"".join(said)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    kube_login._known.clear()
    found = Server(tmp_path / "kubeconfig")
    yield found
    found.close()


def sends(*frames: bytes) -> Handler:
    async def handler(connection: ServerConnection) -> None:
        for frame in frames:
            await connection.send(frame)

    return handler


def test_output_is_what_channel_1_says_and_words_reach_the_server_whole(server: Server) -> None:
    server.handler = sends(b"\x01", b"\x01ab", b"\x02no", b"\x01\x00", SUCCESS)
    assert server.run(prefix="/k8s/clusters/c-1/") == b"ab\x00"
    query = "command=say&command=a+b%26c&container=main&stdout=true&stderr=true"
    assert server.paths == [f"/k8s/clusters/c-1/api/v1/namespaces/n/pods/p/exec?{query}"]


def test_connection_that_ends_without_a_status_is_cut_off(server: Server) -> None:
    server.handler = sends(b"\x01ab")
    with pytest.raises(Unreachable, match="say a b&c in p: the connection was cut off"):
        server.run()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}, "say a b&c in p ended with 3: no"),
        ({"status": "Failure", "message": "no such program"}, "say a b&c in p failed: no"),
        ({}, "say a b&c in p failed"),
    ],
)  # fmt: skip
def test_command_that_fails_is_refused(server: Server, status: dict, said: str) -> None:
    server.handler = sends(b"\x02no", b"\x03" + json.dumps(status).encode())
    with pytest.raises(Refused, match=said):
        server.run()


def test_status_that_is_no_json_is_no_success(server: Server) -> None:
    server.handler = sends(b"\x03what")
    with pytest.raises(Refused, match="say a b&c in p failed"):
        server.run()


def test_server_that_answers_otherwise_is_heard(server: Server) -> None:
    server.refuse = lambda request: Response(403, "Forbidden", Headers(), b'{"message": "no"}')
    with pytest.raises(Refused, match="not allowed: no"):
        server.run()
    server.refuse = lambda request: Response(200, "OK", Headers(), b"{}")
    with pytest.raises(Unreachable, match="the API server answers 200"):
        server.run()


def test_token_of_the_kubeconfig_is_sent(server: Server) -> None:
    seen: list[str | None] = []

    def look(request: Request) -> None:
        seen.append(request.headers.get("Authorization"))

    server.refuse = look
    server.handler = sends(SUCCESS)
    assert server.run({"token": "abc"}) == b""
    assert seen == ["Bearer abc"]


def login(folder: Path) -> dict[str, Any]:
    """A login by a command, as those of cloud providers: t1, t2 and so on."""
    program = folder / "login"
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "t$(wc -l < $0.count | tr -d ' ')"},
    }  # fmt: skip
    said = json.dumps(answer).replace('"', '\\"')
    program.write_text(f'#!/bin/sh\necho x >> $0.count\necho "{said}"\n')
    program.chmod(0o755)
    version = answer["apiVersion"]
    return {"exec": {"apiVersion": version, "command": str(program), "interactiveMode": "Never"}}


def test_token_that_is_not_taken_is_made_anew_once(server: Server, tmp_path: Path) -> None:
    server.handler = sends(SUCCESS)
    seen: list[str | None] = []

    def old(request: Request) -> Response | None:
        seen.append(request.headers.get("Authorization"))
        return Response(401, "Unauthorized", Headers(), b"no") if seen[-1] == "Bearer t1" else None

    server.refuse = old
    assert server.run(login(tmp_path)) == b""
    assert server.run(login(tmp_path)) == b"", "known from before"
    assert seen == ["Bearer t1", "Bearer t2", "Bearer t2"]
    server.paths.clear()
    server.refuse = lambda request: Response(401, "Unauthorized", Headers(), b"no")
    with pytest.raises(Refused, match="is not accepted: no"):
        server.run(login(tmp_path))
    assert len(server.paths) == 2


def test_token_file_that_was_renewed_is_read_again(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    def old(request: Request) -> Response | None:
        if request.headers.get("Authorization") == "Bearer new":
            return None
        token.write_text("new")
        return Response(401, "Unauthorized", Headers(), b"no")

    server.refuse = old
    server.handler = sends(SUCCESS)
    assert server.run({"tokenFile": str(token)}) == b""
    assert len(server.paths) == 2


def test_server_that_is_not_there_is_unreachable(server: Server) -> None:
    server.close()
    with pytest.raises(Unreachable, match="cut off"):
        server.run()


def openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, for `inside.test` alone, and its key."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=inside.test",
        "-addext", "subjectAltName=DNS:inside.test", folder=folder,
    )  # fmt: skip
    return folder


@pytest.fixture
def secure(certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server over TLS that wants a certificate of its clients."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    cert, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert)
    tls.load_cert_chain(cert, key)
    tls.verify_mode = ssl.CERT_REQUIRED
    about = {"certificate-authority": cert, "tls-server-name": "inside.test"}
    found = Server(
        tmp_path / "kubeconfig", tls, {"client-certificate": cert, "client-key": key}, **about
    )
    yield found
    found.close()


def test_tls_is_by_the_kubeconfigs_authority_name_and_certificate(secure: Server) -> None:
    secure.handler = sends(b"\x01ab", SUCCESS)
    assert secure.run() == b"ab"
    with pytest.raises(Unreachable, match="IP address mismatch"):
        secure.run(**{"tls-server-name": ""})
    with pytest.raises(Unreachable, match="cut off"):
        secure.run({})


def test_no_second_thread_reads_or_writes_a_connection(
    secure: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lost commands over TLS, and once the whole process: OpenSSL's are not made for two."""
    secure.handler = sends(b"\x01ab", SUCCESS)
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    assert secure.run() == b"ab"
    assert started == []


class Silence:
    """A server's, from one moment on: a handler, or an answer to a request."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.given_up = False
        """Whether the server gave up first."""

    def __call__(self, request: Request) -> None:
        self.given_up = not self.over.wait(20)  # its only thread: it answers nothing at all

    async def after_a_frame(self, connection: ServerConnection) -> None:
        await connection.send(b"\x01ab")
        await asyncio.sleep(0.1)  # it is sent
        self(connection.request)


@pytest.mark.parametrize("kind", ["server", "secure"])
@pytest.mark.parametrize("begun", [False, True])
def test_server_that_falls_silent_is_given_up(
    kind: str, begun: bool, request: pytest.FixtureRequest
) -> None:
    server, silence = request.getfixturevalue(kind), Silence()
    if begun:
        server.handler = silence.after_a_frame
    else:
        server.refuse = silence
    try:
        with pytest.raises(Unreachable, match="nothing came for 0.5 s" if begun else "timed out"):
            server.run(patience_s=0.5)
        assert len(server.paths) == 1
    finally:
        silence.over.set()
        server.close()
    assert not silence.given_up


def test_proxy_of_the_kubeconfig_is_gone_through(server: Server) -> None:
    """A proxy that lets nobody through is asked, and the server is not."""
    proxy = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def refuses() -> None:
        connection, _ = proxy.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=refuses)
    thread.start()
    with pytest.raises(Unreachable, match="cut off"):
        server.run(**{"proxy-url": f"http://127.0.0.1:{proxy.getsockname()[1]}"})
    thread.join()
    proxy.close()
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode())
    assert server.paths == []
