"""Reading treadle.yaml: text → sections, or every mistake at once; and what editors need of it.

An unchanged file is taken from the journal by its digest: then neither pydantic nor ruamel.yaml
is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from treadle import __version__
from treadle.base import environment
from treadle.base.digest import digest, digest_bytes
from treadle.base.errors import SpecError, UsageError
from treadle.base.plain import from_plain, to_plain
from treadle.base.spec import Spec

CACHE_KIND = "spec_cache"
_FORMAT = 1
_KEY = "_cache_key"
_ORDERED = ("data", "steps", "deploy")


class Cache(Protocol):
    """What of a journal the spec's cache reads."""

    def get(self, kind: str, key: str) -> Any | None:
        """The plain value under `key`, or None."""


@dataclass(frozen=True)
class Origin:
    """One resolved value of the spec and where it comes from."""

    key: str
    """Dotted: `monitor.false_alarms.at_most`."""
    value: Any
    where: str
    """`treadle.yaml:12` or `default`."""
    why: str
    """What the word means."""


def load(path: Path, cache: Cache | None = None) -> Spec:
    """The sections of the file at `path`.

    With a cache (a journal) the parsed spec is taken from it when the file's bytes are known; this
    function writes nothing: see `remember`. Raises SpecError with every mistake, rendered.
    """
    data = _read(path)
    key = _key(data)
    spec = _recall(cache.get(CACHE_KIND, key)) if cache is not None else None
    if spec is None:
        spec = _parse(data, path.name)[0]
    # `remember` must not file this spec under bytes that somebody saved in the meantime.
    object.__setattr__(spec, _KEY, key)
    return spec


def remember(path: Path, spec: Spec) -> tuple[str, str, Any]:
    """(kind, key, value) for `Changes.puts`: with it, `load` of the same bytes parses nothing.

    Call it with what `load` gave for this file, in a command that writes.
    """
    plain = to_plain(spec)
    # A journal may sort keys; the first environment is the default one, so the order is kept apart.
    order = {name: list(plain[name]) for name in _ORDERED}
    key = getattr(spec, _KEY, None) or _key(_read(path))
    return CACHE_KIND, key, {"spec": plain, "order": order}


def expand(text: str, environ: Mapping[str, str], where: str = "") -> str:
    """`text` with each `${NAME}` replaced by the environment's value.

    UsageError names the variable that is not set, after `where` (`data.flights.database`).
    """
    try:
        return environment.expand(text, environ)
    except UsageError as error:
        place = f"{where}: " if where else ""
        raise UsageError(f"{place}{error.message}", hint=error.hint) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of treadle.yaml for editors: every key with its meaning, no other allowed."""
    from treadle.plan.schema import json_schema as made

    return made()


def origins(path: Path) -> list[Origin]:
    """Every resolved value with the line it stands in, or `default`; SpecError as in `load`."""
    from treadle.plan.schema import origins as found

    spec, tree, text = _parse(_read(path), path.name)
    return [Origin(*item) for item in found(spec, tree, path.name, text)]


def _parse(data: bytes, name: str) -> tuple[Spec, Any, str]:
    from treadle.plan.check import check
    from treadle.plan.mistakes import refuse
    from treadle.plan.tree import decode, read_tree

    text, mistakes = decode(data)
    if mistakes:
        raise refuse(mistakes, text, name)
    tree, mistakes = read_tree(text)
    if tree is None:
        raise refuse(mistakes, text, name)
    spec, more = check(tree)
    # What YAML itself refused left a hole in the tree: that the hole is empty is no second mistake.
    told = {mistake.path for mistake in mistakes}
    more = [mistake for mistake in more if mistake.path not in told]
    if spec is None or mistakes:
        raise refuse([*mistakes, *more], text, name)
    return spec, tree, text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SpecError(
            f"there is no {path.name} in {path.parent.absolute()}",
            hint="`treadle init` writes one; or name the project's folder",
        ) from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}") from None


def _key(data: bytes) -> str:
    return digest([_FORMAT, __version__, digest_bytes(data)])


def _recall(value: Any) -> Spec | None:
    """The cached spec, or None where there is none or it is not of this make."""
    if value is None:
        return None
    try:
        plain = dict(value["spec"])
        for name in _ORDERED:
            plain[name] = {key: plain[name][key] for key in value["order"][name]}
        return from_plain(Spec, plain)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # only a cache: the file itself says it again
