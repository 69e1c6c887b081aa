"""Logins by a program that the kubeconfig names (`exec:`): a token, a client certificate, or both.

What the program gives is kept in memory, for all connections of this process, until it runs out or
the API server does not accept it; then the program is asked again.

Source: Kubernetes documentation, "client-go credential plugins", and the reference of
client.authentication.k8s.io v1 and v1beta1.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from treadle.base.errors import Refused, UsageError
from treadle.clients.kubeconfig import Context

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_CLUSTER = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url", "disable-compression")  # fmt: skip
_CONFIG = "client.authentication.k8s.io/exec"
_TIMEOUT_S = 60.0
_EARLY_S = 5.0
"""So long before its end a credential is not used any more: a request takes a while, too."""
_known: dict[str, Credential] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Credential:
    """What one call of the program gave."""

    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    ends: datetime | None = None

    def __repr__(self) -> str:
        return f"Credential(ends={self.ends})"  # the rest is secret

    def holds(self) -> bool:
        """Whether it may still be used."""
        if self.ends is None:
            return True
        # An API server's clock is the real one, whatever is replayed here.
        return self.ends.timestamp() - time.time() > _EARLY_S

    def load(self, context: ssl.SSLContext) -> None:
        """Show the client certificate, if there is one, on connections to come."""
        if self.certificate is None:
            return
        # OpenSSL reads files only; this one is ours alone and gone at once.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{self.certificate}\n{self.key}\n")
            file.flush()
            context.load_cert_chain(file.name)


class Login:
    """The program of one context's user."""

    def __init__(self, context: Context) -> None:
        """UsageError where `exec:` says what is not supported."""
        self._context, self._exec = context, dict(context.user["exec"])
        self.command = str(self._exec.get("command") or "")
        self.version = str(self._exec.get("apiVersion", ""))
        if self.version not in VERSIONS:
            raise self._wrong(
                f"apiVersion is {self.version or 'missing'}; supported: {', '.join(VERSIONS)}"
            )
        if not self.command:
            raise self._wrong("no command is named")
        default = None if self.version == VERSIONS[0] else "IfAvailable"
        self.mode = self._exec.get("interactiveMode", default)
        if self.mode not in ("Never", "IfAvailable", "Always"):
            raise self._wrong(
                f"interactiveMode is {self.mode or 'missing'}, not Never, IfAvailable or Always"
            )
        self._key = json.dumps([self._exec, context.cluster], sort_keys=True, default=str)

    def credential(self, *, refused: Credential | None = None) -> Credential:
        """What to log in with; the program is asked where nothing is known that holds. `refused`
        was not accepted and is not given again."""
        with _lock:
            known = _known.get(self._key)
            if known is None or not known.holds() or known == refused:
                _known.pop(self._key, None)
                known = _known[self._key] = self._ask()
            return known

    # ---- the program ----

    def _ask(self) -> Credential:
        interactive = self.mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if self.mode == "Always" and not interactive:
            raise self._wrong("it asks a person, and there is no terminal here")
        found = shutil.which(self.command)
        if found is None:
            hint = self._exec.get("installHint") or f"install {self.command}, or have it on PATH"
            raise UsageError(f"{self._what()} is not there", hint=str(hint).strip())
        environ = dict(os.environ)
        environ |= {str(one["name"]): str(one["value"]) for one in self._exec.get("env") or []}
        environ["KUBERNETES_EXEC_INFO"] = json.dumps(self._told(interactive))
        command = [found, *(str(one) for one in self._exec.get("args") or [])]
        try:
            done = subprocess.run(
                command, env=environ, check=False, stdout=subprocess.PIPE, text=True,
                stdin=None if interactive else subprocess.DEVNULL,
                stderr=None if interactive else subprocess.PIPE,
                timeout=None if interactive else _TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Refused(
                f"{self._what()} gave nothing for {_TIMEOUT_S:g} s", hint="run it by hand"
            ) from None
        except OSError as error:
            raise UsageError(f"{self._what()} cannot be run: {error}") from None
        if done.returncode != 0:
            said = (done.stderr or "").strip()[-500:]
            raise Refused(
                f"{self._what()} ended with exit code {done.returncode}" + (f": {said}" if said else ""),
                hint="log in with it again, as for kubectl",
            )  # fmt: skip
        return self._read(done.stdout)

    def _told(self, interactive: bool) -> dict[str, Any]:
        """What the program is told: whether it may ask a person, and with which cluster it is about."""
        spec: dict[str, Any] = {"interactive": interactive}
        if self._exec.get("provideClusterInfo"):
            cluster = self._context.cluster
            told = {name: cluster[name] for name in _CLUSTER if cluster.get(name)}
            path = cluster.get("certificate-authority")
            if path and "certificate-authority-data" not in told:
                with open(path, "rb") as file:
                    told["certificate-authority-data"] = base64.b64encode(file.read()).decode()
            config = self._context.extension(_CONFIG)
            spec["cluster"] = told | ({"config": config} if config is not None else {})
        return {"apiVersion": self.version, "kind": "ExecCredential", "spec": spec}

    def _read(self, text: str) -> Credential:
        try:
            told = json.loads(text)
        except ValueError:
            raise self._unlike("no JSON") from None
        if not isinstance(told, Mapping) or told.get("kind") != "ExecCredential":
            raise self._unlike("no ExecCredential")
        if told.get("apiVersion") != self.version:
            raise self._unlike(f"apiVersion {told.get('apiVersion')}, not {self.version}")
        status = told.get("status")
        if not isinstance(status, Mapping):
            raise self._unlike("no status")
        token = status.get("token") or None
        certificate = status.get("clientCertificateData") or None
        key = status.get("clientKeyData") or None
        if (certificate is None) != (key is None):
            raise self._unlike("a client certificate without its key, or the reverse")
        if token is None and certificate is None:
            raise self._unlike("neither a token nor a client certificate")
        ends = status.get("expirationTimestamp")
        try:
            until = None if not ends else datetime.fromisoformat(str(ends))
        except ValueError:
            raise self._unlike(f"expirationTimestamp {ends}") from None
        if until is not None and until.tzinfo is None:
            raise self._unlike(f"expirationTimestamp {ends}, without a time zone")
        return Credential(token, certificate, key, until)

    def _what(self) -> str:
        return f"the login program {self.command} of the context {self._context.name}"

    def _wrong(self, words: str) -> UsageError:
        return UsageError(
            f"{self._what()} cannot be used: {words}", hint="users: in the kubeconfig"
        )

    def _unlike(self, words: str) -> Refused:
        return Refused(f"{self._what()} gave {words}", hint=f"it should print a {self.version} ExecCredential")  # fmt: skip
