"""Who we are to a registry: what `docker login` and `podman login` left behind.

The files in the order in which they are asked, the first that knows the registry wins:
`$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `$DOCKER_CONFIG/config.json`,
`~/.docker/config.json`. In a file: `credHelpers` of the registry, `credsStore`, then `auths`.
Nothing found here is ever logged.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.errors import UsageError
from treadle.clients.oci.reference import HUB

_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_S = 30.0


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or an identity token to be exchanged for access tokens."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""
    """The file or helper, for messages."""


def credentials(
    registry: str, repository: str = "", environ: Mapping[str, str] | None = None
) -> Credentials | None:
    """What is known for a registry (and the nearest path in it), or None: then as a stranger."""
    environ = os.environ if environ is None else environ
    for path in _files(environ):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            continue
        except ValueError:
            raise UsageError(f"{path} is no JSON", hint="repair it, or log in again") from None
        found = _in(document, registry, repository, path)
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("REGISTRY_AUTH_FILE"):
        yield Path(environ["REGISTRY_AUTH_FILE"])
    if environ.get("XDG_RUNTIME_DIR"):
        yield Path(environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json"
    if environ.get("DOCKER_CONFIG"):
        yield Path(environ["DOCKER_CONFIG"]) / "config.json"
    home = environ.get("HOME")
    if home:
        yield Path(home) / ".docker" / "config.json"


def _in(document: Any, registry: str, repository: str, path: Path) -> Credentials | None:
    if not isinstance(document, dict):
        return None
    keys = _keys(registry, repository)
    helpers = document.get("credHelpers") or {}
    for key in keys:
        if key in helpers:
            return _helped(str(helpers[key]), key)
    auths = {_bare(key): (key, value) for key, value in (document.get("auths") or {}).items()}
    store = document.get("credsStore")
    for key in keys:
        if key not in auths:
            continue
        whole, value = auths[key]
        told = _written(value or {}, path)
        if told is not None:
            return told
        if store:
            return _helped(str(store), whole)
    if store:
        whole = _HUB_KEYS[0] if registry == HUB else registry
        return _helped(str(store), whole)
    return None


def _keys(registry: str, repository: str) -> list[str]:
    """The most exact first: a login may be for a path of a registry."""
    steps = repository.split("/") if repository else []
    paths = ["/".join([registry, *steps[:depth]]) for depth in range(len(steps), 0, -1)]
    hub = [_bare(key) for key in _HUB_KEYS] if registry == HUB else []
    return [*paths, registry, *hub]


def _bare(key: str) -> str:
    """`https://host/v1/` and `host` are the same entry."""
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return key.removesuffix("/v1").removesuffix("/v2")


def _written(value: Mapping[str, Any], path: Path) -> Credentials | None:
    if value.get("identitytoken"):
        return Credentials(identity_token=str(value["identitytoken"]), source=str(path))
    if value.get("auth"):
        try:
            text = base64.b64decode(str(value["auth"]), validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise UsageError(f"an `auth` in {path} is no base64", hint="log in again") from None
        user, colon, password = text.partition(":")
        if colon:
            return Credentials(user, password.rstrip("\0"), source=str(path))
    if value.get("username") and value.get("password"):
        return Credentials(str(value["username"]), str(value["password"]), source=str(path))
    return None


def _helped(helper: str, server: str) -> Credentials | None:
    """Ask `docker-credential-HELPER get`."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=_HELPER_S,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError(
            f"the Docker configuration asks {program} for the login of {server}, and it is not "
            "installed",
            hint=f"install {program}, or remove it from credsStore/credHelpers and log in again",
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{program} has not answered within {_HELPER_S:g} s") from None
    if done.returncode != 0:
        return None  # it does not know this server
    try:
        told = json.loads(done.stdout)
        user, secret = str(told["Username"]), str(told["Secret"])
    except (ValueError, KeyError):
        raise UsageError(f"{program} answered something that is no credentials") from None
    if user == "<token>":
        return Credentials(identity_token=secret, source=program)
    return Credentials(user, secret, source=program)
