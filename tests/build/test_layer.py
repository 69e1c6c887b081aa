"""build/layer.py: entries → a deterministic tar, whole or refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.base.image import LAYER_GZIP, LAYER_TAR
from treadle.build import layer
from treadle.build.layer import Compressor, Entry, TarStream

ZLIB = Compressor("gzip", 6, "here")


def tar(*entries: Entry) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(TarStream(entries).read()))


def test_parents_are_listed_once_before_what_is_in_them() -> None:
    names = tar(Entry("opt/a/b.txt", b"1"), Entry("opt/a/c.txt", b"2")).getnames()
    assert names == ["opt", "opt/a", "opt/a/b.txt", "opt/a/c.txt"]


def test_order_of_entries_does_not_count() -> None:
    entries = [Entry(f"d{n}/f", str(n).encode()) for n in range(9)]
    assert TarStream(entries).read() == TarStream(reversed(entries)).read()


def test_owner_time_and_mode_are_fixed() -> None:
    archive = tar(
        Entry("bin/run", b"#!", executable=True), Entry("note", b""), Entry("l", link="note")
    )
    for member in archive:
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (
            0,
            0,
            "",
            "",
            0,
        )
    assert [archive.getmember(name).mode for name in ("bin", "bin/run", "note")] == [
        0o755,
        0o755,
        0o644,
    ]
    assert archive.getmember("l").linkname == "note"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up", "a/../b", "a//b", "", "a/./b", "a\0b", "a/.wh.gone"]
)
def test_path_that_escapes_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="no path within a layer"):
        TarStream([Entry(path, b"")])


def test_link_out_of_the_image_is_refused() -> None:
    with pytest.raises(Refused, match="outside the image"):
        TarStream([Entry("a/l", link="../../etc/passwd")])
    TarStream([Entry("a/l", link="../etc/passwd"), Entry("b/l", link="/usr/bin/python3")])


def test_file_that_is_there_twice_or_is_a_folder_too_is_refused() -> None:
    with pytest.raises(Refused, match="twice"):
        TarStream([Entry("a", b"1"), Entry("a", b"1")])
    with pytest.raises(Refused, match="lies below it"):
        TarStream([Entry("a", b"1"), Entry("a/b", b"1")])


def test_link_that_leads_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m").symlink_to("../secret")
    with pytest.raises(Refused, match="leads out of"):
        layer.folder_entries(folder, ["m"], "/models")


@pytest.mark.parametrize("after", [b"", b"shorter", b"longer than it was"])
def test_file_that_changes_while_it_is_packed_is_noticed(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"as it was")
    stream = TarStream([Entry("f", path)])
    path.write_bytes(after)
    with pytest.raises(StateCorrupt, match="changed while it was packed"):
        stream.read()


NAMES = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=120
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))


@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), max_size=8
    )
)
def test_any_files_come_back_as_they_were(files: dict[str, bytes]) -> None:
    files = {
        path: data for path, data in files.items()
        if not any(other.startswith(f"{path}/") for other in files)
    }  # fmt: skip
    stream = TarStream([Entry(path, data) for path, data in files.items()])
    data = stream.read()
    assert len(data) == stream.size_bytes
    archive = tarfile.open(fileobj=io.BytesIO(data))
    found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    assert found == files


def test_gnu_tar_reads_it_too(tmp_path: Path) -> None:
    long = "/".join(["a" * 90] * 3)
    stream = TarStream([Entry(long, b"deep"), Entry("ü/ß", b"unicode")])
    done = subprocess.run(["tar", "-xf", "-", "-C", str(tmp_path)], input=stream.read(), check=True)
    assert done.returncode == 0
    assert (tmp_path / long).read_bytes() == b"deep"
    assert (tmp_path / "ü/ß").read_bytes() == b"unicode"


def test_equal_files_make_equal_layers_under_another_umask_place_and_language(
    tmp_path: Path,
) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "os.umask(int(sys.argv[2], 8)); folder = Path(sys.argv[1]); folder.mkdir()\n"
        "(folder / 'ä').write_bytes(b'1'); (folder / 'b').write_bytes(b'2')\n"
        "from treadle.build import layer\n"
        "print(layer.streamed(layer.folder_entries(folder, os.listdir(folder), '/models'), 'm').digest)\n"
    )
    found = set()
    for number, (umask, zone, language, seed) in enumerate(
        [
            ("022", "UTC", "C.UTF-8", "0"),
            ("077", "Asia/Tokyo", "C.UTF-8", "7"),
            ("000", "UTC", "POSIX", "9"),
        ]
    ):
        env = {
            **os.environ,
            "TZ": zone,
            "LC_ALL": language,
            "PYTHONHASHSEED": seed,
            "PYTHONUTF8": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / str(number)), umask],
            capture_output=True, text=True, env=env, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


# ---- compression ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [layer.NONE, ZLIB, layer.best_compressor()], ids=str)
def test_compressed_layer_unpacks_to_its_diff_id(compressor: Compressor) -> None:
    out = io.BytesIO()
    done = layer.write([Entry("a", b"x" * 100_000)], compressor, out)
    packed = out.getvalue()
    assert done.digest == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert done.size_bytes == len(packed)
    plain = packed if compressor.name == "none" else gzip.decompress(packed)
    assert done.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert compressor.media_type == (LAYER_TAR if compressor.name == "none" else LAYER_GZIP)


@pytest.mark.parametrize("compressor", [ZLIB, layer.best_compressor()], ids=str)
def test_compressed_bytes_hold_no_time_and_no_name(compressor: Compressor) -> None:
    out = io.BytesIO()
    layer.write([Entry("a", b"x")], compressor, out)
    head = out.getvalue()[:10]
    assert head[:3] == b"\x1f\x8b\x08"
    assert head[3] == 0  # no flags: no name
    assert head[4:8] == bytes(4)  # no time


def test_compressor_by_its_text_is_the_same_or_an_error() -> None:
    here = layer.best_compressor()
    assert layer.compressor_of(str(here)) == here
    assert layer.compressor_of("none") == layer.NONE
    with pytest.raises(UsageError, match="the digests would differ"):
        layer.compressor_of("gzip-6/zlib-0.0.1")


def test_streamed_layer_is_read_again_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"model" * 1000)
    blob = layer.streamed(layer.folder_entries(tmp_path, ["m"], "/models"), "model")
    for _ in range(2):
        with blob.open() as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == blob.digest[7:]
    assert blob.diff_id == blob.digest


@pytest.mark.parametrize("after", [b"moDel", b"mod", b"model and more"])
def test_streamed_layer_whose_file_changed_before_it_was_sent_is_noticed(
    tmp_path: Path, after: bytes
) -> None:
    (tmp_path / "m").write_bytes(b"model")
    blob = layer.streamed(layer.folder_entries(tmp_path, ["m"], "/models"), "the model")
    (tmp_path / "m").write_bytes(after)
    sent = b""
    with pytest.raises(StateCorrupt, match="the model is not what was described"):
        with blob.open() as stream:
            while piece := stream.read(1024):
                sent += piece
    assert len(sent) < blob.size_bytes
