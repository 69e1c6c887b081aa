"""clients/wheels.py and cache.py: requirements → wheels → files, by hash."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from treadle.base.errors import Refused, StateCorrupt, Unreachable
from treadle.base.image import LAYER_GZIP, Platform, Wheel
from treadle.clients import wheels
from treadle.clients.cache import Cache

AMD, ARM = Platform("amd64"), Platform("arm64")


def made(folder: Path, name: str, version: str, tag: str = "py3-none-any", needs: str = "") -> Path:
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        )
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all there is: no network."""
    pytest.importorskip("uv")
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def resolve(cache: Cache, *requirements: str, platform: Platform = AMD, **more) -> list[str]:
    found = wheels.resolve(requirements, python="3.11", platform=platform, cache=cache, **more)
    return [wheel.filename for wheel in found]


def test_what_is_needed_comes_along_and_files_are_what_was_resolved(
    index: Path, cache: Cache
) -> None:
    made(index, "shop", "1.0", needs="till>=2")
    till = made(index, "till", "2.1")
    found = wheels.resolve(["shop"], python="3.11", platform=AMD, cache=cache)
    assert [(wheel.name, wheel.version) for wheel in found] == [("shop", "1.0"), ("till", "2.1")]
    files = wheels.fetch(found, cache=cache)
    assert files[found[1]].read_bytes() == till.read_bytes()
    assert found[1].sha256 == hashlib.sha256(till.read_bytes()).hexdigest()


def test_each_platform_gets_its_own_wheel(index: Path, cache: Cache) -> None:
    for machine in ("x86_64", "aarch64"):
        made(index, "fast", "1.0", f"cp311-cp311-manylinux_2_17_{machine}")
    assert "x86_64" in resolve(cache, "fast")[0]
    assert "aarch64" in resolve(cache, "fast", platform=ARM)[0]


def test_installed_versions_hold(index: Path, cache: Cache) -> None:
    made(index, "shop", "1.0")
    made(index, "shop", "2.0")
    assert resolve(cache, "shop") == ["shop-2.0-py3-none-any.whl"]
    assert resolve(cache, "shop", constraints=["shop==1.0"]) == ["shop-1.0-py3-none-any.whl"]


def test_package_without_a_wheel_for_the_target_is_refused_by_name(
    index: Path, cache: Cache
) -> None:
    made(index, "fast", "1.0", "cp311-cp311-manylinux_2_17_x86_64")
    with pytest.raises(Refused, match="fast") as caught:
        resolve(cache, "fast==1.0", platform=ARM)
    assert "treadle build --dockerfile DIR" in str(caught.value.hint)


def test_requirements_that_conflict_are_refused_with_the_reason(index: Path, cache: Cache) -> None:
    made(index, "shop", "1.0", needs="till<2")
    made(index, "till", "1.0")
    made(index, "till", "2.0")
    with pytest.raises(Refused, match="till"):
        resolve(cache, "shop", "till>=2")


def test_index_that_is_away_is_unreachable(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("uv")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    with pytest.raises(Unreachable, match="does not answer") as caught:
        resolve(cache, "numpy")
    assert "127.0.0.1" not in caught.value.message


def test_file_with_another_content_is_refused_and_not_kept(tmp_path: Path, cache: Cache) -> None:
    path = made(tmp_path, "shop", "1.0")
    wheel = Wheel("shop", "1.0", path.name, "0" * 64, path.stat().st_size)
    cache.put("places", wheel.sha256, path.as_uri())
    with pytest.raises(StateCorrupt, match="another content"):
        wheels.fetch([wheel], cache=cache)
    assert not list((cache.folder / "wheels").rglob("*.whl"))


def test_file_that_is_gone_is_unreachable(tmp_path: Path, cache: Cache) -> None:
    wheel = Wheel("shop", "1.0", "shop-1.0-py3-none-any.whl", "0" * 64, 9)
    cache.put("places", wheel.sha256, (tmp_path / "absent.whl").as_uri())
    with pytest.raises(Unreachable, match="cannot be fetched"):
        wheels.fetch([wheel], cache=cache)


def test_lock_of_uv_is_exported(tmp_path: Path, index: Path) -> None:
    import subprocess

    assert wheels.exported(tmp_path) is None
    made(index, "shop", "1.0")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["shop"]\n'
    )
    subprocess.run([wheels._uv(), "lock", "--quiet"], cwd=tmp_path, check=True)
    assert wheels.exported(tmp_path) == ["shop==1.0"]


def test_best_of_the_wheels_that_suit_is_taken(index: Path, cache: Cache) -> None:
    for tag in ("py3-none-any", "cp39-abi3-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_17_x86_64",
                "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_34_x86_64"):  # fmt: skip
        made(index, "fast", "1.0", tag)
    assert resolve(cache, "fast") == ["fast-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"]


def test_file_that_a_requirement_names_is_taken(index: Path, tmp_path: Path, cache: Cache) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = made(elsewhere, "shop", "1.0")
    found = wheels.resolve([f"shop @ {path.as_uri()}"], python="3.11", platform=AMD, cache=cache)
    assert wheels.fetch(found, cache=cache)[found[0]].read_bytes() == path.read_bytes()


