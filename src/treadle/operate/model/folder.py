"""A model directory before any library is loaded: its files, its MLmodel file, its example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treadle.base import digest
from treadle.base.errors import Refused, StateCorrupt, UsageError


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """The MLmodel file as plain values. UsageError where there is none or it is no YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = (folder / "MLmodel").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no model directory: it has no MLmodel file",
            hint="name a directory that MLflow or Treadle saved a model in",
        ) from None
    try:
        document = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UsageError(f"{folder / 'MLmodel'} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{folder / 'MLmodel'} is no mapping")
    return document


def treadle_json(folder: Path) -> dict[str, Any]:
    """What Treadle's own directories say beyond MLflow's words: named features, the one output."""
    try:
        told = json.loads((folder / "treadle.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.get("format") == 1 else {}


def verify(folder: Path, files: Mapping[str, str]) -> str:
    """The digest of the directory, if every file is what `files` says. StateCorrupt otherwise."""
    content, found = digest.digest_tree(folder)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            raise StateCorrupt(f"the model directory lacks {name}")
        if name not in files:
            raise StateCorrupt(f"the model directory holds {name}, which does not belong to it")
        if found[name] != files[name]:
            raise StateCorrupt(
                f"{name} of the model is not what was released: wanted "
                f"{digest.short(files[name])}, found {digest.short(found[name])}"
            )
    return content


def listed(folder: Path) -> None:
    """Compare the directory with its own list of digests, if it has one. StateCorrupt otherwise.

    That is a file SHA256SUMS as coreutils' sha256sum writes it.
    """
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        wanted, _, name = line.partition(" ")
        path = inside(folder, name.lstrip(" *"))
        if not path.is_file():
            raise StateCorrupt(f"the model directory lacks {name.lstrip(' *')}")
        if digest.digest_file(path) != f"sha256:{wanted}":
            raise StateCorrupt(f"{name.lstrip(' *')} of the model is not what SHA256SUMS says")


def input_example(folder: Path) -> bytes | None:
    """The directory's input example as a body for `/invocations`, or None."""
    name = (read_mlmodel(folder).get("saved_input_example_info") or {}).get("artifact_path")
    serving = folder / "serving_input_example.json"
    if serving.is_file():
        return serving.read_bytes()
    if not name or not inside(folder, str(name)).is_file():
        return None
    value = json.loads(inside(folder, str(name)).read_bytes())
    if isinstance(value, dict) and "data" in value:
        return json.dumps({"dataframe_split": value}).encode()
    if isinstance(value, dict) and set(value) == {"inputs"}:
        return json.dumps(value).encode()
    return json.dumps({"inputs": value}).encode()


def inside(folder: Path, name: str) -> Path:
    """A file that MLmodel names, which must lie in the directory."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Refused(f"the MLmodel file names {name}, which lies outside the model directory")
    return path
