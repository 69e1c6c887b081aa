"""Numbers that the workers of one server share: a piece of memory, a row of doubles for each worker.

Each worker writes its own row and nothing else (one writer, no locks; an aligned double is written
whole), the supervisor writes the header, and everybody may read everything: so each worker can answer
for all of them. The row of a worker that died keeps its counters, and the one that takes it over goes
on from there: a total never goes down. Only the standard library is imported: the supervisor stays
small.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time

WIDTH = 1024
"""Doubles of a row, 8 KiB; memory that nobody wrote to is not taken."""
WANTED, READY, RESTARTS, USED = range(4)
"""The header: workers wanted and ready, replaced since the start, rows that were ever given away."""
(
    PID, BEAT, CALLING, RESIDENT, QUEUED_REQUESTS, QUEUED_ROWS, ACCEPTING, CONNECTIONS,
) = range(8)  # fmt: skip
"""The gauges at the beginning of each row; zeroed when its worker has died."""
LAYOUT = 16
"""What the counters from the next cell on mean: see `claim`. Cells before it are gauges."""


class Shared:
    """The memory: a header and `slots` rows."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None = None) -> None:
        self.descriptor = descriptor
        """To be given to the workers; None: this process alone sees it."""
        self._cells = memoryview(memory).cast("d")
        self.header = self._cells[:WIDTH]
        self.slots = len(self._cells) // WIDTH - 1

    @classmethod
    def alone(cls) -> Shared:
        """Memory of this process, which is its own only worker."""
        shared = cls(mmap.mmap(-1, 2 * WIDTH * 8))
        shared.header[WANTED] = shared.header[USED] = 1
        return shared

    @classmethod
    def create(cls, slots: int) -> Shared:
        """Memory without a name, reachable by its descriptor only, so that nothing is left behind."""
        size = (slots + 1) * WIDTH * 8
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("treadle-counters")
        else:
            with tempfile.TemporaryFile(buffering=0) as file:
                descriptor = os.dup(file.fileno())
        os.truncate(descriptor, size)
        return cls(mmap.mmap(descriptor, size), descriptor)

    @classmethod
    def attach(cls, descriptor: int) -> Shared:
        """The memory that the supervisor made."""
        return cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size), descriptor)

    def row(self, slot: int) -> memoryview[float]:
        """All cells of one worker."""
        return self._cells[(slot + 1) * WIDTH : (slot + 2) * WIDTH]

    def rows(self, layout: float) -> dict[int, memoryview[float]]:
        """The rows, by slot, of all workers so far whose counters mean the same."""
        rows = {slot: self.row(slot) for slot in range(int(self.header[USED]))}
        return {slot: row for slot, row in rows.items() if row[LAYOUT] == layout}

    def claim(self, slot: int, layout: float) -> memoryview[float]:
        """A row for this process, whose predecessor is dead; its counters go on.

        `layout` tells what the cells mean. Where another version of Treadle counted here before, the
        row begins anew: numbers that mean something else are worth nothing.
        """
        row = self.row(slot)
        if row[LAYOUT] != layout:
            for cell in range(WIDTH):
                row[cell] = 0.0
            row[LAYOUT] = layout
        self.clear(slot)
        row[PID], row[BEAT] = os.getpid(), time.monotonic()
        return row

    def clear(self, slot: int) -> None:
        """Its worker is dead: it has no queue and no memory any more."""
        row = self.row(slot)
        for cell in range(LAYOUT):
            row[cell] = 0.0

    @property
    def ready(self) -> bool:
        """Whether as many workers serve as are wanted."""
        return self.header[READY] >= self.header[WANTED]
