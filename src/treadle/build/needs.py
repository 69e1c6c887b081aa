"""What an image needs to have installed, by purpose: requirements before they are resolved.

serve: what the model pins, and what the server itself imports; neither MLflow nor pandas unless the
model asks for it. train: the project's own lock, or what its pipeline imports. hub: Treadle and
MLflow.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from treadle.base.errors import UsageError

SERVER = ("httptools", "msgspec", "numpy", "ruamel.yaml", "uvloop")
"""What `treadle.operate` imports besides the model's own library (a test reads sys.modules)."""
_NATIVE = frozenset({"sklearn", "xgboost", "lightgbm", "onnx", "pytorch"})
_BUILDERS = re.compile(r"mlflow([-_](skinny|tracing))?")
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
    if flavor not in _NATIVE and not any(_BUILDERS.fullmatch(name_of(one)) for one in kept):
        kept.append("mlflow-skinny>=3.7,<4")
    named = {name_of(one) for one in kept}
    kept += [name for name in SERVER if name not in named]
    return Needs(tuple(sorted(kept)), tuple(notes))


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
        name = one.metadata["Name"]
        if name and name_of(name) != "treadle":
            found[name_of(name)] = one.version.partition("+")[0]
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
    if path.suffix == ".toml":
        import tomllib

        told = tomllib.loads(path.read_text(encoding="utf-8"))
        return [f"{one['name']}=={one['version']}" for one in told.get("packages", [])
                if one.get("version")]  # fmt: skip
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
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
