"""clients/index_access.py: downloads as a real server gives them, with and without a password."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clients.test_wheels import AMD, made

from treadle.base.errors import StateCorrupt, Unreachable
from treadle.base.image import Wheel
from treadle.clients import wheels
from treadle.clients.cache import Cache
from treadle.clients.index_access import bare, credentials

ME = "Basic " + base64.b64encode(b"me:s@cret").decode()


class Index(http.server.ThreadingHTTPServer):
    """A package index with one wheel; each request is asked what to do with it."""

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.wheel = wheel
        self.data = wheel.read_bytes()
        self.seen: list[tuple[str, str | None]] = []
        self.rule: Callable[[str, int], object] = lambda path, number: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def record(self) -> Wheel:
        sha256 = hashlib.sha256(self.data).hexdigest()
        return Wheel("shop", "1.0", self.wheel.name, sha256, len(self.data))


class Answer(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        index = self.server
        index.seen.append((self.path, self.headers.get("Authorization")))
        ruled = index.rule(self.path, len(index.seen))
        if isinstance(ruled, int):
            self.answer(ruled, b"")
        elif isinstance(ruled, str):
            self.answer(302, b"", Location=ruled)
        elif isinstance(ruled, bytes):
            self.answer(200, ruled, **{"Content-Length": str(len(index.data))})
            self.close_connection = True
        elif self.path.endswith(".whl"):
            self.answer(200, index.data)
        elif self.path.endswith("/shop/"):
            link = f'<a href="/files/{index.wheel.name}">{index.wheel.name}</a>'
            self.answer(200, link.encode(), **{"Content-Type": "text/html"})
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in ("UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.chdir(tmp_path)
    server = Index(made(tmp_path, "shop", "1.0"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fetched(index: Index, cache: Cache) -> bytes:
    wheel = index.record()
    cache.put("places", wheel.sha256, f"http://{index.address}/files/{wheel.filename}")
    return wheels.fetch([wheel], cache=cache)[wheel].read_bytes()


def private(index: Index) -> None:
    index.rule = lambda path, number: None if index.seen[-1][1] == ME else 401


def test_connection_that_is_cut_is_tried_again(index: Index, cache: Cache) -> None:
    index.rule = lambda path, number: index.data[: 7 * number] if number < 3 else None
    assert fetched(index, cache) == index.data


def test_server_that_is_busy_is_tried_again(index: Index, cache: Cache) -> None:
    index.rule = lambda path, number: 503 if number == 1 else None
    assert fetched(index, cache) == index.data


def test_content_that_is_too_long_is_not_kept(index: Index, cache: Cache) -> None:
    wheel = index.record()
    index.data += b"more"
    cache.put("places", wheel.sha256, f"http://{index.address}/files/{wheel.filename}")
    with pytest.raises(StateCorrupt, match="another content"):
        wheels.fetch([wheel], cache=cache)
    assert not list(cache.folder.rglob("*.whl"))


def test_server_that_wants_a_password_says_where_one_is_looked_for(
    index: Index, cache: Cache
) -> None:
    private(index)
    with pytest.raises(Unreachable, match="answers 401") as caught:
        fetched(index, cache)
    assert "netrc" in str(caught.value.hint)
    assert len(index.seen) == 1


def test_password_of_netrc_is_used(index: Index, cache: Cache, tmp_path: Path) -> None:
    private(index)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s@cret\n")
    assert fetched(index, cache) == index.data


def test_45_private_index_is_resolved_and_fetched_and_its_password_is_kept_nowhere(
    index: Index, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uv")
    private(index)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:s%40cret@{index.address}/simple")
    found = wheels.resolve(["shop"], python="3.11", platform=AMD, cache=cache)
    assert found == (index.record(),)
    assert wheels.fetch(found, cache=cache)[found[0]].read_bytes() == index.data
    for path in cache.folder.rglob("*.json"):
        assert "cret" not in path.read_text()


def test_password_does_not_follow_a_redirect_to_another_server(
    index: Index, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Index(index.wheel)
    private(index)
    index.rule = lambda path, number: f"http://{other.address}/store/{index.wheel.name}"
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:s%40cret@{index.address}/simple")
    try:
        assert fetched(index, cache) == index.data
        assert index.seen[0][1] == ME
        assert other.seen[0][1] is None
    finally:
        other.shutdown()
        other.server_close()


def test_password_stays_with_a_redirect_on_the_same_server(
    index: Index, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(path: str, number: int) -> object:
        if index.seen[-1][1] != ME:
            return 401
        return None if "store" in path else f"/store/{index.wheel.name}"

    index.rule = rule
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:s%40cret@{index.address}/simple")
    assert fetched(index, cache) == index.data


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"UV_INDEX": "https://me:pw@packages.example/simple"}, ("me", "pw")),
        ({"UV_INDEX": "https://other.example https://me:pw@packages.example"}, ("me", "pw")),
        ({"UV_INDEX": "team-one=https://packages.example/simple",
          "UV_INDEX_TEAM_ONE_USERNAME": "me", "UV_INDEX_TEAM_ONE_PASSWORD": "pw"}, ("me", "pw")),
        ({"UV_INDEX": "https://me:pw@packages.example:8443/simple"}, None),
        ({"UV_INDEX": "http://me:pw@packages.example/simple"}, None),
        ({"UV_DEFAULT_INDEX": "https://packages.example:443/simple"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_credentials_belong_to_one_server(
    environ: dict[str, str], wanted: object, tmp_path: Path
) -> None:
    assert credentials("https://packages.example/f/a.whl", environ, tmp_path) == wanted


def test_configuration_of_uv_is_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.uv.index]]\nname = "team"\nurl = "https://packages.example/simple"\n'
    )
    environ = {"UV_INDEX_TEAM_USERNAME": "me", "UV_INDEX_TEAM_PASSWORD": "pw"}
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    assert credentials("https://packages.example/a.whl", environ, below) == ("me", "pw")


@given(st.text("ab%@:", max_size=6), st.text("ab%@:", max_size=6))
def test_bare_address_has_no_password(user: str, password: str) -> None:
    found = bare(f"https://{user}:{password}@packages.example/a.whl#sha256=aa")
    assert found == "https://packages.example/a.whl"
