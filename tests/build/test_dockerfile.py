"""build/dockerfile.py: the same image for any builder; its script unpacks as build/wheel does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.build.test_image import plan
from tests.build.test_wheel import HERE, UNDER, make

from treadle.base.errors import Refused
from treadle.base.image import Platform, Wheel
from treadle.build import dockerfile, image, wheel
from treadle.build.layer import Entry
from treadle.clients import wheels
from treadle.clients.cache import Cache

MODEL = {"MLmodel": "sha256:01"}


def context(tmp_path: Path, base: str | None = "python@sha256:bb") -> dict:
    one, _ = make(tmp_path)
    (tmp_path / "MLmodel").write_text("model")
    (tmp_path / "a.py").write_text("x = 1\n")
    return dockerfile.context(
        plan(python=HERE), base=base, interpreter="/usr/bin/python3", wheels=[one],
        sources={"treadle/a.py": tmp_path / "a.py"}, code={},
        model={"MLmodel": tmp_path / "MLmodel"}, model_files=MODEL,
    )  # fmt: skip


def text(tmp_path: Path, **more) -> list[str]:
    return context(tmp_path, **more)["Dockerfile"].decode().splitlines()


def test_any_builder_takes_it(tmp_path: Path) -> None:
    lines = text(tmp_path)
    assert not [
        line for line in lines if "--mount" in line or "--link" in line or "syntax=" in line
    ]
    assert "ARG BASE=python@sha256:bb" in lines
    assert [line.split()[0] for line in lines if line[:1].isalpha()][-1] == "COPY"
    assert lines[-1] == f"COPY models {image.MODELS}"


def test_it_says_of_the_process_what_the_image_says(tmp_path: Path) -> None:
    lines = text(tmp_path)
    for wanted in (
        'ENTRYPOINT ["python", "-m", "treadle.operate"]', 'CMD ["serve"]', "USER 65532:65532",
        "STOPSIGNAL SIGTERM", "EXPOSE 8080", 'ENV TREADLE_MODEL="/models"',
        'LABEL dev.treadle.model="sha256:cc"',
    ):  # fmt: skip
        assert wanted in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_base_that_is_in_no_registry_is_an_argument(tmp_path: Path) -> None:
    lines = text(tmp_path, base=None)
    assert "ARG BASE" in lines


def test_requirements_are_named_with_their_hashes(tmp_path: Path) -> None:
    one, _ = make(tmp_path)
    assert f"shop==1.0 --hash=sha256:{one.sha256}" in context(tmp_path)["requirements.txt"].decode()


def test_stage_of_packages_is_roots_and_needs_no_shell(tmp_path: Path) -> None:
    lines = text(tmp_path)
    assert lines.index("USER 0") < lines.index("FROM ${BASE}")
    ran = [line for line in lines if line.startswith("RUN")]
    assert ran[0] == 'RUN ["/usr/bin/python3", "/tmp/treadle/install.py", "packages"]'
    assert all(line.startswith('RUN ["') for line in ran)


def source(folder: Path) -> tuple[Wheel, Path]:
    """A source distribution that its own backend builds, without any other package."""
    import io
    import tarfile

    backend = (
        "import zipfile\n"
        "def build_wheel(folder, settings=None, metadata=None):\n"
        "    name = 'old_till-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(folder + '/' + name, 'w') as archive:\n"
        "        archive.writestr('old_till.py', 'x = 1\\n')\n"
        "        info = 'old_till-1.0.dist-info/'\n"
        "        archive.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: old-till\\nVersion: 1.0\\n')\n"
        "        archive.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        archive.writestr(info + 'RECORD', '')\n"
        "    return name\n"
    )
    files = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: old-till\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "old-till"\nversion = "1.0"\n',
        "backend.py": backend,
    }
    path = folder / "old_till-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            told = tarfile.TarInfo(f"old_till-1.0/{name}")
            told.size = len(content)
            archive.addfile(told, io.BytesIO(content.encode()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("old-till", "1.0", path.name, sha256, path.stat().st_size), path


def test_what_is_source_alone_is_refused_but_for_a_dockerfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uv")
    one, path = source(tmp_path)
    monkeypatch.setenv("UV_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    asked = {"python": HERE, "platform": Platform("amd64"), "cache": Cache(tmp_path / "cache")}
    with pytest.raises(Refused, match="old-till"):
        wheels.resolve(["old-till"], **asked)
    assert wheels.resolve(["old-till"], sources=True, **asked) == (one,)


def test_source_is_built_by_the_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, path = source(tmp_path)
    found = dockerfile.context(
        plan(python=HERE), base=None, interpreter="/usr/bin/python3", wheels=[one], sources={},
        code={}, model={}, model_files={},
    )  # fmt: skip
    assert "# Built from source: old-till." in found["Dockerfile"].decode()
    assert "old-till" not in found["requirements.txt"].decode()
    place = tmp_path / "build"
    (place / "wheels").mkdir(parents=True)
    for name in ("requirements.txt", "sources.txt"):
        (place / name).write_bytes(found[name])
    root = tmp_path / "root"
    script = found["install.py"].decode().replace('SITE = "', f'SITE = "{root}')
    (place / "install.py").write_text(script)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    subprocess.run([sys.executable, place / "install.py", "packages"], check=True)
    assert (root / "opt/treadle/site-packages/old_till.py").read_text() == "x = 1\n"


def test_script_makes_the_same_files_as_the_layers(tmp_path: Path) -> None:
    one, path = make(tmp_path)
    place = tmp_path / "build"
    (place / "wheels").mkdir(parents=True)
    (place / "wheels" / path.name).write_bytes(path.read_bytes())
    (place / "site-packages/treadle").mkdir(parents=True)
    (place / "site-packages/treadle/a.py").write_text("x = 1\n")
    found = context(tmp_path)
    for name in ("requirements.txt", "sources.txt"):
        (place / name).write_bytes(found[name])
    root = tmp_path / "root"
    script = found["install.py"].decode().replace('SITE = "', f'SITE = "{root}')
    (place / "install.py").write_text(script)
    for what in ("packages", "treadle"):
        subprocess.run([sys.executable, place / "install.py", what], check=True)
    wanted = wheel.located([one], {one: path}, UNDER, HERE)
    wanted.append(Entry("opt/treadle/site-packages/treadle/a.py", b"x = 1\n"))
    made = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    cached = {n for n in made if "/treadle/__pycache__/" in n or n.endswith("bin/python")}
    assert made - cached == {entry.path for entry in wanted}
    assert len(cached) == 2
    for entry in wanted:
        if not entry.path.endswith(".pyc"):  # the place is part of bytecode, and is another here
            with entry.open() as stream:
                assert (root / entry.path).read_bytes() == stream.read()
