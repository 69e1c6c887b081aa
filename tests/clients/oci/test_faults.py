"""clients/oci: what goes wrong between two requests, between two hosts and between two calls."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.clients.oci.test_registry import LARGE, blob, client, image, login
from tests.support.ugly_registry import Ugly

from treadle.base.digest import digest_bytes
from treadle.base.errors import Refused, StateCorrupt, TreadleError, Unreachable, UsageError
from treadle.base.image import LAYER_TAR, OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Platform
from treadle.clients.cache import Cache
from treadle.clients.oci import source
from treadle.clients.oci.archive import write
from treadle.clients.oci.memory import MemoryStore
from treadle.clients.oci.push import push
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.registry import Registry
from treadle.clients.oci.transport import Transport


@pytest.fixture
def ugly() -> Iterator[Ugly]:
    found = Ugly()
    found.address, found.clients = found.serve(), []
    yield found
    for place in found.clients:
        place.close()
    found.close()


@pytest.fixture
def place(ugly: Ugly, tmp_path: Path) -> Registry:
    return client(ugly, tmp_path)


@pytest.fixture
def answering() -> Iterator[object]:
    """A server that gives the same bytes to every connection and hangs up, hard if told so."""
    listeners = []

    def start(payload: bytes, *, hard: bool = False) -> Registry:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(1 << 16)
                connection.sendall(payload)
                if hard:  # a reset instead of an end
                    linger = b"\1\0\0\0\0\0\0\0"
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()

        threading.Thread(target=run, daemon=True).start()
        reference = Reference.parse(f"127.0.0.1:{listener.getsockname()[1]}/x")
        transport = Transport(reference, environ={}, sleep=lambda _: None)
        return Registry(reference, transport=transport)

    yield start
    for listener in listeners:
        listener.close()


# ---- who we are ----------------------------------------------------------------------------------


class BehindBasic(BaseHTTPRequestHandler):
    """Blobs for who shows the right name and password; strangers are answered four at a time."""

    protocol_version = "HTTP/1.1"
    blobs: dict[str, bytes] = {}
    together: threading.Barrier

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        known = (
            self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ada:right").decode()
        )
        if not known and self.headers.get("Authorization") is None:
            self.together.wait(10)
        data = self.blobs[self.path.rpartition("/")[2]] if known else b""
        self.send_response(200 if known else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize("password", ["right", "w-r-o-n-g"])
def test_first_requests_at_once_learn_each_for_itself_that_a_login_is_wanted(
    tmp_path: Path, password: str
) -> None:
    datas = [bytes([number]) * 10 for number in range(4)]
    handler = type("H", (BehindBasic,), {
        "blobs": {digest_bytes(data): data for data in datas}, "together": threading.Barrier(4),
    })  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reference = Reference.parse(f"127.0.0.1:{server.server_port}/x")
    pair = base64.b64encode(f"ada:{password}".encode()).decode()
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {reference.registry: {"auth": pair}}})
    )
    transport = Transport(reference, environ={"DOCKER_CONFIG": str(tmp_path)})
    place = Registry(reference, transport=transport, cache=Cache(tmp_path))

    def read(data: bytes) -> bytes:
        try:
            with place.open_blob(digest_bytes(data), len(data)) as stream:
                return stream.read()
        except Refused:
            return b"refused"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, datas))
    place.close()
    server.shutdown()
    server.server_close()
    assert found == (datas if password == "right" else [b"refused"] * 4)


def test_encrypted_registry_cannot_send_us_to_a_host_that_is_not() -> None:
    environ = {"TREADLE_INSECURE_REGISTRIES": "storage:80"}
    transport = Transport(Reference.parse("registry.example.com/x"), environ=environ)
    assert transport._safe("http://registry.example.com/v2/a?b") == (
        "https://registry.example.com/v2/a?b"
    )
    for fine in ("https://cdn.example.com/a", "http://storage:80/a", "http://127.0.0.1:9/a"):
        assert transport._safe(fine) == fine
    with pytest.raises(Refused, match="not encrypted"):
        transport._safe("http://cdn.example.com/a")


def test_redirect_to_a_host_without_tls_is_refused(ugly: Ugly, place: Registry) -> None:
    ugly.blobs[digest_bytes(b"x")] = b"x"
    ugly.elsewhere = "http://cdn.example.com"
    with pytest.raises(Refused, match="not encrypted"):
        place.open_blob(digest_bytes(b"x"), 1)


def test_mount_that_is_denied_becomes_an_upload(ugly: Ugly, tmp_path: Path) -> None:
    challenge = f'Bearer realm="http://{ugly.address}/token",error="insufficient_scope"'
    ugly.bearer = ("ada", "right")
    ugly.answers = [("POST .*mount=", 401, {"WWW-Authenticate": challenge}, b"")] * 9
    place = client(ugly, tmp_path, **login(tmp_path, ugly))
    assert place.put_blob(blob(b"base", origin=(ugly.address, "other/python"))) == "sent"


# ---- uploads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "data"), [("PUT", b"small"), ("PATCH", LARGE)])
def test_upload_waits_as_long_as_a_busy_registry_says(
    ugly: Ugly, place: Registry, method: str, data: bytes
) -> None:
    ugly.answers = [(f"{method} .*uploads", 503, {"Retry-After": "3"}, b"")] * 3
    place.put_blob(blob(data))
    assert place.waits == [3, 3, 3]


def test_upload_of_an_earlier_call_that_holds_something_else_begins_again(
    ugly: Ugly, tmp_path: Path
) -> None:
    ugly.cut_after = [1_000_000] + [0] * 20
    with pytest.raises(Unreachable):
        client(ugly, tmp_path).put_blob(blob(LARGE))
    ugly.cut_after = []
    for held in ugly.uploads.values():
        held[0] ^= 1
    client(ugly, tmp_path).put_blob(blob(LARGE))
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE


def test_blob_that_is_not_what_it_says_is_not_sent_again_and_again(
    ugly: Ugly, place: Registry
) -> None:
    lie = Blob(
        Descriptor(LAYER_TAR, digest_bytes(b"x"), len(LARGE)), lambda: io.BytesIO(LARGE), title="l"
    )
    with pytest.raises(TreadleError, match="DIGEST_INVALID"):
        place.put_blob(lie)
    assert len([1 for method, _ in ugly.requests if method == "PATCH"]) == 1


def test_content_that_cannot_be_read_is_not_the_registrys_fault(
    ugly: Ugly, place: Registry, tmp_path: Path
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    told = Descriptor(LAYER_TAR, digest_bytes(b"12345"), 5)
    with pytest.raises(TreadleError, match="cannot be read: .*Input/output error"):
        place.put_blob(Blob(told, Broken, title="broken"))
    with pytest.raises(TreadleError, match="cannot be read: .*gone"):
        place.put_blob(Blob(told, lambda: open(tmp_path / "gone", "rb"), title="gone"))
    assert place.waits == []


def test_base_whose_registry_breaks_off_is_read_again(ugly: Ugly, place: Registry) -> None:
    opened = []

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if len(opened) == 1 and self.tell() > 100_000:
                raise Unreachable("the other registry broke off")
            return super().read(min(size or 0, 1 << 16))

    def begin() -> io.BytesIO:
        opened.append(1)
        return Breaking(LARGE)

    place.put_blob(Blob(Descriptor(LAYER_TAR, digest_bytes(LARGE), len(LARGE)), begin, title="b"))
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE


def test_date_in_retry_after_is_waited_for(ugly: Ugly, place: Registry) -> None:
    until = email.utils.formatdate(time.time() + 30, usegmt=True)
    ugly.answers = [("HEAD", 429, {"Retry-After": until}, b"")]
    place.has_blob(digest_bytes(b"x"))
    assert 15 < place.waits[0] <= 30


# ---- answers that break off or are something else ------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
def test_answer_that_breaks_off_is_unreachable(answering, hard: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    place = answering(head + b'{"schema', hard=hard)
    for name in ("1", "sha256:" + "0" * 64):
        with pytest.raises(Unreachable):
            place.manifest(name)
    with pytest.raises(Unreachable), place.open_blob("sha256:" + "0" * 64, 500) as stream:
        while stream.read(100):
            pass
    with pytest.raises(Unreachable):
        place.tags()


def test_answer_that_is_whole_and_too_short_is_corrupt(answering) -> None:
    place = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    with pytest.raises(StateCorrupt), place.open_blob(digest_bytes(b"abcd"), 4) as stream:
        stream.read()


def test_page_of_a_proxy_is_no_manifest(answering) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    with pytest.raises(TreadleError, match=r"something else \(text/html\)"):
        answering(page).manifest("1")
    with pytest.raises(TreadleError, match="something else"):
        answering(page).tags()


# ---- attached ------------------------------------------------------------------------------------


def test_attaching_that_was_cut_before_it_was_listed_is_made_good(
    ugly: Ugly, place: Registry
) -> None:
    built, document = image(b"layer"), blob(b"document")
    push([built], None, place, "1")
    ugly.answers = [("PUT .*/manifests/sha256-", 403, {}, b"")]
    with pytest.raises(Refused):
        place.attach(built.manifest.descriptor, "application/a", document, {})
    digest = place.attach(built.manifest.descriptor, "application/a", document, {})
    assert [one.digest for one in place.referrers(built.digest)] == [digest]
    ugly.requests.clear()
    place.attach(built.manifest.descriptor, "application/a", document, {})
    assert not [method for method, _ in ugly.requests if method in ("PUT", "POST", "PATCH")]


def test_registry_that_does_not_tell_is_not_one_that_has_nothing(
    ugly: Ugly, place: Registry
) -> None:
    assert place.referrers(digest_bytes(b"x")) == []
    ugly.answers = [("GET", 403, {}, b""), ("HEAD", 403, {}, b"")]
    with pytest.raises(Refused):
        place.referrers(digest_bytes(b"x"))


# ---- names, counts, archives ---------------------------------------------------------------------


def test_empty_digest_is_no_digest() -> None:
    with pytest.raises(UsageError, match="is no digest"):
        Reference.parse("python:3.12@")


def test_blobs_of_two_platforms_are_counted_though_their_titles_are_equal() -> None:
    built = [image(b"amd"), image(b"arm")]
    entries = [
        Descriptor(OCI_MANIFEST, one.digest, one.manifest.size_bytes, one.platform).plain()
        for one in built
    ]
    told = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    index = Blob.of_bytes(json.dumps(told).encode(), OCI_INDEX)
    assert len(push(built, index, MemoryStore(), "1").blobs) == 3  # both layers, one configuration


def test_archive_whose_unpacking_was_cut_off_is_unpacked_again(tmp_path: Path) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": []}}
    built = image()
    configuration = Blob.of_bytes(json.dumps(config).encode(), built.config.descriptor.media_type)
    told = json.loads(built.manifest.open().read()) | {"config": configuration.descriptor.plain()}
    manifest = Blob.of_bytes(json.dumps(told).encode(), OCI_MANIFEST)
    whole = type(built)(manifest, configuration, (), Platform("amd64"))
    write(whole, tmp_path / "image.tar", ["x:latest"])
    cache = Cache(tmp_path / "cache")
    name = f"oci-archive:{tmp_path / 'image.tar'}"
    left = cache.folder / "archives" / digest_bytes((tmp_path / "image.tar").read_bytes())[7:]
    left.mkdir(parents=True)
    (left / "oci-layout").write_text("{")
    assert source.fetch(name, Platform("amd64"), None, cache=cache).digest == whole.digest
    assert [path.name for path in left.parent.iterdir()] == [left.name]
