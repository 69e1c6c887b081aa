"""A real browser: Chromium without a window, asked by WebDriver's own HTTP through chromedriver."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOW = "apt-get install -y chromium chromium-driver"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which WebDriver gives the id of an element (its specification, section 11)."""


class Browser:
    """One window."""

    def __init__(self, port: int, session: str) -> None:
        self._port, self._session = port, session

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return _call(self._port, method, f"/session/{self._session}{path}", body)

    def go(self, address: str) -> None:
        self.call("POST", "/url", {"url": address})

    def find(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return found[_ELEMENT]

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Instead of what is there, key by key as a person does."""
        element = self.find(selector)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        """What a person sees of it."""
        return self.call("GET", f"/element/{self.find(selector)}/text")

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def size(self, width: int, height: int) -> None:
        self.call("POST", "/window/rect", {"width": width, "height": height})

    def until(self, selector: str, pattern: str, seconds: float = 30) -> str:
        """Its text, as soon as the pattern is in it."""
        until = time.monotonic() + seconds
        while not re.search(pattern, text := self.text(selector)):
            assert time.monotonic() < until, f"{selector}: {text!r}"
            time.sleep(0.05)
        return text

    def complaints(self) -> list[str]:
        """What the browser wrote on its console: errors of scripts, refusals of the policy."""
        return [line["message"] for line in self.call("POST", "/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


def _call(port: int, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body))
    told = json.loads(connection.getresponse().read())["value"]
    connection.close()
    if isinstance(told, dict) and "error" in told:
        raise AssertionError(f"{told['error']}: {told['message']}")
    return told


@contextmanager
def browser(driver: str, chromium: str, home: Path, *, dark: bool = False) -> Iterator[Browser]:
    """A window of a browser that knows nothing of any other; gone at the end, with its processes."""
    # Its crash handler asks for a folder of its own even where all else is in the profile.
    environ = {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    with subprocess.Popen(
        [driver, "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
    ) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            else:
                raise AssertionError("chromedriver did not start")
            port = int(found[1])
            arguments = [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                f"--user-data-dir={home / 'profile'}", "--window-size=1000,1200",
                *(["--force-dark-mode"] if dark else []),
            ]  # fmt: skip
            wanted = {
                "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                "goog:chromeOptions": {"binary": chromium, "args": arguments},
            }  # fmt: skip
            made = _call(port, "POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            window = Browser(port, made["sessionId"])
            try:
                yield window
            finally:
                window.call("DELETE", "")
        finally:
            process.terminate()
