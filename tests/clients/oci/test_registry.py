"""clients/oci/registry.py and transport.py against a registry with the faults that real ones have."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.ugly_registry import Ugly

from treadle.base.digest import digest_bytes
from treadle.base.errors import DiskFull, Refused, StateCorrupt, TreadleError, Unreachable
from treadle.base.image import (
    LAYER_TAR,
    OCI_CONFIG,
    OCI_MANIFEST,
    Blob,
    BuiltImage,
    Descriptor,
    Platform,
)
from treadle.clients.cache import Cache
from treadle.clients.oci.push import push
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.registry import Registry
from treadle.clients.oci.transport import Transport

LARGE = bytes(range(256)) * 20_000  # 5 MB: sent in a PATCH


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


def client(ugly: Ugly, folder: Path, **environ: str) -> Registry:
    reference = Reference.parse(f"{ugly.address}/team/flights")
    waits: list[float] = []
    transport = Transport(reference, environ=environ, sleep=waits.append)
    found = Registry(reference, transport=transport, cache=Cache(folder / "cache"))
    found.waits = waits
    ugly.clients.append(found)
    return found


def login(folder: Path, ugly: Ugly, user: str = "ada", password: str = "right") -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {ugly.address: {"auth": pair}}}))
    return {"DOCKER_CONFIG": str(folder)}


def blob(data: bytes, **more: object) -> Blob:
    return Blob(
        Descriptor(LAYER_TAR, digest_bytes(data), len(data)),
        lambda: io.BytesIO(data),
        digest_bytes(data),
        "model",
        **more,
    )


def image(*layers: bytes) -> BuiltImage:
    blobs = tuple(blob(data) for data in layers)
    config = Blob.of_bytes(b"{}", OCI_CONFIG)
    told = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor.plain(),
        "layers": [one.descriptor.plain() for one in blobs],
    }
    return BuiltImage(
        Blob.of_bytes(json.dumps(told).encode(), OCI_MANIFEST), config, blobs, Platform("amd64")
    )


# ---- who we are ----------------------------------------------------------------------------------


def test_token_is_fetched_with_the_stored_login(ugly: Ugly, tmp_path: Path) -> None:
    ugly.bearer = ("ada", "right")
    place = client(ugly, tmp_path, **login(tmp_path, ugly))
    place.put_blob(blob(LARGE))
    assert digest_bytes(LARGE) in ugly.blobs


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_token_that_expires_in_the_middle_of_a_push_is_renewed(
    ugly: Ugly, tmp_path: Path, uses: int
) -> None:
    ugly.bearer, ugly.token_uses = ("ada", "right"), uses
    place = client(ugly, tmp_path, **login(tmp_path, ugly))
    push([image(LARGE, b"small")], None, place, "1")
    assert set(map(digest_bytes, (LARGE, b"small"))) <= ugly.blobs.keys()
    assert "1" in ugly.manifests


def test_wrong_login_is_refused_without_the_password(ugly: Ugly, tmp_path: Path) -> None:
    ugly.bearer = ("ada", "right")
    place = client(ugly, tmp_path, **login(tmp_path, ugly, password="w-r-o-n-g"))
    with pytest.raises(Refused, match="does not accept the login") as caught:
        place.put_blob(blob(b"x"))
    assert "w-r-o-n-g" not in caught.value.message
    assert f"docker login {ugly.address}" in str(caught.value.hint)


def test_registry_that_wants_a_login_names_the_command(ugly: Ugly, place: Registry) -> None:
    ugly.bearer = ("ada", "right")
    with pytest.raises(Refused, match="wants a login") as caught:
        place.manifest("1")
    assert caught.value.hint == f"docker login {ugly.address}"


def test_token_is_not_shown_to_where_a_blob_is_redirected(ugly: Ugly, tmp_path: Path) -> None:
    storage = Ugly()
    storage.address = storage.serve()
    try:
        ugly.bearer = ("ada", "right")
        ugly.blobs[digest_bytes(b"x")] = storage.blobs[digest_bytes(b"x")] = b"x"
        ugly.elsewhere = f"http://{storage.address}"
        place = client(ugly, tmp_path, **login(tmp_path, ugly))
        with place.open_blob(digest_bytes(b"x"), 1) as stream:
            assert stream.read() == b"x"
        assert [told for _, told in storage.authorizations] == [None]
    finally:
        storage.close()


# ---- uploads that break --------------------------------------------------------------------------


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, len(LARGE) - 1), min_size=1, max_size=3))
def test_upload_that_is_cut_at_any_byte_goes_on_from_there(
    ugly: Ugly, tmp_path: Path, cuts: list[int]
) -> None:
    ugly.blobs.clear()
    ugly.cut_after = list(cuts)
    client(ugly, tmp_path).put_blob(blob(LARGE))
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE


def test_upload_that_was_given_up_is_finished_by_the_next_call(ugly: Ugly, tmp_path: Path) -> None:
    ugly.cut_after = [1_000_000] + [0] * 20
    with pytest.raises(Unreachable, match="broke off"):
        client(ugly, tmp_path).put_blob(blob(LARGE))
    ugly.cut_after = []
    ugly.requests.clear()
    assert client(ugly, tmp_path).put_blob(blob(LARGE)) == "sent"
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE
    assert not [path for method, path in ugly.requests if method == "POST"]


def test_upload_whose_session_is_lost_begins_again(ugly: Ugly, place: Registry) -> None:
    ugly.cut_after, ugly.forget_uploads = [1_000_000], True
    place.put_blob(blob(LARGE))
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE


def test_small_blob_whose_connection_is_cut_is_sent_again(ugly: Ugly, place: Registry) -> None:
    ugly.cut_after = [3, 0]
    place.put_blob(blob(b"small one"))
    assert digest_bytes(b"small one") in ugly.blobs


def test_registry_that_takes_only_so_much_at_once_gets_pieces(ugly: Ugly, place: Registry) -> None:
    ugly.largest_patch = 2 << 20
    place.put_blob(blob(LARGE))
    assert ugly.blobs[digest_bytes(LARGE)] == LARGE


def test_busy_registry_is_asked_again_when_it_says(ugly: Ugly, place: Registry) -> None:
    ugly.answers = [("HEAD .*/blobs/", 429, {"Retry-After": "7"}, b""), ("POST", 503, {}, b"")]
    place.put_blob(blob(b"x"))
    assert place.waits[0] == 7
    assert digest_bytes(b"x") in ugly.blobs


# ---- mounting ------------------------------------------------------------------------------------


def test_blob_of_a_base_in_the_same_registry_is_mounted(ugly: Ugly, place: Registry) -> None:
    ugly.blobs[digest_bytes(b"base")] = b"base"
    ugly.answers = [(r"HEAD .*/blobs/", 404, {}, b"")]
    put = place.put_blob(blob(b"base", origin=(ugly.address, "library/python")))
    assert put == "mounted"


def test_mount_that_is_answered_with_an_upload_is_sent_there(ugly: Ugly, place: Registry) -> None:
    ugly.mounts = False
    assert place.put_blob(blob(b"base", origin=(ugly.address, "library/python"))) == "sent"
    assert len([1 for method, _ in ugly.requests if method == "POST"]) == 1


def test_base_of_another_registry_is_not_mounted(ugly: Ugly, place: Registry) -> None:
    place.put_blob(blob(b"base", origin=("docker.io", "library/python")))
    assert not [path for _, path in ugly.requests if "mount" in path]


# ---- what comes back -----------------------------------------------------------------------------


def test_blob_and_manifest_that_are_not_what_was_asked_for_are_noticed(
    ugly: Ugly, place: Registry
) -> None:
    push([image(b"layer")], None, place, "1")
    ugly.lie = True
    with pytest.raises(StateCorrupt), place.open_blob(digest_bytes(b"layer"), 5) as stream:
        stream.read()
    with pytest.raises(StateCorrupt, match="another one"):
        place.manifest(image(b"layer").digest)


# ---- no --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (
            403,
            b'{"errors":[{"code":"DENIED","message":"not yours"}]}',
            Refused,
            "DENIED: not yours",
        ),
        (404, b"", Refused, "does not take"),
        (405, b"", Refused, "405"),
        (507, b"", DiskFull, "507"),
        (400, b'{"errors":[{"code":"X","message":"no space left on device"}]}', DiskFull, "space"),
        (418, b"", TreadleError, "418"),
    ],
)
def test_refusal_is_told_in_the_registrys_words_and_names_nothing(
    ugly: Ugly, place: Registry, status: int, body: bytes, kind: type, said: str
) -> None:
    ugly.answers = [("POST", status, {}, body)] * 9
    with pytest.raises(kind, match=said):
        push([image(b"layer")], None, place, "1")
    assert ugly.manifests == {}


def test_registry_that_is_down_is_unreachable(tmp_path: Path) -> None:
    reference = Reference.parse("127.0.0.1:1/x")
    place = Registry(reference, transport=Transport(reference, environ={}), cache=Cache(tmp_path))
    with pytest.raises(Unreachable, match="127.0.0.1:1 cannot be reached"):
        place.find("1")


def test_plain_http_is_for_loopback_and_listed_hosts_only() -> None:
    def base(text: str, **environ: str) -> str:
        return Transport(Reference.parse(text), environ=environ).base

    assert base("localhost:5000/x") == "http://localhost:5000"
    assert base("127.0.0.1/x") == "http://127.0.0.1"
    assert base("[::1]:5000/x") == "http://[::1]:5000"
    assert base("registry.example.com/x") == "https://registry.example.com"
    assert base("127.0.0.1.example.com/x").startswith("https://")
    listed = {"TREADLE_INSECURE_REGISTRIES": "other:1, box:5000"}
    assert base("box:5000/x", **listed) == "http://box:5000"
    assert base("python") == "https://registry-1.docker.io"
