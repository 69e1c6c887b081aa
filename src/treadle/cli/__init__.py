"""The command `treadle`: each command is loaded when it is called, so that `--help` stays quick."""

from __future__ import annotations

import sys

_USAGE_EXIT = 2
_INTERRUPTED_EXIT = 130


def main() -> None:
    """The console script: runs the command and ends the process with the documented exit code."""
    from treadle.cli.group import command_line

    sys.exit(command_line(sys.argv[1:]))
