"""A server process around the echoing service: `python -m tests.support.echo_server FD HTTP …`.

It prints what happens to it: started, drained, flushed, beat, ended.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

from tests.support.echo import Echo

from treadle.operate.http import server as runner
from treadle.operate.http.listener import Certificates, inherited
from treadle.operate.limits import Limits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("fd", type=int)
    parser.add_argument("http", choices=["own", "uvicorn"])
    parser.add_argument("--swap", type=float, default=1.0)
    parser.add_argument("--stop", type=float, default=0.3)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--lifeline", type=int)
    parser.add_argument("--certificate", nargs=2)
    parser.add_argument("--worker", nargs=2, type=int, help="a shared file, and which of two I am")
    options = parser.parse_args()
    say = partial(print, flush=True)
    http: Literal["own", "uvicorn"] = options.http
    crowded: Callable[[int], bool] | None = None
    if options.worker:
        descriptor, own = options.worker
        counts = memoryview(mmap.mmap(descriptor, 16)).cast("d")

        def crowded(present: int) -> bool:
            counts[own] = present
            return counts[1 - own] < present

    logging.basicConfig(stream=sys.stderr)
    server = runner.Server(
        Echo(keep=False), inherited(options.fd), http=http, limits=Limits(),
        tls=Certificates(*options.certificate) if options.certificate else None,
        swap_linger_s=options.swap, stop_linger_s=options.stop, grace_s=options.grace,
        lifeline=options.lifeline, started=lambda: say("started"),
        drained=lambda: say("drained"), flush=lambda: say("flushed"),
        heartbeat=lambda: say("beat"), crowded=crowded,
    )  # fmt: skip
    runner.run(server.serve())
    say("ended", "uvicorn" in sys.modules)


if __name__ == "__main__":
    main()
