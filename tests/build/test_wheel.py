"""build/wheel.py and bytecode.py: wheels straight into layers."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.errors import Refused, StateCorrupt
from treadle.base.image import Wheel
from treadle.build import bytecode, wheel
from treadle.build.layer import TarStream

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
UNDER = "/opt/treadle/site-packages"
FILES = {
    "shop/__init__.py": b"def price():\n    return 7\n",
    "shop/broken.py": b"def (:\n",
    "shop/data.bin": bytes(2 << 20),
    "shop-1.0.dist-info/METADATA": b"Name: shop\nVersion: 1.0\n",
    "shop-1.0.dist-info/RECORD": b"",
    "shop-1.0.data/purelib/more.py": b"x = 1\n",
    "shop-1.0.data/data/share/note.txt": b"note",
    "shop-1.0.data/scripts/shop": b"#!python\n",
    "shop-1.0.data/headers/shop.h": b"",
}


def make(folder: Path, files: dict[str, bytes] = FILES, name: str = "shop") -> tuple[Wheel, Path]:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    data = path.read_bytes()
    return Wheel(name, "1.0", path.name, hashlib.sha256(data).hexdigest(), len(data)), path


def described(path: Path) -> Wheel:
    data = path.read_bytes()
    return Wheel("shop", "1.0", path.name, hashlib.sha256(data).hexdigest(), len(data))


def names(found: list) -> set[str]:
    return {entry.path for entry in found}


def test_files_lie_where_an_installer_would_put_them(tmp_path: Path) -> None:
    one, path = make(tmp_path)
    found = names(wheel.entries(one, path, UNDER, python=None))
    assert found == {
        "opt/treadle/site-packages/shop/__init__.py",
        "opt/treadle/site-packages/shop/broken.py",
        "opt/treadle/site-packages/shop/data.bin",
        "opt/treadle/site-packages/shop-1.0.dist-info/METADATA",
        "opt/treadle/site-packages/shop-1.0.dist-info/RECORD",
        "opt/treadle/site-packages/more.py",
        "opt/treadle/share/note.txt",
    }


def test_unpacked_layer_imports_with_its_bytecode_and_metadata(tmp_path: Path) -> None:
    one, path = make(tmp_path)
    found = wheel.entries(one, path, UNDER, python=HERE)
    with tarfile.open(fileobj=io.BytesIO(TarStream(found).read())) as archive:
        archive.extractall(tmp_path / "root", filter="tar")
    site = tmp_path / "root" / UNDER.lstrip("/")
    program = "import shop, importlib.metadata as m; print(shop.price(), m.version('shop'), shop.__cached__)"
    done = subprocess.run(
        [sys.executable, "-S", "-v", "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.startswith("7 1.0 ")
    assert f"matches {site}/shop/__init__.py" in done.stderr
    assert not list(site.rglob("broken*.pyc"))


def test_bytecode_is_equal_from_two_processes_with_other_seeds_and_places(tmp_path: Path) -> None:
    program = (
        "import hashlib, sys; from treadle.build import bytecode\n"
        "import json.decoder as d, inspect, dataclasses, argparse\n"
        "s = {f'opt/{m.__name__}.py': inspect.getsource(m).encode() for m in (d, dataclasses, argparse)}\n"
        "print(sorted((n, hashlib.sha256(b).hexdigest()) for n, b in bytecode.compiled(s).items()))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=place, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed, place in (("0", "/"), ("1", str(tmp_path)), ("random", "/tmp"))
    }  # fmt: skip
    assert len(found) == 1
    assert found.pop().count("cpython") == 3


def test_bytecode_is_compiled_under_a_fixed_hash_seed() -> None:
    command = [*bytecode.COMMAND, "-c", "print(hash('seed'))"]
    found = {subprocess.check_output(command, env=bytecode.ENVIRONMENT) for _ in range(3)}
    assert len(found) == 1


@pytest.mark.parametrize("source", [b"-" * 100_000 + b"1", b"a\0", b"\xff", b"a" + b".b" * 100_000])
def test_module_that_no_compiler_takes_stays_without_bytecode(source: bytes) -> None:
    made = bytecode.compiled({"opt/bad.py": source, "opt/good.py": b"x = 1"})
    assert [name.rpartition("/")[2].partition(".")[0] for name in made] == ["good"]


def test_bytecode_is_made_only_by_the_same_minor_version() -> None:
    assert bytecode.possible(HERE)
    assert not bytecode.possible("3.8")


def test_wheel_that_is_not_what_was_resolved_is_refused(tmp_path: Path) -> None:
    one, path = make(tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StateCorrupt, match="not what was resolved"):
        wheel.entries(one, path, UNDER, python=None)


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(b"no zip")
    one = Wheel("x", "1", "x.whl", hashlib.sha256(b"no zip").hexdigest(), 6)
    with pytest.raises(Refused, match="no wheel"):
        wheel.entries(one, path, UNDER, python=None)


def test_member_that_escapes_is_refused(tmp_path: Path) -> None:
    one, path = make(tmp_path, {"../../../etc/passwd": b""})
    found = wheel.entries(one, path, UNDER, python=None)
    with pytest.raises(Refused, match="no path within a layer"):
        TarStream(found)


def test_file_that_two_wheels_bring_is_that_of_the_later_name(tmp_path: Path) -> None:
    a = make(tmp_path, {"tests/__init__.py": b"a = 1"}, "aaa")
    b = make(tmp_path, {"tests/__init__.py": b"b = 1"}, "bbb")
    for order in ([a, b], [b, a]):
        (entry,) = wheel.located([w for w, _ in order], dict(order), UNDER, None)
        assert entry.open().read() == b"b = 1"


def test_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("shop.py", b"x = 1")
        archive.writestr("shop.py", b"x = 2")
    with pytest.raises(Refused, match="shop.py twice"):
        wheel.entries(described(path), path, UNDER, python=None)


def test_wheel_that_unpacks_to_a_multiple_of_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(200):
            archive.writestr(f"shop/{number}.py", bytes(1 << 20))
    with pytest.raises(Refused, match="which no wheel does"):
        wheel.entries(described(path), path, UNDER, python=HERE)


def test_broken_member_is_named(tmp_path: Path) -> None:
    path = make(tmp_path, {"shop/data.bin": b"some content of a member"})[1]
    path.write_bytes(path.read_bytes().replace(b"some content", b"some c0ntent", 1))
    (entry,) = wheel.entries(described(path), path, UNDER, python=None)
    with pytest.raises(Refused, match=r"shop/data.bin in shop-1.0-.* cannot be unpacked"):
        TarStream([entry]).read()


def test_folder_that_is_only_called_data_is_a_package(tmp_path: Path) -> None:
    one, path = make(
        tmp_path, {"tables.data/x.txt": b"", "shop-1.0.dist-info/METADATA": b"Name: shop\n"}
    )
    found = names(wheel.entries(one, path, UNDER, python=None))
    assert "opt/treadle/site-packages/tables.data/x.txt" in found


WHEELS = st.lists(
    st.builds(
        Wheel, st.text("abcdef", min_size=1, max_size=3), st.just("1"), st.just("f"),
        st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(1, 5_000_000),
    ),
    max_size=60, unique_by=lambda one: one.name,
)  # fmt: skip


@given(WHEELS, st.integers(1, 30))
def test_groups_hold_every_wheel_once_and_are_few(wheels: list[Wheel], most: int) -> None:
    groups = wheel.group(wheels, most)
    assert len(groups) <= most
    assert sorted(w.name for g in groups for w in g) == sorted(w.name for w in wheels)
    assert wheel.group(list(reversed(wheels)), most) == groups


def test_large_wheels_are_alone_and_small_ones_together() -> None:
    sizes = {"numpy": 17_000_000, "scipy": 35_000_000, "joblib": 300_000, "msgspec": 200_000}
    wheels = [Wheel(name, "1", name, "0" * 64, size) for name, size in sizes.items()]
    assert [[w.name for w in g] for g in wheel.group(wheels)] == [
        ["scipy"], ["numpy"], ["joblib", "msgspec"],
    ]  # fmt: skip


def test_key_depends_on_content_compressor_place_and_bytecode() -> None:
    one, other = (Wheel("a", "1", "f", digit * 64, 1) for digit in "01")
    keys = [
        wheel.key([one], "none", HERE, UNDER), wheel.key([other], "none", HERE, UNDER),
        wheel.key([one], "gzip-6/x", HERE, UNDER), wheel.key([one], "none", "3.8", UNDER),
        wheel.key([one], "none", HERE, "/other"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
