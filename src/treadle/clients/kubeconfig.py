"""The kubeconfig: its files as one, and one context of it with all that is said about it.

lightkube's own reader takes one file and drops what it does not know (how a login program is to be
called, which tool made the cluster); so the files are read here, and it is given what was read.

Source: Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files": the files of
`KUBECONFIG` are merged, the first that names something wins, paths are relative to their own file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra, UsageError

_PATHS = {
    "clusters": ("cluster", ("certificate-authority",)),
    "contexts": ("context", ()),
    "users": ("user", ("client-certificate", "client-key", "tokenFile")),
}


@dataclass(frozen=True)
class Context:
    """One context, as it is written down."""

    name: str
    cluster: dict[str, Any]
    user: dict[str, Any]
    told: dict[str, Any] = field(default_factory=dict)
    """The context's own entry."""
    config: Any = None
    """lightkube's form of it."""

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.cluster.get("server", ""))

    def providers(self) -> set[str]:
        """Who wrote the entries: minikube leaves its name in an extension, whatever the profile."""
        return {
            str((one.get("extension") or {}).get("provider", ""))
            for entry in (self.cluster, self.told)
            for one in entry.get("extensions") or []
            if isinstance(one.get("extension"), Mapping)
        }

    def extension(self, name: str) -> Any:
        """What the cluster's entry keeps under a name; None if nothing."""
        for one in self.cluster.get("extensions") or []:
            if one.get("name") == name:
                return one.get("extension")
        return None


def read(name: str) -> Context:
    """The context of a name. UsageError: there is none, or what is written cannot be used."""
    told = _guarded(name, _told)
    entries = {kind: {str(one["name"]): one for one in told[kind]} for kind in _PATHS}
    found = entries["contexts"].get(name)
    if found is None:
        known = ", ".join(entries["contexts"]) or "none at all"
        raise UsageError(
            f"the kubeconfig has no context {name}; it has {known}",
            hint="kubectl config get-contexts names them; KUBECONFIG names the file",
        )
    own = found.get("context") or {}
    cluster = entries["clusters"].get(str(own.get("cluster")))
    user = entries["users"].get(str(own.get("user")))
    if cluster is None or (own.get("user") and user is None):
        what = "cluster" if cluster is None else "user"
        raise unusable(name, ValueError(f"its {what} {own.get(what)} is not in the kubeconfig"))

    def config() -> Any:
        from lightkube.config.kubeconfig import KubeConfig

        return KubeConfig.from_dict(told).get(context_name=name)

    return Context(
        name, cluster.get("cluster") or {}, (user or {}).get("user") or {}, own,
        _guarded(name, config),
    )  # fmt: skip


def current() -> str | None:
    """The current context's name; None where there is none (within a cluster, say)."""
    return _guarded("that is current", _told).get("current-context") or None


def unusable(context: str, error: Exception) -> UsageError:
    """A context that is there and of no use."""
    said = str(error) or type(error).__name__
    return UsageError(
        f"the context {context} cannot be used: {said}",
        hint="kubectl config get-contexts names them; KUBECONFIG names the file",
    )


def _guarded(context: str, call: Callable[[], Any]) -> Any:
    """What `call` gives; whatever a file of people can make it raise is one kind of error."""
    try:
        import msgspec
        from lightkube.core.exceptions import ConfigError
        from yaml import YAMLError
    except ImportError:
        raise MissingExtra("lightkube", "kubernetes", "a Kubernetes environment") from None
    wrong = (ConfigError, OSError, YAMLError, KeyError, TypeError, AttributeError, ValueError)
    try:
        return call()
    except (*wrong, msgspec.ValidationError) as error:
        raise unusable(context, error) from None


def _told() -> dict[str, Any]:
    """All files as one; within a cluster, where there is no file, the pod's own account."""
    named = os.environ.get("KUBECONFIG")
    paths = [Path(one) for one in named.split(os.pathsep) if one] if named else []
    there = [path for path in paths or [Path.home() / ".kube" / "config"] if path.is_file()]
    if not there:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return _account()
        where = named or "~/.kube/config"
        raise FileNotFoundError(f"there is no kubeconfig ({where})")
    merged: dict[str, Any] = {"current-context": None, "clusters": [], "contexts": [], "users": []}
    for path in there:
        _merge(merged, _file(path))
    return merged


def _file(path: Path) -> dict[str, Any]:
    """One file, with the paths in it made absolute."""
    import yaml

    told = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(told, dict):
        raise TypeError(f"{path} is no kubeconfig")
    for kind, (inner, words) in _PATHS.items():
        for one in told.get(kind) or []:
            entry = one.get(inner) or {}
            for word in words:
                if entry.get(word):
                    entry[word] = str(path.absolute().parent / entry[word])
            login = entry.get("exec") if inner == "user" else None
            if login and os.sep in str(login.get("command", "")):
                login["command"] = str(path.absolute().parent / login["command"])
    return told


def _merge(merged: dict[str, Any], told: Mapping[str, Any]) -> None:
    merged["current-context"] = merged["current-context"] or told.get("current-context")
    for kind in _PATHS:
        known = {one["name"] for one in merged[kind]}
        merged[kind] += [one for one in told.get(kind) or [] if one["name"] not in known]


def _account() -> dict[str, Any]:
    """A pod's service account, as the context `default`."""
    folder = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return {
        "current-context": None,
        "clusters": [
            {
                "name": "default",
                "cluster": {"server": address, "certificate-authority": str(folder / "ca.crt")},
            }
        ],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "users": [{"name": "default", "user": {"tokenFile": str(folder / "token")}}],
    }
