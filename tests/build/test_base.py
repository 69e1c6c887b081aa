"""build/base.py and interpreter.py: which Python a base has, and one for a base without."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.base.digest import digest_bytes
from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.base.image import LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, Blob, Descriptor, Platform
from treadle.build import base, interpreter
from treadle.build.layer import Entry, TarStream

PYTHON = [
    Entry("usr/bin/python3.11", b""), Entry("usr/lib/python3.11/os.py", b""),
    Entry("usr/lib/python3.11/json/__init__.py", b""),
]  # fmt: skip


def layer(*entries: Entry, kind: str = LAYER_TAR) -> Blob:
    data = TarStream(entries).read()
    if kind == LAYER_GZIP:
        data = gzip.compress(data)
    elif kind == LAYER_ZSTD:
        data = pytest.importorskip("zstandard").compress(data)
    return Blob(Descriptor(kind, digest_bytes(data), len(data)), lambda: io.BytesIO(data))


def whiteout(name: str) -> Blob:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    data = out.getvalue()
    return Blob(Descriptor(LAYER_TAR, digest_bytes(data), len(data)), lambda: io.BytesIO(data))


@pytest.mark.parametrize("kind", [LAYER_TAR, LAYER_GZIP, LAYER_ZSTD])
def test_python_is_found_by_the_names_in_the_layers(kind: str) -> None:
    found = base.scanned([layer(Entry("etc/x", b"")), layer(*PYTHON, kind=kind)])
    assert found == base.Found((base.Interpreter("3.11", "/usr/bin/python3.11"),))


def test_minimal_python_without_its_library_is_none() -> None:
    assert base.scanned([layer(*PYTHON[:2])]).interpreters == ()


@pytest.mark.parametrize(
    "name", ["usr/bin/.wh.python3.11", "usr/lib/python3.11/.wh..wh..opq", "usr/.wh.lib"]
)
def test_python_that_an_upper_layer_removes_is_none(name: str) -> None:
    assert base.scanned([layer(*PYTHON), whiteout(name)]).interpreters == ()


def test_dockers_python_images_say_it_in_their_configuration() -> None:
    env = ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.12.4"]
    told = base.told({"config": {"Env": env}})
    assert told == base.Found((base.Interpreter("3.12", "/usr/local/bin/python3.12"),))
    assert base.told({"config": {"Env": ["PATH=/usr/bin"]}}) is None
    assert base.told({}) is None


def test_alpines_python_image_is_asked_for_its_layers() -> None:
    """It says PYTHON_VERSION too, and is built on musl."""
    env = ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.12.4"]
    steps = [{"created_by": "ADD alpine-minirootfs-3.20.3-x86_64.tar.gz / # buildkit"}]
    assert base.told({"config": {"Env": env}, "history": steps}) is None
    steps = [{"created_by": "# debian.sh --arch 'amd64' out/ 'trixie'"}]
    assert base.told({"config": {"Env": env}, "history": steps}) is not None


def test_fedora_has_its_library_in_lib64() -> None:
    found = base.scanned([
        layer(
            Entry("usr/bin/python3.12", b""), Entry("usr/lib64/python3.12/os.py", b""),
            Entry("usr/lib64/python3.12/json/__init__.py", b""),
        )
    ])  # fmt: skip
    assert found.interpreters == (base.Interpreter("3.12", "/usr/bin/python3.12"),)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (LAYER_TAR, lambda whole: b"no layer"),
        (LAYER_GZIP, lambda whole: b"no layer"),
        (LAYER_GZIP, lambda whole: whole[: len(whole) // 2]),
        (LAYER_GZIP, lambda whole: whole[:30] + b"damage" * 9 + whole[84:]),
    ],
)
def test_layer_that_cannot_be_read_is_said(kind: str, damage: Callable[[bytes], bytes]) -> None:
    data = damage(layer(*PYTHON, kind=kind).open().read())
    found = Descriptor(kind, digest_bytes(data), len(data))
    broken = Blob(found, lambda: io.BytesIO(data), title="base 1 of 1")
    with pytest.raises(StateCorrupt, match="base 1 of 1 is no layer that can be read"):
        base.scanned([broken])


def test_other_version_and_alpine_are_refused_with_a_base_that_fits() -> None:
    found = base.Found((base.Interpreter("3.12", "/usr/bin/python3.12"),))
    with pytest.raises(
        Refused, match=r"has Python 3\.12, and the model was made with Python 3\.11"
    ):
        base.chosen(found, "3.11", "debian")
    musl = base.scanned([layer(*PYTHON, Entry("lib/ld-musl-x86_64.so.1", b""))])
    with pytest.raises(Refused, match="musl"):
        base.chosen(musl, "3.11", "alpine")
    assert base.chosen(base.Found(()), "3.11", "scratch") is None


def test_interpreter_of_this_machine_runs_from_its_layer(tmp_path: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    root = Path(sys.base_prefix)
    if not (root / "bin" / f"python{version}").is_file() or root == Path("/usr"):
        pytest.skip("this Python is tied to its place")
    files = interpreter.files(root, version, Platform.here())
    assert not any("/test/" in name or "idlelib" in name for name in files)
    made = interpreter.entries(files, "/opt/treadle/python", version)
    with tarfile.open(fileobj=io.BytesIO(TarStream(made).read())) as archive:
        archive.extractall(tmp_path, filter="tar")
    python = tmp_path / "opt/treadle/python/bin" / f"python{version}"
    done = subprocess.run(
        [python, "-S", "-c", "import json, ssl, sqlite3, sys; print(sys.prefix)"],
        capture_output=True, text=True, check=True, env={},
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "opt/treadle/python")


def test_folder_without_a_python_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no Python"):
        interpreter.files(tmp_path, "3.11", Platform.here())


def test_interpreter_of_another_platform_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib/python3.11").mkdir(parents=True)
    (tmp_path / "lib/python3.11/os.py").write_bytes(b"")
    for head, seen in (
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\0", "linux/arm64"),
        (b"\xcf\xfa\xed\xfe" + bytes(16), "another system"),
    ):
        (tmp_path / "bin/python3.11").write_bytes(head)
        with pytest.raises(UsageError, match=f"no program for linux/amd64, but for {seen}"):
            interpreter.files(tmp_path, "3.11", Platform("amd64"))
