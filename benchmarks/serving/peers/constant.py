"""uvicorn with httptools and uvloop answering every body with the same bytes: constant.py FILE PORT.

A ceiling for everything that is an ASGI application.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

body = Path(sys.argv[1]).read_bytes()
head = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ],
}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Read the body, answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(head)
    await send({"type": "http.response.body", "body": body})


uvicorn.run(
    app, port=int(sys.argv[2]), http="httptools", loop="uvloop", lifespan="off",
    log_level="warning", access_log=False,
)  # fmt: skip
