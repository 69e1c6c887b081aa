"""What an image needs to have installed, by purpose: requirements before they are resolved.

serve: what the model pins, and what the server itself imports; neither MLflow nor pandas unless the
model asks for it. batch: that, and what reads and writes files of rows. train: the project's own lock, or what its pipeline imports. hub: Treadle and
MLflow.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base.errors import UsageError

SERVER = ("httptools", "msgspec", "numpy", "ruamel.yaml", "uvloop")
"""What `treadle.operate` imports besides the model's own library (a test reads sys.modules)."""
SCORER = ("pandas", "pyarrow")
"""What `treadle.operate.scoring` imports besides: pyarrow also speaks to the object store."""
_NATIVE = frozenset({"sklearn", "xgboost", "lightgbm", "onnx", "pytorch"})
_BUILDERS = re.compile(r"mlflow([-_](skinny|tracing))?")
_VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?")
"""PEP 440 as it is written down; what else a system package calls itself no resolver understands."""
_LOCKS = ("pylock.toml", "requirements.lock", "requirements.txt")


@dataclass(frozen=True)
class Needs:
    """Requirements, and what is said about how they were found."""

    requirements: tuple[str, ...]
    notes: tuple[str, ...] = ()


def serve(pinned: Sequence[str], flavor: str | None) -> Needs:
    """What answers need. MLflow, which MLflow's own directories pin, is left out of a native one."""
    kept, notes = [], []
    for pin in pinned:
        requirement, name = pin, name_of(pin)
        if _BUILDERS.fullmatch(name):
            if flavor in _NATIVE:
                notes.append(
                    f"{requirement} is left out: the model is loaded by its own library ({flavor})"
                )
                continue
            if name == "mlflow":
                requirement = "mlflow-skinny" + requirement[len("mlflow") :]
                notes.append(f"mlflow-skinny takes the place of mlflow ({requirement})")
        kept.append(requirement)
    if flavor not in _NATIVE and not any(name_of(one) == "pandas" for one in kept):
        kept.append("pandas")  # mlflow.pyfunc imports it, and only the full mlflow requires it
    if flavor not in _NATIVE and not any(_BUILDERS.fullmatch(name_of(one)) for one in kept):
        kept.append("mlflow-skinny>=3.7,<4")
    named = {name_of(one) for one in kept}
    kept += [name for name in SERVER if name not in named]
    return Needs(tuple(sorted(kept)), tuple(notes))


def batch(pinned: Sequence[str], flavor: str | None) -> Needs:
    """What scores files: the server's needs, and those of reading and writing rows."""
    found = serve(pinned, flavor)
    named = {name_of(one) for one in found.requirements}
    more = (name for name in SCORER if name not in named)
    return Needs(tuple(sorted((*found.requirements, *more))), found.notes)


def train(
    folder: Path, imported: Mapping[str, str], exported: Sequence[str] | None = None
) -> Needs:
    """The project's lock; where there is none, the versions of what the pipeline imports.

    Args:
        folder: the project's.
        imported: distribution → version, as the pipeline's fingerprints name them.
        exported: what uv made of the project's uv.lock, where it has one.
    """
    if exported is not None:
        return Needs((*exported, *_own()), ("installed as uv.lock of the project says",))
    for name in _LOCKS:
        if (folder / name).is_file():
            return Needs(
                (*_lines(folder / name), *_own()), (f"installed as {name} of the project says",)
            )
    absent = sorted(name for name, version in imported.items() if version == "not installed")
    if absent:
        raise UsageError(f"the pipeline imports {', '.join(absent)}, which is not installed here")
    pins = [
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(imported.items())
        if "source sha256:" not in version
    ]
    said = f"the project has no lock: what its pipeline imports is pinned ({', '.join(pins)})"
    return Needs((*pins, *_beside(imported), *_own()), (said,))


def hub() -> Needs:
    """Treadle's own requirements, and MLflow."""
    return Needs((*_own(), "mlflow>=3.7,<4"))


def installed() -> list[str]:
    """The versions that are installed here, as constraints: what was judged is what runs."""
    found = {}
    for one in importlib.metadata.distributions():
        # Of a name that is there twice, or is left over from a failed removal, the version counts
        # that an import would find.
        try:
            name = name_of(one.metadata["Name"] or "")
            version = importlib.metadata.version(name).partition("+")[0]
        except (OSError, ImportError, ValueError, TypeError, AttributeError):
            continue  # a folder without its metadata; the backport of importlib raises OSError
        if name != "treadle" and _VERSION.fullmatch(version):
            found[name] = version
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def name_of(requirement: str) -> str:
    """The normalized name of a requirement (PEP 503)."""
    name = re.split(r"[\s\[=<>!~;@]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _own() -> tuple[str, ...]:
    """What Treadle itself needs, by its own metadata."""
    needed: Iterable[str] = importlib.metadata.requires("treadle") or ()
    return tuple(one for one in needed if "extra ==" not in one)


def _beside(imported: Mapping[str, str]) -> tuple[str, ...]:
    """What Treadle needs to package the models of the libraries that are imported: its extras."""
    names = {name_of(name) for name in imported}
    found: list[str] = []
    for extra in ("sklearn", "xgboost", "lightgbm", "onnx"):
        wanted = [
            one.partition(";")[0].strip()
            for one in importlib.metadata.requires("treadle") or ()
            if re.search(rf"extra == ['\"]{extra}['\"]", one) and "!= 'linux'" not in one
        ]
        if names & {name_of(one) for one in wanted}:
            found += [one for one in wanted if name_of(one) not in names]
    return tuple(found)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return _packages(tomllib.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path.name} cannot be read as a lock: {error!r}", hint="write it anew, or delete it"
        ) from None
    text = text.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        bare = re.split(r"\s--hash|\s#|^#", line.strip(), maxsplit=1)[0].strip()
        if bare.startswith("-"):
            raise UsageError(
                f"{path.name}: {bare!r} cannot be followed", hint="name packages alone"
            )
        if bare:
            found.append(bare)
    return found


def _packages(told: Mapping[str, Any]) -> list[str]:
    """The packages of a pylock (PEP 751) as requirements; their markers decide on the target."""
    found = []
    for one in told.get("packages", []):
        name, marker = one["name"], one.get("marker", "")
        if re.search(r"\b(extras|dependency_groups)\b", marker):
            raise UsageError(
                f"pylock.toml: {name} is for some extras or groups ({marker}), which are not chosen here",
                hint="export the lock without groups, or as requirements.txt",
            )
        address = (one.get("archive") or {}).get("url")
        if address:
            requirement = f"{name} @ {address}"
        elif one.get("version") and not one.keys() & {"directory", "vcs", "archive"}:
            requirement = f"{name}=={one['version']}"
        else:
            raise UsageError(
                f"pylock.toml: {name} is a folder or a repository, and not a release",
                hint="build a wheel of it (`uv build --wheel`), put it into a folder that "
                "UV_FIND_LINKS names, and lock its version",
            )
        found.append(f"{requirement} ; {marker}" if marker else requirement)
    return found
