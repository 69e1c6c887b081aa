"""Reading what a package index points to, with the credentials that uv has for it.

uv names the address of a wheel without a password. The password is found again where uv found it:
in the addresses of `UV_DEFAULT_INDEX`, `UV_INDEX`, `UV_INDEX_URL`, `UV_EXTRA_INDEX_URL` and
`UV_FIND_LINKS`, in `UV_INDEX_NAME_USERNAME` and `UV_INDEX_NAME_PASSWORD`, in uv's configuration
(`uv.toml`, `[tool.uv]`), and in netrc. It goes to the server that it belongs to and to no other one,
not even by a redirect. What a keyring holds is not asked.
"""

from __future__ import annotations

import base64
import http.client
import netrc
import os
import re
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from treadle.base.errors import Unreachable

_TRIES = 4
_CHUNK = 1 << 20
T = TypeVar("T")
_LISTS = (
    "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
)  # fmt: skip
_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)")


class _Cut(Exception):
    """A download ended early or could not begin; the cause says why."""


def pieces(address: str) -> Iterator[bytes]:
    """The bytes at an address. _Cut: they did not come, or not all of them."""
    try:
        with opened(address) as answer:
            told = answer.headers.get("Content-Length")
            size = 0
            while piece := answer.read(_CHUNK):
                size += len(piece)
                yield piece
    except (OSError, http.client.HTTPException) as error:  # URLError and TLS errors are OSErrors
        raise _Cut from error
    if told is not None and told.isdigit() and size < int(told):
        # http.client takes the early end of a body that is read in pieces for its end.
        raise _Cut from ConnectionError(f"the connection was cut after {size} of {told} bytes")


def again(filename: str, read: Callable[[], T]) -> T:
    """Tries several times what the network may spoil. Unreachable: it stays so."""
    for attempt in range(_TRIES):
        try:
            return read()
        except _Cut as cut:
            error = cut.__cause__
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            if code in (401, 403):
                raise Unreachable(
                    f"{filename} cannot be fetched: the server answers {code}",
                    hint="name and password are taken from netrc, from the index's address in "
                    "UV_DEFAULT_INDEX or UV_INDEX, and from UV_INDEX_NAME_USERNAME and _PASSWORD",
                ) from None
            absent = isinstance(getattr(error, "reason", None), FileNotFoundError)
            if absent or code in (404, 410) or attempt == _TRIES - 1:
                raise Unreachable(
                    f"{filename} cannot be fetched: {_said(error)}",
                    hint="is the package index reachable from here? then `treadle build` again",
                ) from None
            time.sleep(0.5 * 2**attempt)
    raise AssertionError


def _said(error: BaseException | None) -> str:
    """Without the address: it may hold a password."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


def opened(address: str, timeout_s: float = 60) -> Any:
    """The answer of a server, or an open file; to be closed by the reader. As urlopen raises."""
    request = urllib.request.Request(bare(address))  # noqa: S310 - as the index says
    _sign(request, address)
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)


def bare(address: str) -> str:
    """An address without the name and password in it, and without its fragment."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))  # fmt: skip


def credentials(
    address: str, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[str, str] | None:
    """Name and password for the server of an address, or None: then as a stranger.

    Args:
        address: what is to be opened.
        environ: the environment, if not this process's.
        folder: from which uv's configuration is looked for upwards; the current one by default.
    """
    environ = os.environ if environ is None else environ
    wanted = _server(address)
    for name, index in ((None, address), *_indexes(environ, folder or Path.cwd())):
        if _server(index) != wanted:
            continue
        parts = urllib.parse.urlsplit(index)
        user, password = parts.username, parts.password
        if name is not None:
            key = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
            user = environ.get(f"UV_INDEX_{key}_USERNAME") or user
            password = environ.get(f"UV_INDEX_{key}_PASSWORD") or password
        if user or password:
            return urllib.parse.unquote(user or ""), urllib.parse.unquote(password or "")
    return _from_netrc(urllib.parse.urlsplit(address).hostname or "", environ)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows as usual; who we are is told to the new server only if it is known there."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # fmt: skip
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            _sign(request, newurl)
        return request


def _sign(request: urllib.request.Request, address: str) -> None:
    if not address.startswith(("http:", "https:")):
        return
    found = credentials(address)
    if found is not None:
        told = base64.b64encode(":".join(found).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {told}")


def _server(address: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, parts.hostname or "", port or {"https": 443, "http": 80}.get(parts.scheme)


def _indexes(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str | None, str]]:
    """(name or None, address) of every index that uv would ask."""
    for variable in _LISTS:
        for one in re.split(r"[\s,]+", environ.get(variable, "").strip()):
            named = _NAMED.fullmatch(one)
            if named and "://" not in named[1]:
                yield named[1], named[2]
            elif one:
                yield None, one
    for told in _configurations(environ, folder):
        for entry in told.get("index") or []:
            if isinstance(entry, dict) and isinstance(entry.get("url"), str):
                yield entry.get("name"), entry["url"]
        for key in ("index-url", "extra-index-url", "find-links"):
            value = told.get(key) or []
            for one in [value] if isinstance(value, str) else value:
                if isinstance(one, str):
                    yield None, one


def _configurations(environ: Mapping[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """The configuration of uv: of the project, then of the user. What is no TOML uv complains of."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", ""), ".config")
    places = [Path(environ["UV_CONFIG_FILE"])] if environ.get("UV_CONFIG_FILE") else []
    for above in (folder, *folder.parents):
        places += [above / "uv.toml", above / "pyproject.toml"]
    for place in (*places, Path(home) / "uv" / "uv.toml", Path("/etc/uv/uv.toml")):
        try:
            told = tomllib.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if place.name == "pyproject.toml":
            told = told.get("tool", {}).get("uv", {})
        yield told


def _from_netrc(host: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    place = environ.get("NETRC") or os.path.join(environ.get("HOME", ""), ".netrc")
    try:
        found = netrc.netrc(place).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return None if found is None else (found[0] or "", found[2] or "")
