"""Kubernetes YAML of people, held to the published schemas."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from treadle.base.errors import UsageError
from treadle.clients import kube_schemas
from treadle.plan.lint import Finding, Schemas, lint


def look(paths: Sequence[Path], version: str | None) -> list[Finding]:
    """Everything wrong in the files; folders are searched for `*.yaml` and `*.yml`."""
    wanted = version or kube_schemas.VERSION
    if not kube_schemas.available(wanted):
        raise UsageError(
            f"there are no schemas of Kubernetes {wanted}",
            hint=f"there are {', '.join(kube_schemas.versions())}",
        )
    texts: dict[str, str] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml"))
            if not found:
                raise UsageError(f"{path} holds no YAML file")
        else:
            found = [path]
        for one in found:
            try:
                texts[str(one)] = one.read_text(encoding="utf-8-sig")
            except OSError as error:
                raise UsageError(f"{one} cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise UsageError(f"{one} is not UTF-8", hint="save it as UTF-8") from None
    schemas = Schemas(
        functools.partial(kube_schemas.problems, version=wanted),
        functools.partial(kube_schemas.api_versions, version=wanted),
        functools.partial(kube_schemas.kinds, wanted),
    )
    return lint(texts, schemas)
