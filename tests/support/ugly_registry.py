"""A registry with every fault that real ones have: switched on by a test, on loopback, in threads."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Ugly:
    """The registry's content and its faults."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[tuple[str, str | None]] = []
        # ---- faults
        self.bearer: tuple[str, str] | None = None
        """(user, password) for whom tokens are given; None: no login."""
        self.tokens: dict[str, int] = {}
        """Token → requests that it is still good for."""
        self.token_uses = 1_000_000
        self.answers: list[tuple[str, int, dict[str, str], bytes]] = []
        """(method and path pattern, status, headers, body): each is given once, in order."""
        self.mounts = True
        self.cut_after: list[int] = []
        """Bodies are read to this many bytes and the connection is cut; one entry a request."""
        self.largest_patch: int | None = None
        self.lie = False
        """Blobs come with a flipped byte."""
        self.elsewhere: str | None = None
        """Blobs are redirected to this origin."""
        self.forget_uploads = False
        self.knows_referrers = False

    def serve(self) -> str:
        ugly = self

        class Handler(_Handler):
            registry = ugly

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Ugly

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes | None:
        """The body; None when the connection was cut in the middle of it."""
        left = int(self.headers.get("Content-Length") or 0)
        cut = self.registry.cut_after.pop(0) if left and self.registry.cut_after else None
        if cut is None or cut >= left:
            return self.rfile.read(left)
        self._partial = self.rfile.read(cut)
        self.close_connection = True
        return None

    def _handle(self) -> None:
        registry = self.registry
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = url.path
        registry.requests.append((self.command, self.path))
        registry.authorizations.append((path, self.headers.get("Authorization")))
        if path == "/token":
            return self._token(query)
        for number, (pattern, status, headers, body) in enumerate(registry.answers):
            if re.search(pattern, f"{self.command} {self.path}"):
                del registry.answers[number]
                self._body()
                return self._answer(status, headers, body)
        if registry.bearer is not None and not self._allowed():
            self.close_connection = True  # as servers do that have not read the body
            realm = f"http://{self.headers['Host']}/token"
            return self._answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="ugly"'})
        if path.startswith("/v2/storage/"):
            return self._answer(200, {}, registry.blobs[path.rpartition("/")[2]])
        found = re.fullmatch(
            r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>.*)", path
        )
        assert found, path
        getattr(self, f"_{found['kind']}")(found["rest"], query)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _handle

    def _token(self, query: dict[str, str]) -> None:
        import base64

        user, password = self.registry.bearer or ("", "")
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            return self._answer(401)
        token = uuid.uuid4().hex
        self.registry.tokens[token] = self.registry.token_uses
        return self._answer(200, {}, json.dumps({"token": token}).encode())

    def _allowed(self) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        left = self.registry.tokens.get(token, 0)
        self.registry.tokens[token] = left - 1
        return left > 0

    def _blobs(self, rest: str, query: dict[str, str]) -> None:
        registry = self.registry
        if not rest.startswith("uploads/"):
            data = registry.blobs.get(rest)
            if data is None:
                return self._answer(404)
            if registry.elsewhere and self.command == "GET":
                return self._answer(307, {"Location": f"{registry.elsewhere}/v2/storage/{rest}"})
            if registry.lie:
                data = bytes([data[0] ^ 1]) + data[1:]
            return self._answer(200, {"Content-Length": str(len(data))}, data)
        upload = rest.removeprefix("uploads/")
        if self.command == "POST":
            self._body()
            if "mount" in query and registry.mounts and query["mount"] in registry.blobs:
                return self._answer(201, {"Location": "/"})
            upload = uuid.uuid4().hex
            registry.uploads[upload] = bytearray()
            return self._answer(202, {"Location": self._location(upload)})
        if upload not in registry.uploads:
            self._body()
            return self._answer(404)
        held = registry.uploads[upload]
        if self.command == "GET":
            if registry.forget_uploads:
                del registry.uploads[upload]
                return self._answer(404)
            last = max(len(held) - 1, 0)
            return self._answer(204, {"Location": self._location(upload), "Range": f"0-{last}"})
        if self.command == "PATCH":
            start = int((self.headers.get("Content-Range") or "0-").partition("-")[0])
            if (
                registry.largest_patch
                and int(self.headers["Content-Length"]) > registry.largest_patch
            ):
                self._body()
                return self._answer(413)
            if start != len(held):
                self._body()
                return self._answer(416)
            data = self._body()
            held += self._partial if data is None else data
            if data is None:
                return None
            return self._answer(
                202, {"Location": self._location(upload), "Range": f"0-{len(held) - 1}"}
            )
        data = self._body()
        if data is None:
            return None
        held += data
        digest = "sha256:" + hashlib.sha256(held).hexdigest()
        if digest != query.get("digest"):
            return self._answer(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
        registry.blobs[digest] = bytes(held)
        del registry.uploads[upload]
        return self._answer(201, {"Location": "/"})

    def _location(self, upload: str) -> str:
        return f"/v2/team/flights/blobs/uploads/{upload}?state=x"

    def _manifests(self, rest: str, query: dict[str, str]) -> None:
        registry = self.registry
        if self.command == "PUT":
            data = self._body() or b""
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            kind = self.headers["Content-Type"]
            registry.manifests[digest] = registry.manifests[rest] = (data, kind)
            return self._answer(201, {"Docker-Content-Digest": digest})
        if rest not in registry.manifests:
            return self._answer(404)
        data, kind = registry.manifests[rest]
        if registry.lie:
            data += b" "
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        return self._answer(200, {"Content-Type": kind, "Docker-Content-Digest": digest}, data)

    def _tags(self, rest: str, query: dict[str, str]) -> None:
        tags = sorted(name for name in self.registry.manifests if not name.startswith("sha256:"))
        return self._answer(200, {}, json.dumps({"tags": tags}).encode())

    def _referrers(self, rest: str, query: dict[str, str]) -> None:
        return self._answer(404)
