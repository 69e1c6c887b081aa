"""What the image tests need, asked once: engine, registry, readers, base; and what to say if absent."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

import pytest
from tests.support import base_image, registry

HINT = "make test-images brings what is missing"


@functools.cache
def engine_missing() -> str | None:
    """Why no Docker engine can be asked, or None."""
    if shutil.which("docker") is None:
        return f"needs Docker: {HINT}"
    done = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return None if done.returncode == 0 else f"needs a running Docker engine: {HINT}"


def require(*parts: str) -> None:
    """Skip the test (or, with TREADLE_NO_SKIPS, fail it) unless these are here: engine, registry,
    base, or a program's name."""
    for part in parts:
        if part == "engine":
            why = engine_missing()
        elif part == "registry":
            why = registry.missing()
        elif part == "base":
            why = base_image.missing()
        else:
            why = None if shutil.which(part) else f"needs {part}: {HINT}"
        if why and os.environ.get("TREADLE_NO_SKIPS"):
            pytest.fail(why)
        if why:
            pytest.skip(why)
