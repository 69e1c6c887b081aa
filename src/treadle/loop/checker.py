"""Checks data sets in a process of its own, beside the import of the user's code; writes nothing.

python -m treadle.loop.checker PROJECT_FOLDER DATASET…   → {"reports": …} or {"error": …} as JSON
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from treadle.base import garbage
from treadle.base.errors import TreadleError


def main() -> None:
    """Scan the named data sets' last stored snapshots."""
    # Who asked is killed or interrupted: then this ends too, without a word about itself.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    garbage.look_seldom()
    from treadle.loop.datasets import find, scan_report
    from treadle.loop.project import open_project

    try:
        project = open_project(Path(sys.argv[1]), create=False)
        answer: dict[str, object] = {
            "reports": {n: scan_report(project, n, find(project, n)) for n in sys.argv[2:]}
        }
    except TreadleError as error:
        answer = error.as_dict()
    except Exception:
        return  # who asked looks again itself, and shows the error where it is
    json.dump(answer, sys.stdout)
    garbage.never_again()  # who asked waits for the end


if __name__ == "__main__":
    main()
