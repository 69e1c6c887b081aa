"""Worlds that are taken down at the end, and one that nobody interrupted to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.crash.world import World


@dataclass(frozen=True)
class Reference:
    """What an uninterrupted first turn leaves."""

    essence: dict[str, Any]
    answer: dict[str, Any]
    seconds: float


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """An uninterrupted first turn."""
    import time

    world = World(tmp_path_factory.mktemp("uninterrupted") / "houses")
    began = time.monotonic()
    world("up")
    seconds = time.monotonic() - began
    world.verify()
    found = Reference(world.essence(), world.served(), seconds)
    world.kill_all()
    return found


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds; all their processes are killed at the end."""
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(tmp_path / f"houses-{len(made)}", **options))
        return made[-1]

    yield make
    for world in made:
        world.kill_all()


@pytest.fixture
def world(worlds: Callable[..., World]) -> World:
    """A project that was never turned."""
    return worlds()
