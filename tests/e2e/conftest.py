"""A project that was turned once, and copies of it: each test has its own and none pays the turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.projects import SPEC, Ran, houses, treadle


class Project:
    """A folder with a project in it, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int | None = 0, **options) -> Ran:
        """Run `treadle ARGUMENTS`; the exit code is asserted unless `code` is None."""
        ran = treadle(self.folder, *arguments, **options)
        assert code is None or ran.code == code, (arguments, ran)
        return ran

    def edit(self, file: str, *changes: tuple[str, str]) -> None:
        """Replace texts that must be there."""
        path = self.folder / file
        text = path.read_text()
        for old, new in changes:
            assert old in text, (file, old)
            text = text.replace(old, new)
        path.write_text(text)

    def add_spec(self, text: str) -> None:
        with open(self.folder / "treadle.yaml", "a") as file:
            file.write(text)

    def ledger(self) -> list[dict]:
        """Every decision, newest first."""
        return self("ledger", "--json").json["decisions"]

    def status(self) -> dict:
        return self("status", "--json").json


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A houses project with release 1 as its champion; its service is down."""
    folder = houses(tmp_path_factory.mktemp("template") / "houses")
    project = Project(folder)
    project("up")
    project("down")
    return folder


@pytest.fixture
def copy(template: Path, tmp_path: Path) -> Iterator[Callable[[], Project]]:
    """Makes copies of the turned project; their services are stopped at the end."""
    made: list[Project] = []

    def make() -> Project:
        project = Project(tmp_path / f"houses-{len(made)}")
        shutil.copytree(template, project.folder)
        made.append(project)
        return project

    yield make
    for project in made:
        if project.folder.is_dir():  # a test may have moved it
            project("down", code=None)


@pytest.fixture
def project(copy: Callable[[], Project]) -> Project:
    """One copy."""
    return copy()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Makes projects that were never turned; their services are stopped at the end."""
    made: list[Project] = []

    def make(**options) -> Project:
        project = Project(houses(tmp_path / f"fresh-{len(made)}", **options))
        made.append(project)
        return project

    yield make
    for project in made:
        project("down", code=None)


@pytest.fixture(scope="module")
def served(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One copy whose service runs, shared by the tests of a module that only look."""
    project = Project(tmp_path_factory.mktemp("served") / "houses")
    shutil.copytree(template, project.folder)
    project("up")
    yield project
    project("down", code=None)


__all__ = ["SPEC", "Project"]
