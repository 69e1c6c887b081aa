"""A full disk at any write of a first turn: a clear error, what was written stays, the rerun succeeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash.test_kill import equal
from tests.crash.world import World, nothing_lost

from treadle.clients.journal import SqliteJournal

pytestmark = pytest.mark.slow

ENOUGH_KB = 16_000


class Disk:
    """A tmpfs whose size changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        if sys.platform != "linux" or os.getuid() != 0 or not shutil.which("mount"):
            pytest.skip("mounts a tmpfs: needs root on Linux")
        done = self._mount(f"size={ENOUGH_KB}k")
        if done.returncode:
            pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")

    def _mount(self, options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
        )

    def size(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True)

    def used_kb(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disks(tmp_path):
    made = []

    def make() -> Disk:
        made.append(Disk(tmp_path / f"disk-{len(made)}"))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


@pytest.fixture(scope="session")
def needed_kb(tmp_path_factory, reference) -> int:
    """What the state of a first turn takes, its server stopped."""
    disk = Disk(tmp_path_factory.mktemp("needed") / "disk")
    world = World(disk.folder.parent / "houses", state=disk.folder / "state")
    try:
        world("up")
        used = disk.used_kb()
        world.kill_all()
        return used
    finally:
        disk.close()


def turn_on(disk: Disk, world: World, kilobytes: int) -> bool:
    """One `up` on a disk of that size; whether there was room."""
    disk.size(kilobytes)
    ran = world("up", code=None)
    if ran.code:
        assert ran.code == 1, ran
        assert "error: no space left on the device while writing " in ran.err, ran
        assert "hint: free some space" in ran.err
        for command in ("status", "plan"):
            looked = world(command, code=None)
            assert looked.code == 0 or "no space left" in looked.err, (command, looked)
    return not ran.code


@pytest.mark.parametrize("part", range(4))
def test_a_first_turn_fails_clearly_at_every_size_and_is_taken_up_with_more_room(
    part, disks, tmp_path, needed_kb, reference
):
    """16 sizes from nearly nothing to nearly enough."""
    for n in range(part, 16, 4):
        disk = disks()
        world = World(tmp_path / f"houses-{n}", state=disk.folder / "state")
        try:
            enough = turn_on(disk, world, 4 + needed_kb * n // 16)
            assert not enough
            disk.size(ENOUGH_KB)
            before = world.photo()
            if (world.state / "journal.db").exists():
                journal = SqliteJournal(world.state / "journal.db", create=False)
                journal.verify()
                journal.close()
            ran = world("up")
            after = world.verify()
            nothing_lost(before, after, ran)
            equal(world, reference)
        finally:
            world.kill_all()


def test_a_disk_that_grows_little_by_little_ends_like_one_with_room(
    disks, tmp_path, needed_kb, reference
):
    """Each turn gets a little farther; none undoes what another did."""
    disk = disks()
    world = World(tmp_path / "houses", state=disk.folder / "state")
    try:
        steps: set[str] = set()
        for kilobytes in range(needed_kb // 3, 2 * needed_kb, max(8, needed_kb // 24)):
            if turn_on(disk, world, kilobytes):
                break  # what failed turns wrote into the journal takes room as well
            now = set(world.photo().kind("step"))
            assert steps <= now
            steps = now
        else:
            assert turn_on(disk, world, ENOUGH_KB)
        world.verify()
        assert world.served() == reference.answer
        assert world.essence()["steps"] == reference.essence["steps"]
        assert world.essence()["releases"] == reference.essence["releases"]
    finally:
        world.kill_all()
