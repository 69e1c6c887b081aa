"""Python's search for cycles of garbage, in a process that answers.

What a request leaves behind is freed by its reference counts. But its rows are thousands of lists, and
after every 700 new containers the interpreter looks through the young ones, now and then through all:
the libraries' hundred thousands, while everybody waits. So what is there when the server begins is
left out for good, and the search comes after more containers than requests hold together.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000
"""New containers, less those that were freed, after which the young ones are looked through."""


def settle() -> None:
    """To be called once, when the model is warm and nothing was asked yet."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
