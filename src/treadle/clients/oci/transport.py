"""HTTP to registries: pooled connections, tokens by scope, retries, redirects without credentials.

`http.client` of the standard library, because bodies of gigabytes are streamed both ways and each
answer's status decides what is sent next. Plain HTTP only for loopback and for the registries that
`TREADLE_INSECURE_REGISTRIES` lists. A token that expires in the middle is renewed; a request that
was refused for it is sent again.

Source: distribution specification 1.1; the token and OAuth2 documents of distribution.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, BinaryIO

from treadle import __version__
from treadle.base.errors import Refused, TreadleError, Unreachable, UsageError
from treadle.base.log import Report, silent
from treadle.clients.oci.credentials import Credentials, credentials
from treadle.clients.oci.reference import HUB, Reference

Body = bytes | Callable[[], BinaryIO]
_HUB_HOST = "registry-1.docker.io"
_TIMEOUT_S = 60.0
_TRIES = 5
_BACKOFF_S = 0.3
_LONGEST_WAIT_S = 60.0
_BLOCK = 1 << 20
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_RENEWALS = 6


@dataclass
class Answer:
    """A response whose body is still to be read; `close` gives the connection back."""

    status: int
    headers: Message
    host: str
    """Who answered, for messages."""
    _response: http.client.HTTPResponse = field(repr=False)
    _give_back: Callable[[bool], None] = field(repr=False)

    def read(self, most: int = 4 << 20) -> bytes:
        """The whole body, bounded; then the connection is free. Unreachable if it breaks off."""
        data = self.piece(most)
        self.close()
        return data

    def piece(self, size: int) -> bytes:
        """The next bytes of the body; none at its end. Unreachable if it breaks off before."""
        try:
            data = self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(_reason(error)) from None
        # http.client takes a connection that ends early for the end of the body.
        if size and len(data) < size and self._response.length:
            raise self._broken(f"{self._response.length} bytes are lacking")
        return data

    def _broken(self, why: str) -> Unreachable:
        self._give_back(False)
        return Unreachable(
            f"{self.host} broke off in the middle of an answer: {why}", hint="try again"
        )

    def close(self) -> None:
        """Keep the connection if the body was read to its end, else drop it."""
        self._give_back(self._response.isclosed() or self._response.length == 0)


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a token's realm may not send a password elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect is an error."""


_STRAIGHT = urllib.request.build_opener(_Straight)


