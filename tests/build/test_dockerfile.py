"""build/dockerfile.py: the same image for any builder; its script unpacks as build/wheel does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.build.test_image import plan
from tests.build.test_wheel import HERE, UNDER, make

from treadle.build import dockerfile, image, wheel
from treadle.build.layer import Entry

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


def test_script_makes_the_same_files_as_the_layers(tmp_path: Path) -> None:
    one, path = make(tmp_path)
    place = tmp_path / "build"
    (place / "wheels").mkdir(parents=True)
    (place / "wheels" / path.name).write_bytes(path.read_bytes())
    (place / "site-packages/treadle").mkdir(parents=True)
    (place / "site-packages/treadle/a.py").write_text("x = 1\n")
    found = context(tmp_path)
    (place / "requirements.txt").write_bytes(found["requirements.txt"])
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
