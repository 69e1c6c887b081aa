"""What goes into an image beside its base and the server: requirements, files, process, labels.

One function a purpose and source: a release of a project, any MLflow model directory, a project's
own training environment, the hub.
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.digest import digest, digest_file, digest_tree
from treadle.base.errors import UsageError
from treadle.base.image import Purpose
from treadle.base.plain import from_plain
from treadle.base.records import Model, Release, Run
from treadle.build import image, needs
from treadle.build.image import Process
from treadle.build.needs import Needs
from treadle.loop.project import Project


@dataclass(frozen=True)
class Subject:
    """What an image is about."""

    purpose: Purpose
    name: str
    """Of the project or the directory: the model's name and the image's default name."""
    process: Process
    flavor: str | None = None
    requirements: tuple[str, ...] = ()
    """What the model or the project pins itself; the server's own come on top."""
    model_folder: Path | None = None
    model_files: dict[str, str] = field(default_factory=dict)
    """Relative path → digest."""
    content: str = ""
    code: dict[str, Path] = field(default_factory=dict)
    """Path below the project's folder in the image → file."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Content digests: model, data, code."""
    release: int | None = None
    run: str = ""
    needs: Needs | None = None
    """Of a `train` image."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where the model came from, for the provenance: steps, snapshots, parameters, commit."""


def of_release(project: Project, release: Release, purpose: Purpose = "serve") -> Subject:
    """The released model, as it was judged: to serve it, or to score files with it."""
    model = from_plain(Model, project.journal.get("model", release.model))
    state = project.require_state()
    told = {"model": model.content}
    origin: dict[str, Any] = {}
    run = project.journal.get("run", release.run)
    if run is not None:
        made = from_plain(Run, run)
        told["data"] = digest(dict(sorted(made.snapshots.items())))
        told["code"] = made.code
        origin = _origin(project, made)
    trusted = project.spec.trust == "pickle"
    process = (
        image.scorer(model.content, trust_pickle=trusted)
        if purpose == "batch"
        else image.server(project.spec.project, model.content, trust_pickle=trusted)
    )
    return Subject(
        purpose, project.spec.project, process,
        flavor=model.flavor, requirements=model.requirements,
        model_folder=state.model_folder(model.content), model_files=dict(model.files),
        content=model.content, annotations=told, release=release.number, run=release.run,
        origin=origin,
    )  # fmt: skip


def _origin(project: Project, run: Run) -> dict[str, Any]:
    """What a model was made of, by the steps that made it."""
    steps = {}
    for name, key in run.steps.items():
        step = project.journal.get("step", key)
        if step is not None:
            steps[name] = {"key": key, "depends": step["depends"]}
    return {
        "steps": steps, "snapshots": dict(run.snapshots), "parameters": dict(run.parameters),
        "commit": run.commit,
    }  # fmt: skip


def of_training(project: Project) -> Subject:
    """The project's source with what its pipeline imports: `treadle train` in a container."""
    from treadle.clients import wheels
    from treadle.code import fingerprint

    sources = fingerprint.project(project.folder, project.spec.pipeline)
    imported: dict[str, str] = {}
    for function in sources.functions.values():
        imported |= function.packages
    code = _source_files(project)
    return Subject(
        "train", project.spec.project, image.toolbox(), code=code,
        needs=needs.train(project.folder, imported, wheels.exported(project.folder)),
        annotations={"code": digest({name: digest_file(path) for name, path in code.items()})},
    )  # fmt: skip


def _source_files(project: Project) -> dict[str, Path]:
    """What of the project's folder is source: what git tracks; without git, all but data and state."""
    import subprocess

    folder = project.folder
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        names = [name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
    data = [
        glob for section in project.spec.data.values() for glob in (section.files, section.paths)
        if glob is not None
    ]  # fmt: skip
    skipped = {".treadle", ".git", "__pycache__", ".venv", "venv", "node_modules"}
    return {
        name: folder / name
        for name in sorted(names)
        if not skipped & set(Path(name).parts)
        and not any(fnmatch.fnmatch(name, glob) for glob in data)
        and (folder / name).is_file()
    }


def of_hub(name: str) -> Subject:
    """Treadle with MLflow, to turn loops on a cluster."""
    return Subject("hub", name, image.toolbox())


def of_folder(folder: Path, *, trust_pickle: bool = False) -> Subject:
    """Any MLflow model directory: its own requirements, its bytes."""
    if not (folder / "MLmodel").is_file():
        raise UsageError(
            f"{folder} is no model directory: it has no MLmodel file",
            hint="name a directory that MLflow or Treadle saved a model in",
        )
    content, files = digest_tree(folder)
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._") or "model"
    return Subject(
        "serve", name, image.server(name, content, trust_pickle=trust_pickle),
        flavor=_flavor(folder), requirements=_requirements(folder), model_folder=folder,
        model_files=files, content=content, annotations={"model": content},
    )  # fmt: skip


def _flavor(folder: Path) -> str:
    """The flavor that the server will load by."""
    native = ("sklearn", "xgboost", "lightgbm", "onnx", "pytorch")
    text = (folder / "MLmodel").read_text(encoding="utf-8")
    found = [name for name in native if re.search(rf"^  {name}:\s*$", text, re.MULTILINE)]
    if not found and text.lstrip().startswith("{"):
        try:
            flavors = json.loads(text).get("flavors", {})
        except ValueError:
            flavors = {}
        found = [name for name in native if name in flavors]
    return found[0] if found else "pyfunc"


def _requirements(folder: Path) -> tuple[str, ...]:
    try:
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no requirements.txt: what its image needs is not known",
            hint="write one, a line `name==version` for each package the model is loaded with",
        ) from None
    stripped = (line.partition("#")[0].strip() for line in lines)
    return tuple(line for line in stripped if line)
