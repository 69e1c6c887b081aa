"""How often Python looks for garbage in cycles: seldom while modules load, as usual otherwise.

Loading pandas and scikit-learn makes some 400,000 objects and no garbage; looking for it after
every 700 of them takes a tenth of a second of a turn, and once more at its end a quarter of one.
Requests make none either: their rows are thousands of lists, freed by their reference counts.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
SELDOM = 50_000
"""New objects that may hold others, less those that were freed, until somebody looks."""


def look_seldom() -> None:
    """For a process that mostly loads modules."""
    gc.set_threshold(SELDOM, *_USUAL[1:])


def look_as_usual() -> None:
    """As Python does by itself, but not at the modules loaded so far: for users' code."""
    if not gc.get_freeze_count():  # once: in a process that stays, more would be kept for good
        gc.freeze()
    gc.set_threshold(*_USUAL)


def serve() -> None:
    """Seldom, and never at what is there now: for a server that has loaded its model."""
    gc.freeze()
    look_seldom()


def never_again() -> None:
    """For a process that ends: its memory goes back as a whole, 10 ms sooner on the fast path.

    Where users' code has run Python ends as it always does, but for the frozen modules: a file that
    a cycle holds open is then still written out.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        gc.disable()
