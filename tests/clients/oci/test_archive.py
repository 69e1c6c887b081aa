"""clients/oci/archive.py: one file that engines and nodes import."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from treadle.base.image import LAYER_GZIP, OCI_CONFIG, OCI_MANIFEST, Blob, BuiltImage, Platform
from treadle.clients.oci import archive


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("treadle/houses-serve:1", "docker.io/treadle/houses-serve:1"),
        ("houses:1", "docker.io/library/houses:1"),
        ("r.io/team/houses:1", "r.io/team/houses:1"),
    ],
)
def test_08_containerd_is_told_the_name_in_full_and_docker_as_it_is(
    tmp_path: Path, name: str, full: str
) -> None:
    # A kubelet asks its node for docker.io/…: by a shorter name the image would not be found.
    config = Blob.of_bytes(b"{}", OCI_CONFIG)
    layer = Blob.of_bytes(b"layer", LAYER_GZIP)
    manifest = Blob.of_bytes(b"{}", OCI_MANIFEST)
    image = BuiltImage(manifest, config, (layer,), Platform.parse("linux/amd64"))
    archive.write(image, tmp_path / "image.tar", [name])
    with tarfile.open(tmp_path / "image.tar") as tar:
        (entry,) = json.loads(tar.extractfile("index.json").read())["manifests"]
        (docker,) = json.loads(tar.extractfile("manifest.json").read())
    assert entry["annotations"]["io.containerd.image.name"] == full
    assert docker["RepoTags"] == [name]