class Transport:
    """Requests to one registry, from several threads."""

    def __init__(
        self,
        reference: Reference,
        *,
        environ: Mapping[str, str] | None = None,
        report: Report = silent,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self._environ = os.environ if environ is None else environ
        self._report, self._sleep = report, sleep
        self.host = _HUB_HOST if reference.registry == HUB else reference.registry
        listed = self._environ.get("TREADLE_INSECURE_REGISTRIES", "")
        self._insecure = {name.strip() for name in listed.split(",") if name.strip()}
        plain = reference.loopback or reference.registry in self._insecure
        self.base = f"{'http' if plain else 'https'}://{self.host}"
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._tokens: dict[str, str] = {}
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._lock = threading.Lock()
        self._known: Credentials | None = None
        self._asked = False

    # ---- requests ----

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size: int | None = None,
        retry: bool = True,
    ) -> Answer:
        """One request, with renewed tokens, retries and redirects; the answer of any status.

        Raises Unreachable when the registry cannot be reached (any more), Refused when it does not
        let us in. With `retry` false a broken connection is raised as ConnectionError at once:
        the caller knows how to go on.
        """
        url = urllib.parse.urljoin(self.base + "/", url)
        renewed, attempt, redirects = 0, 0, 0
        while True:
            url = self._safe(url)
            mine = _origin(url) == self.base
            # Only the registry itself may see who we are: a redirect leads to somebody's storage.
            shown = self._authorization(scope) if mine else None
            try:
                answer = self._once(method, url, shown, headers or {}, body, size)
            except ssl.SSLCertVerificationError as error:
                raise Unreachable(
                    f"the certificate of {_host(url)} is not trusted: {error.verify_message}",
                    hint="SSL_CERT_FILE names more authorities; a registry without TLS is listed "
                    "in TREADLE_INSECURE_REGISTRIES",
                ) from None
            except (OSError, http.client.HTTPException) as error:
                attempt += 1
                if not retry:
                    raise ConnectionError(str(error)) from error
                if attempt >= _TRIES or isinstance(error, socket.gaierror | ConnectionRefusedError):
                    raise self._away(url, error) from None
                self.wait(attempt, None, f"{_host(url)} broke the connection")
                continue
            if answer.status == 401:
                told = answer.headers.get_all("WWW-Authenticate") or []
                answer.read()
                renewed += 1
                # Several times: other threads may use a short-lived token up meanwhile.
                if mine and renewed <= _RENEWALS and self._login(told, scope, shown):
                    continue
                raise self._denied(scope)
            if answer.status in _AGAIN and attempt + 1 < _TRIES and (retry or answer.status == 429):
                attempt += 1
                wait = answer.headers.get("Retry-After")
                answer.read()
                self.wait(attempt, wait, f"{_host(url)} answers {answer.status}")
                continue
            if answer.status in _REDIRECTS and method in ("GET", "HEAD"):
                redirects += 1
                location = answer.headers.get("Location")
                answer.read()
                if location is None or redirects > _MOST_REDIRECTS:
                    raise TreadleError(f"{_host(url)} redirects {redirects} times without an end")
                url = urllib.parse.urljoin(url, location)
                continue
            return answer

    def _once(
        self,
        method: str,
        url: str,
        authorization: str | None,
        headers: Mapping[str, str],
        body: Body | None,
        size: int | None,
    ) -> Answer:
        parts = urllib.parse.urlsplit(url)
        sent = {"User-Agent": f"treadle/{__version__}", "Accept": "*/*", **headers}
        if authorization is not None:
            sent["Authorization"] = authorization
        origin = _origin(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fresh = False
        while True:
            connection, fresh = self._connection(origin)
            try:
                return self._exchange(connection, origin, method, path, sent, body, size)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()
                if fresh:
                    raise
                # An idle connection that the other side had closed meanwhile: not its refusal.
            except BaseException:
                connection.close()
                raise

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        origin: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Body | None,
        size: int | None,
    ) -> Answer:
        stream: BinaryIO | None = None
        sent = dict(headers)
        data: Any = body
        if body is not None and not isinstance(body, bytes):
            try:
                stream = body()
            except OSError as error:
                raise _unreadable(error) from error
            data = _Local(stream)
            sent["Content-Length"] = str(size)
        elif body is None and method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = "0"
        try:
            try:
                connection.request(method, path, body=data, headers=sent)
            except (BrokenPipeError, ConnectionResetError):
                # The registry answered before it had read all (401, 413 …): hear what it said.
                if connection.sock is None or body is None:
                    raise
                response = _early(connection)
            else:
                response = connection.getresponse()
        finally:
            if stream is not None:
                stream.close()

        def give_back(whole: bool) -> None:
            if whole and not response.will_close:
                with self._lock:
                    self._idle.setdefault(origin, []).append(connection)
            else:
                connection.close()

        if method == "HEAD":
            response.read()
        return Answer(response.status, response.headers, _host(origin), response, give_back)

    def _connection(self, origin: str) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop(), False
        parts = urllib.parse.urlsplit(origin)
        host, port = parts.hostname or "", parts.port
        proxy = None
        if not urllib.request.proxy_bypass(host) and not Reference(parts.netloc, "x").loopback:
            proxy = urllib.request.getproxies().get(parts.scheme)
        if parts.scheme == "http":
            made = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S, blocksize=_BLOCK)
        elif proxy:
            via = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            made = http.client.HTTPSConnection(
                via.hostname or "", via.port, timeout=_TIMEOUT_S, blocksize=_BLOCK
            )
            more = {}
            if via.username:
                pair = f"{via.username}:{via.password or ''}"
                more["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            made.set_tunnel(host, port or 443, more)
        else:
            made = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, blocksize=_BLOCK)
        made.connect()
        if made.sock is not None:
            made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made, True

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for idle in self._idle.values():
                for connection in idle:
                    connection.close()
            self._idle.clear()

    # ---- who we are ----

    def _authorization(self, scope: str) -> str | None:
        with self._lock:
            token = self._tokens.get(scope)
            challenge = self._challenge
        if token is None and challenge is not None and challenge[0] == "basic":
            return self._basic()
        return token

    def _credentials(self) -> Credentials | None:
        if not self._asked:
            found = credentials(self.reference.registry, self.reference.repository, self._environ)
            self._known, self._asked = found, True
        return self._known

    def _basic(self) -> str | None:
        known = self._credentials()
        if known is None or not known.user:
            return None
        pair = f"{known.user}:{known.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    def _login(self, challenges: list[str], scope: str, shown: str | None) -> bool:
        """Do what a 401 asks for that came although `shown` was sent; False if it cannot be done."""
        known = dict(filter(None, map(_challenge, challenges)))
        if "bearer" in known:
            with self._lock:
                self._challenge = ("bearer", known["bearer"])
            token = self._token(known["bearer"], scope)
            with self._lock:
                self._tokens[scope] = f"Bearer {token}"
            return True
        if "basic" in known:
            with self._lock:
                self._challenge = ("basic", known["basic"])
            # What this very request showed counts: another thread may have learnt it meanwhile.
            return self._basic() not in (None, shown)
        return False

    def _token(self, challenge: Mapping[str, str], scope: str) -> str:
        """A token for a scope from the realm that the registry names."""
        realm = challenge.get("realm", "")
        parts = urllib.parse.urlsplit(realm)
        trusted = parts.scheme == "https" or Reference(parts.netloc, "x").loopback
        if not parts.netloc or (not trusted and self.base.startswith("https")):
            raise UsageError(f"{self.host} sends us for a token to {realm!r}, which is not safe")
        known = self._credentials()
        asked = {"service": challenge.get("service", ""), "scope": scope}
        headers = {"User-Agent": f"treadle/{__version__}"}
        if known is not None and known.identity_token:
            form = {**asked, "grant_type": "refresh_token", "refresh_token": known.identity_token,
                    "client_id": "treadle"}  # fmt: skip
            request = urllib.request.Request(  # noqa: S310 - http(s) alone, checked above
                realm, data=urllib.parse.urlencode(form).encode(), headers=headers
            )
        else:
            query = [(name, value) for name, value in asked.items() if name != "scope" and value]
            query += [("scope", one) for one in scope.split(" ") if one]
            address = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(query)
            if known is not None and known.user:
                headers["Authorization"] = self._basic() or ""
            request = urllib.request.Request(address, headers=headers)  # noqa: S310
        for attempt in range(1, _TRIES + 1):
            try:
                with _STRAIGHT.open(request, timeout=_TIMEOUT_S) as answer:
                    told = json.loads(answer.read(1 << 20))
                return str(told.get("token") or told["access_token"])
            except urllib.error.HTTPError as error:
                if error.code in (401, 403):
                    raise self._denied(scope) from None
                if error.code not in _AGAIN or attempt == _TRIES:
                    raise Unreachable(
                        f"{parts.netloc} gives no token: it answers {error.code}"
                    ) from None
                self.wait(attempt, error.headers.get("Retry-After"), f"{parts.netloc} is busy")
            except (OSError, ValueError, KeyError) as error:
                if attempt == _TRIES or isinstance(error, ValueError | KeyError):
                    raise Unreachable(f"{parts.netloc} gives no token: {_reason(error)}") from None
                self.wait(attempt, None, f"{parts.netloc} is away")
        raise AssertionError

    # ---- what goes wrong ----

    def _safe(self, url: str) -> str:
        """Where a request may go: not to plain HTTP, because the registry says so.

        A registry behind a proxy that ends TLS often names itself with http://: https:// is meant.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https" or _origin(url) == self.base:
            return url
        if parts.scheme == "http" and parts.netloc == self.host:
            return urllib.parse.urlunsplit(parts._replace(scheme="https"))
        if parts.scheme == "http" and (
            parts.netloc in self._insecure or Reference(parts.netloc, "x").loopback
        ):
            return url
        raise Refused(
            f"{self.host} sends us on to {_origin(url)}, which is not encrypted",
            hint="a host without TLS must be listed in TREADLE_INSECURE_REGISTRIES",
        )

    def wait(self, attempt: int, told: str | None, why: str) -> None:
        """Wait before the next attempt (1 is the first that failed), as long as Retry-After says."""
        seconds = _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.7, 1.3)  # noqa: S311
        if told is not None:
            asked = _retry_after_s(told)
            seconds = seconds if asked is None else asked
        seconds = min(seconds, _LONGEST_WAIT_S)
        self._report(f"{why}; trying again in {seconds:.1f} s", detail=seconds < 5)
        self._sleep(seconds)

    def _denied(self, scope: str) -> Refused:
        known = self._credentials()
        what = scope.replace("repository:", "").replace(":", " (", 1) + ")" if scope else "it"
        if known is None:
            return Refused(
                f"{self.reference.registry} wants a login for {what}, and none is stored",
                hint=f"docker login {self.reference.registry}",
            )
        return Refused(
            f"{self.reference.registry} does not accept the login from {known.source} for {what}",
            hint=f"docker login {self.reference.registry}, as somebody who may",
        )

    def _away(self, url: str, error: Exception) -> Unreachable:
        return Unreachable(
            f"the registry {_host(url)} cannot be reached: {_reason(error)}",
            hint="is its name right, and does it run? A registry without TLS that is not on this "
            "machine must be listed in TREADLE_INSECURE_REGISTRIES",
        )


def _early(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """What a server said while we were still sending."""
    response = http.client.HTTPResponse(connection.sock, method="POST")
    response.begin()
    response.will_close = True
    return response


def _challenge(header: str) -> tuple[str, dict[str, str]] | None:
    """`Bearer realm="…",service="…"` as (`bearer`, parameters). RFC 9110, section 11."""
    kind, _, rest = header.strip().partition(" ")
    found = {
        name.lower(): (quoted if quoted is not None else bare)
        for name, quoted, bare in (
            (m[1], m[2], m[3] or "")
            for m in re.finditer(r'([A-Za-z]+)=(?:"([^"]*)"|([^\s,]+))', rest)
        )
    }
    return (kind.lower(), found) if kind.lower() in ("bearer", "basic") else None


class _Local:
    """Content on its way to a registry: what goes wrong in reading it is not the connection's."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def read(self, size: int = -1) -> bytes:
        """As of the source. TreadleError when it cannot be read; ConnectionError when it is another
        registry's answer that broke off: opened again, it may go on."""
        try:
            return self._source.read(size)
        except Unreachable as error:
            raise ConnectionError(error.message) from error
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: OSError) -> TreadleError:
    return TreadleError(f"what is to be sent cannot be read: {error}")


def _retry_after_s(told: str) -> float | None:
    """Seconds of a Retry-After: a number or a date. RFC 9110, section 10.2.3."""
    if re.fullmatch(r"\d+(\.\d+)?", told.strip()):
        return float(told)
    try:
        until = email.utils.parsedate_to_datetime(told)
    except ValueError:
        return None
    return max(until.timestamp() - time.time(), 0.0)


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__


def said(data: bytes) -> str:
    """The registry's own words for an error, bounded; empty if it has none."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        errors = json.loads(data)["errors"]
        return "; ".join(f"{one.get('code')}: {one.get('message')}" for one in errors[:3])[:300]
    return ""
