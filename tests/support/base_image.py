"""Base images of Debian, made here since no public registry is asked: an OCI layout each, cached.

`python -m tests.support.base_image` makes both and prints where they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from treadle.base.image import LAYER_GZIP, OCI_CONFIG, OCI_MANIFEST, Blob, Descriptor
from treadle.clients.files import flocked
from treadle.clients.oci.layout import Layout

_PACKAGES = {
    "python": "python3,ca-certificates",
    "bare": "ca-certificates,libssl3,libffi8,libsqlite3-0",
}
_FORMAT = 3


def missing() -> str | None:
    """Why there can be no base image here, or None."""
    if any((folder(kind) / "index.json").is_file() for kind in ("python",)):
        return None
    if shutil.which("mmdebstrap") is None or os.getuid() != 0:
        return "needs Debian's mmdebstrap and root: make test-images brings it"
    return None


def folder(kind: str) -> Path:
    """Where the layout is kept: `python` has Debian's Python, `bare` has none."""
    cache = os.environ.get("TREADLE_TEST_CACHE") or Path.home() / ".cache" / "treadle-tests"
    return Path(cache) / f"base-{kind}-{_FORMAT}"


def layout(kind: str = "python") -> Path:
    """The layout folder, made if it is not there (about 20 seconds)."""
    made = folder(kind)
    made.parent.mkdir(parents=True, exist_ok=True)
    with flocked(made.with_name(f"{made.name}.lock")):
        if not (made / "index.json").is_file():
            shutil.rmtree(made, ignore_errors=True)
            _make(kind, made)
    return made


def _make(kind: str, made: Path) -> None:
    tar = made.with_name(f"{made.name}.tar")
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES[kind]}", "bookworm",
         str(tar)],
        check=True,
    )  # fmt: skip
    with open(tar, "rb") as file:
        diff_id = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    packed = tar.with_suffix(".tar.gz")
    with open(tar, "rb") as source, gzip.GzipFile(packed, "wb", 6, mtime=0) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with open(packed, "rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    place = Layout(made, create=True)
    layer = Descriptor(LAYER_GZIP, digest, packed.stat().st_size)
    place.put_blob(Blob.of_file(packed, layer))
    config = Blob.of_bytes(
        json.dumps({
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["bash"],
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
        }).encode(),
        OCI_CONFIG,
    )  # fmt: skip
    place.put_blob(config)
    told = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor.plain(),
        "layers": [layer.plain()],
    }  # fmt: skip
    place.put_manifest(json.dumps(told).encode(), OCI_MANIFEST, "latest")
    tar.unlink()
    packed.unlink()


if __name__ == "__main__":
    for one in _PACKAGES:
        print(layout(one), file=sys.stdout)
