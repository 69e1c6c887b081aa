"""One contract for every place of images: a registry's repository, a layout folder, their twin."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import registry as distribution

from treadle.base.digest import digest_bytes
from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.base.image import (
    LAYER_TAR,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    BuiltImage,
    Descriptor,
    Platform,
)
from treadle.clients.cache import Cache
from treadle.clients.oci import store as stores
from treadle.clients.oci.layout import Layout
from treadle.clients.oci.memory import MemoryStore
from treadle.clients.oci.push import push
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.registry import Registry
from treadle.clients.oci.store import Store

AMD, ARM = Platform("amd64"), Platform("arm64")


@pytest.fixture(params=["memory", "layout", pytest.param("registry", marks=pytest.mark.images)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "layout":
        yield Layout(tmp_path / "layout", create=True)
    else:
        if why := distribution.missing():
            pytest.skip(why)
        with distribution.registry(tmp_path / "registry") as address:
            place = Registry(
                Reference.parse(f"{address}/team/flights"), cache=Cache(tmp_path / "cache")
            )
            yield place
            place.close()


def blob(data: bytes, media_type: str = LAYER_TAR) -> Blob:
    return Blob(
        Descriptor(media_type, digest_bytes(data), len(data)), lambda: io.BytesIO(data),
        diff_id=digest_bytes(data), title=f"blob of {len(data)}",
    )  # fmt: skip


def image(*layers: bytes, platform: Platform = AMD) -> BuiltImage:
    blobs = tuple(blob(one) for one in layers)
    config = Blob.of_bytes(
        json.dumps({
            "architecture": platform.architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [b.diff_id for b in blobs]},
        }).encode(),
        OCI_CONFIG,
    )  # fmt: skip
    told = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor.plain(),
        "layers": [one.descriptor.plain() for one in blobs],
    }  # fmt: skip
    return BuiltImage(
        Blob.of_bytes(json.dumps(told).encode(), OCI_MANIFEST), config, blobs, platform
    )


def test_blob_is_sent_once(store: Store) -> None:
    one = blob(b"layer" * 1000)
    assert not store.has_blob(one.digest)
    assert store.put_blob(one) == "sent"
    assert store.has_blob(one.digest)
    assert store.put_blob(one) == "had"


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_blob_of_any_size_comes_back_as_it_was(store: Store, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    store.put_blob(blob(data))
    with store.open_blob(digest_bytes(data), size) as stream:
        read = b"".join(iter(lambda: stream.read(1 << 16), b""))
    assert read == data


def test_blob_that_is_not_what_it_says_is_not_kept(store: Store) -> None:
    lie = Blob(
        Descriptor(LAYER_TAR, digest_bytes(b"truth"), 5), lambda: io.BytesIO(b"trick"), title="lie"
    )
    with pytest.raises(Exception):  # noqa: B017 - a registry says so in its own words
        store.put_blob(lie)
    assert not store.has_blob(lie.digest)


def test_absent_blob_and_absent_manifest_are_named(store: Store) -> None:
    with pytest.raises(UsageError, match="there is no image"):
        store.open_blob("sha256:" + "0" * 64, 5)
    with pytest.raises(UsageError, match="there is no image nothing"):
        store.manifest("nothing")
    assert store.find("nothing") is None
    assert store.tags() == []


def test_image_is_found_by_tag_and_by_digest_byte_for_byte(store: Store) -> None:
    built = image(b"base", b"model")
    done = push([built], None, store, "1")
    assert done.digest == built.digest
    for name in ("1", built.digest):
        found = store.manifest(name)
        assert found.data == built.manifest.open().read()
        assert found.media_type == OCI_MANIFEST
    assert store.tags() == ["1"]
    assert store.find("1") == built.digest


def test_image_that_is_there_sends_nothing(store: Store) -> None:
    push([image(b"base", b"model")], None, store, "1")
    again = push([image(b"base", b"model")], None, store, "1")
    assert (again.blobs, again.sent_bytes) == ({}, 0)


def test_new_model_sends_its_layer_alone(store: Store) -> None:
    base, model = b"base" * 100_000, b"other model"
    push([image(base, b"model")], None, store, "1")
    done = push([image(base, model)], None, store, "2")
    assert done.blobs[f"blob of {len(base)}"] == "had"
    assert done.sent_bytes < 1000


def test_tag_with_other_content_is_refused_unless_forced(store: Store) -> None:
    push([image(b"one")], None, store, "1")
    with pytest.raises(Refused, match="exists with other content"):
        push([image(b"two")], None, store, "1")
    assert store.find("1") == image(b"one").digest
    push([image(b"two")], None, store, "1", force=True)
    assert store.find("1") == image(b"two").digest


def test_index_leads_to_the_image_of_each_platform(store: Store) -> None:
    amd, arm = image(b"amd"), image(b"arm", platform=ARM)
    entries = [
        Descriptor(OCI_MANIFEST, one.digest, one.manifest.size_bytes, one.platform).plain()
        for one in (amd, arm)
    ]
    index = Blob.of_bytes(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode(),
        OCI_INDEX,
    )
    push([amd, arm], index, store, "both")
    assert stores.for_platform(store, "both", AMD).digest == amd.digest
    assert stores.for_platform(store, "both", ARM).digest == arm.digest
    only = Blob.of_bytes(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries[:1]}).encode(),
        OCI_INDEX,
    )
    push([amd], only, store, "one")
    with pytest.raises(Refused, match="not made for linux/arm64: it has linux/amd64"):
        stores.for_platform(store, "one", ARM)


def test_attached_artifacts_are_listed_once_each(store: Store) -> None:
    built = image(b"base")
    push([built], None, store, "1")
    documents = {kind: blob(kind.encode(), kind) for kind in ("application/a", "application/b")}
    for _ in range(2):
        for kind, document in documents.items():
            store.attach(built.manifest.descriptor, kind, document, {"made": "by a test"})
    found = store.referrers(built.digest)
    assert sorted(one.artifact_type or "" for one in found) == sorted(documents)
    (one,) = store.referrers(built.digest, "application/b")
    told = store.manifest(one.digest).plain
    assert told["subject"]["digest"] == built.digest
    assert told["layers"][0]["digest"] == documents["application/b"].digest
    assert store.referrers("sha256:" + "0" * 64) == []


@pytest.mark.parametrize("store", ["memory", "layout"], indirect=True)
def test_damaged_blob_is_noticed_when_it_is_read(store: Store) -> None:
    data = b"layer" * 1000
    store.put_blob(blob(data))
    if isinstance(store, MemoryStore):
        store.blobs[digest_bytes(data)] = b"LAYER" * 1000
    elif isinstance(store, Layout):
        (store.folder / "blobs/sha256" / digest_bytes(data)[7:]).write_bytes(b"LAYER" * 1000)
    with pytest.raises(StateCorrupt), store.open_blob(digest_bytes(data), len(data)) as stream:
        stream.read()