def test_package_whose_name_sounds_like_the_network_is_no_network_error(
    index: Path, cache: Cache
) -> None:
    made(index, "connectorx", "1.0")
    with pytest.raises(Refused, match="connectorx"):
        resolve(cache, "connectorx==9")


def test_pin_of_a_model_holds_where_another_version_is_installed(index: Path, cache: Cache) -> None:
    made(index, "shop", "1.0")
    made(index, "shop", "2.0")
    assert resolve(cache, "shop==1.0", constraints=["shop==2.0"]) == ["shop-1.0-py3-none-any.whl"]


def test_model_of_another_environment_is_resolved_by_its_pins_alone_and_it_is_said(
    index: Path, cache: Cache
) -> None:
    made(index, "shop", "1.0", needs="till<2")
    for version in ("1.0", "2.0"):
        made(index, "till", version)
    said: list[str] = []
    found = resolve(
        cache, "shop==1.0", constraints=["shop==2.0", "till==2.0"],
        report=lambda line, **_: said.append(line),
    )  # fmt: skip
    assert found == ["shop-1.0-py3-none-any.whl", "till-1.0-py3-none-any.whl"]
    assert "till is 1.0 and not 2.0" in said[-1]


def test_what_the_pins_agree_with_is_never_given_up(index: Path, cache: Cache) -> None:
    made(index, "shop", "1.0", needs="till<2")
    for version in ("1.0", "2.0"):
        made(index, "till", version)
    with pytest.raises(Refused, match="till"):
        resolve(cache, "shop==1.0", constraints=["shop==1.0", "till==2.0"])


def test_wheel_that_a_lock_names_is_found_with_an_empty_cache(
    index: Path, tmp_path: Path, cache: Cache
) -> None:
    for machine in ("x86_64", "aarch64"):
        made(index, "fast", "1.0", f"cp311-cp311-manylinux_2_17_{machine}")
    found = wheels.resolve(["fast"], python="3.11", platform=ARM, cache=cache)
    (path,) = wheels.fetch(found, cache=Cache(tmp_path / "empty")).values()
    assert "aarch64" in path.name


def test_development_group_stays_out_of_the_exported_lock(tmp_path: Path, index: Path) -> None:
    import subprocess

    made(index, "shop", "1.0")
    made(index, "lint", "1.0")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["shop"]\n'
        '[dependency-groups]\ndev = ["lint"]\n'
    )
    subprocess.run([wheels._uv(), "lock", "--quiet"], cwd=tmp_path, check=True)
    assert wheels.exported(tmp_path) == ["shop==1.0"]


def test_folder_in_the_lock_is_refused_by_name(tmp_path: Path, index: Path) -> None:
    import subprocess

    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["own"]\n'
        '[tool.uv.sources]\nown = {path = "own"}\n'
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own/pyproject.toml").write_text('[project]\nname = "own"\nversion = "1"\n')
    subprocess.run([wheels._uv(), "lock", "--quiet"], cwd=tmp_path, check=True)
    with pytest.raises(Refused, match="own is a folder"):
        wheels.exported(tmp_path)


# ---- the cache -------------------------------------------------------------------------------------


def keep(cache: Cache, key: str, data: bytes):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()

    def write(out):
        out.write(data)
        return digest, digest, len(data)

    return cache.keep_layer(key, "a layer", LAYER_GZIP, write)


def test_layer_is_found_by_what_it_is_made_of(cache: Cache) -> None:
    assert cache.layer("sha256:k", "x") is None
    kept = keep(cache, "sha256:k", b"layer")
    found = cache.layer("sha256:k", "x")
    assert found is not None
    assert (found.digest, found.diff_id) == (kept.digest, kept.diff_id)
    with found.open() as stream:
        assert stream.read() == b"layer"


def test_layer_of_another_size_is_made_again(cache: Cache) -> None:
    kept = keep(cache, "sha256:k", b"layer")
    place = cache.folder / "layers/blobs" / kept.digest[7:]
    place.write_bytes(b"lay")
    assert cache.layer("sha256:k", "x") is None
    keep(cache, "sha256:k", b"layer")
    assert cache.layer("sha256:k", "x") is not None


def test_damaged_layers_are_named_and_removed(cache: Cache) -> None:
    kept = keep(cache, "sha256:k", b"layer")
    (cache.folder / "layers/blobs" / kept.digest[7:]).write_bytes(b"LAYER")
    assert cache.damaged() == [kept.digest]
    assert cache.layer("sha256:k", "x") is None


def test_writer_that_fails_leaves_nothing(cache: Cache) -> None:
    def fails(out):
        out.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.keep_layer("sha256:k", "x", LAYER_GZIP, fails)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_record_that_is_no_json_counts_as_none(cache: Cache) -> None:
    cache.put("kind", "sha256:a", {"b": 1})
    assert cache.get("kind", "sha256:a") == {"b": 1}
    (cache.folder / "kind/a.json").write_text("{")
    assert cache.get("kind", "sha256:a") is None
