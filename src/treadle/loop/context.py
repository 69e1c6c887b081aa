"""Writing a Dockerfile and its context into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.base.errors import UsageError
from treadle.build import dockerfile, runtime
from treadle.clients.files import disk_errors

if TYPE_CHECKING:
    from treadle.loop.image import Planned
    from treadle.loop.subject import Subject


def write_context(planned: Planned, about: Subject, folder: Path, base_name: str) -> Path:
    """Write it; the folder must be new, empty or a context written before."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "Dockerfile").is_file():
        raise UsageError(f"{folder} holds other files", hint="name a new folder")
    plan = planned.plan
    if any(part.kind == "interpreter" for part in plan.parts):
        raise UsageError(
            f"{base_name} has no Python, and a Dockerfile cannot take the one that is named in "
            "build: {interpreter: PATH}",
            hint=f"choose a base with Python {plan.python}",
        )
    kind = base_name.partition(":")[0]
    stored = kind in ("oci", "docker-archive", "oci-archive")
    name = None if stored else f"{_untagged(base_name)}@{plan.base}"
    model = {}
    if about.model_folder is not None:
        model = {one: about.model_folder / one for one in about.model_files}
    found = dockerfile.context(
        plan, base=name, interpreter=planned.interpreter, wheels=planned.wheels,
        sources=runtime.files(plan.purpose), code=about.code, model=model,
        model_files=about.model_files,
    )  # fmt: skip
    with disk_errors(folder):
        for path in ("site-packages", "project", "models"):
            shutil.rmtree(folder / path, ignore_errors=True)
        for path, content in found.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
            target.chmod(0o644)
    return folder


def _untagged(name: str) -> str:
    """`python:3.12-slim` → `python`: a tag beside a digest says nothing."""
    head, colon, tag = name.partition("@")[0].rpartition(":")
    return head if colon and "/" not in tag else name.partition("@")[0]
