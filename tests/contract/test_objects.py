"""The object store's contract, kept by every implementation."""

from __future__ import annotations

import pytest

from treadle.base.digest import canonical, digest_bytes, digest_tree
from treadle.base.errors import StateCorrupt
from treadle.clients.memory import MemoryObjects
from treadle.clients.objects import DiskObjects


@pytest.fixture(params=["disk", "memory"])
def objects(request, tmp_path):
    return DiskObjects(tmp_path / "objects") if request.param == "disk" else MemoryObjects()


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    (model / "deep" / "er").mkdir(parents=True)
    (model / "MLmodel").write_bytes(b"flavors: {}\n")
    (model / "deep" / "er" / "$weights").write_bytes(bytes(range(256)) * 5000)
    (model / "empty").write_bytes(b"")
    return model


def test_a_blob_is_read_back_under_its_digest(objects):
    digest = objects.put_bytes(b"hello")
    assert digest == digest_bytes(b"hello") == objects.put_bytes(b"hello")
    assert objects.has(digest)
    assert objects.read(digest) == objects.path(digest, verify=True).read_bytes() == b"hello"
    assert list(objects.digests()) == [digest]


def test_a_file_is_stored_with_its_size(objects, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    digest, size = objects.put_file(tmp_path / "f")
    assert (digest, size) == (digest_bytes(b"x" * 3_000_000), 3_000_000)
    assert objects.path(digest).stat().st_size == size


def test_a_missing_blob_is_named(objects):
    digest = digest_bytes(b"never stored")
    assert not objects.has(digest)
    for use in (objects.read, objects.path):
        with pytest.raises(StateCorrupt, match=digest):
            use(digest)


def test_a_tree_comes_back_whole_and_its_manifest_is_its_digest(objects, folder, tmp_path):
    digest, files = objects.put_tree(folder)
    assert (digest, files) == digest_tree(folder)
    assert objects.read(digest) == canonical(files)
    target = objects.tree(digest, tmp_path / "made" / "model")
    assert target == tmp_path / "made" / "model"
    assert digest_tree(target) == (digest, files)
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def test_a_tree_that_was_changed_where_it_lies_is_made_anew(objects, folder, tmp_path):
    digest, _ = objects.put_tree(folder)
    target = objects.tree(digest, tmp_path / "made")
    (target / "extra").write_text("by hand")
    assert digest_tree(objects.tree(digest, target))[0] == digest
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".made")) == []


def test_a_tree_with_a_missing_blob_leaves_nothing(objects, folder, tmp_path):
    digest, files = objects.put_tree(folder)
    objects.delete(files["MLmodel"])
    with pytest.raises(StateCorrupt, match=files["MLmodel"]):
        objects.tree(digest, tmp_path / "made")
    assert not any("made" in p.name for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    "manifest",
    [
        b"[]",
        b"nonsense",
        b'{"a": 1}',
        b'{"../escape": "sha256:' + b"0" * 64 + b'"}',
        b'{"/etc/x": "sha256:' + b"0" * 64 + b'"}',
    ],
)
def test_a_blob_that_is_no_manifest_makes_no_tree(objects, manifest, tmp_path):
    with pytest.raises(StateCorrupt, match="manifest"):
        objects.tree(objects.put_bytes(manifest), tmp_path / "made")


def test_delete_forgets_and_forgives(objects):
    digest = objects.put_bytes(b"x")
    objects.delete(digest)
    objects.delete(digest)
    assert list(objects.digests()) == []
    assert not objects.has(digest)
