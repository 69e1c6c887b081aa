"""clients/kube_exec.py against a WebSocket server: logins, ends, and connections that break off."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightkube")
from lightkube.config.kubeconfig import KubeConfig
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from treadle.base.errors import Refused, Unreachable
from treadle.clients import kube_exec

SUCCESS = b"\x03" + json.dumps({"status": "Success"}).encode()
Handler = Callable[[ServerConnection], None]


class Server:
    """An API server that knows nothing but one command's end."""

    def __init__(self) -> None:
        self.handler: Handler = lambda connection: None
        self.refuse: Callable[[Request], Response | None] = lambda request: None
        self.paths: list[str] = []
        self._server = serve(
            lambda connection: self.handler(connection), "127.0.0.1", 0,
            subprotocols=["v5.channel.k8s.io"], process_request=self._request,
        )  # fmt: skip
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        return self.refuse(request)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def run(self, user: dict[str, Any] | None = None, prefix: str = "") -> bytes:
        config = KubeConfig.from_dict({
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}{prefix}"}}],
            "users": [{"name": "u", "user": user or {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }).get()  # fmt: skip
        found = kube_exec.run(config, "/exec", ["say", "a b&c"], container="main", what="say in p")
        return b"".join(found)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def sends(*frames: bytes) -> Handler:
    def handler(connection: ServerConnection) -> None:
        for frame in frames:
            connection.send(frame)

    return handler


def test_output_is_what_channel_1_says_and_words_reach_the_server_whole(server: Server) -> None:
    server.handler = sends(b"\x01", b"\x01ab", b"\x02no", b"\x01\x00", SUCCESS)
    assert server.run(prefix="/k8s/clusters/c-1/") == b"ab\x00"
    path = (
        "/k8s/clusters/c-1/exec?command=say&command=a+b%26c&container=main&stdout=true&stderr=true"
    )
    assert server.paths == [path]


def test_connection_that_ends_without_a_status_is_cut_off(server: Server) -> None:
    server.handler = sends(b"\x01ab")
    with pytest.raises(Unreachable, match="say in p: the connection was cut off"):
        server.run()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}, "say in p ended with 3: no"),
        ({"status": "Failure", "message": "no such program"}, "say in p failed: no"),
        ({}, "say in p failed"),
    ],
)  # fmt: skip
def test_command_that_fails_is_refused(server: Server, status: dict, said: str) -> None:
    server.handler = sends(b"\x02no", b"\x03" + json.dumps(status).encode())
    with pytest.raises(Refused, match=said):
        server.run()


def test_status_that_is_no_json_is_no_success(server: Server) -> None:
    server.handler = sends(b"\x03what")
    with pytest.raises(Refused, match="say in p failed"):
        server.run()


def test_server_that_answers_otherwise_is_told_with_its_status(server: Server) -> None:
    body = b'{"message": "no"}'
    server.refuse = lambda request: Response(403, "Forbidden", Headers(), body)
    with pytest.raises(kube_exec.NotUpgraded) as caught:
        server.run()
    assert (caught.value.status, caught.value.body) == (403, body)


def test_token_of_the_kubeconfig_is_sent(server: Server) -> None:
    seen: list[str | None] = []

    def look(request: Request) -> None:
        seen.append(request.headers.get("Authorization"))

    server.refuse = look
    server.handler = sends(SUCCESS)
    assert server.run({"token": "abc"}) == b""
    assert seen == ["Bearer abc"]


def test_token_that_is_not_taken_is_made_anew_once(server: Server, tmp_path: Path) -> None:
    """A login by a command, as those of cloud providers: asked again when the server says 401."""
    program = tmp_path / "login"
    program.write_text(
        "#!/bin/sh\necho x >> $0.count\n"
        'echo "{\\"status\\": {\\"token\\": \\"t$(wc -l < $0.count)\\"}}"\n'
    )
    program.chmod(0o755)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": str(program)}}
    server.handler = sends(SUCCESS)
    seen: list[str | None] = []

    def old(request: Request) -> Response | None:
        seen.append(request.headers.get("Authorization"))
        return Response(401, "Unauthorized", Headers(), b"no") if seen[-1] == "Bearer t0" else None

    server.refuse = old
    assert server.run(user) == b""
    assert seen == ["Bearer t1"]
    server.refuse = lambda request: Response(401, "Unauthorized", Headers(), b"no")
    with pytest.raises(kube_exec.NotUpgraded) as caught:
        server.run(user)
    assert caught.value.status == 401


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
