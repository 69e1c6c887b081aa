"""The command `treadle`: each command is loaded when it is called, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys

_USAGE_EXIT = 2
_INTERRUPTED_EXIT = 130


def main() -> None:
    """The console script: runs the command and ends the process with the documented exit code."""
    # OpenMP's threads spin while they wait by default. Beside other work (the check of the rows, the
    # server, the recorder) a fit that takes a second then takes minutes; asleep they cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from treadle.base import garbage

    garbage.look_seldom()
    from treadle.cli.group import command_line

    try:
        sys.exit(command_line(sys.argv[1:]))
    finally:
        garbage.never_again()
