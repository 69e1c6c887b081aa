"""A Kubernetes cluster: objects as plain dicts, applied server-side under one field manager.

lightkube reads the kubeconfig and does logins and TLS (exec plugins, certificates, tokens); the
requests are plain HTTP on its client, because objects here are the rendered dicts and nothing else.

Source: Kubernetes API concepts (server-side apply, dry run, discovery), 1.30 and later.
"""

from __future__ import annotations

import builtins
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, cast

from treadle.base.errors import MissingExtra, Refused, TreadleError, Unreachable, UsageError

MANAGER = "treadle"
Object = dict[str, Any]
_TIMEOUT_S = 20.0


class Conflict(Refused):
    """Somebody else manages a field; the message names each."""


class Cluster(Protocol):
    """What of a cluster is used."""

    def apply(
        self, wanted: Object, *, dry_run: bool = False, manager: str = MANAGER, force: bool = False
    ) -> Object:
        """Server-side apply; the object as it is then. Conflict, Refused (invalid, forbidden).

        With `force` the fields are taken from who managed them."""

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """One object by `apps/v1/Deployment`."""

    def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str]
    ) -> builtins.list[Object]:
        """All with these labels."""

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        """Delete one; False if it was not there."""

    def kinds(self) -> set[str]:
        """Every kind that the cluster knows."""

    def version(self) -> tuple[int, int]:
        """Of the API server: (1, 34)."""

    def logs(
        self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = ""
    ) -> builtins.list[str]:
        """The last lines of a pod's log; empty if there is none."""

    def may(self, verb: str, kind: str, namespace: str | None) -> bool:
        """Whether we may do something with a kind of objects."""

    def ask(
        self, namespace: str, service: str, port: str, path: str, body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """A request to a service through the API server: status, headers, body."""


class ApiCluster:
    """A cluster by its API server."""

    def __init__(self, context: str) -> None:
        """`context` of the kubeconfig (`KUBECONFIG`, else `~/.kube/config`). UsageError: no such."""
        try:
            from lightkube.config.client_adapter import Client, ConnectionParams
            from lightkube.config.kubeconfig import KubeConfig
            from lightkube.core.exceptions import ConfigError
            from yaml import YAMLError
        except ImportError:
            raise MissingExtra("lightkube", "kubernetes", "a Kubernetes environment") from None
        self.context = context
        try:
            known = KubeConfig.from_env()
            config = known.get(context_name=context)
        except (ConfigError, OSError, YAMLError, KeyError, TypeError) as error:
            raise _unusable(context, error) from None
        if config is None:
            raise UsageError(
                f"the kubeconfig has no context {context}",
                hint="kubectl config get-contexts names them; KUBECONFIG names the file",
            )
        self.server = str(config.cluster.server)
        import httpx2

        try:
            self._http = Client(config, ConnectionParams(timeout=httpx2.Timeout(_TIMEOUT_S)))
        except (ConfigError, OSError, ValueError) as error:
            raise _unusable(context, error) from None
        self._unusable = ConfigError
        self._away = httpx2.TransportError
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    # ---- objects ----

    def apply(
        self, wanted: Object, *, dry_run: bool = False, manager: str = MANAGER, force: bool = False
    ) -> Object:
        """See Cluster."""
        path = self._path(wanted)
        query = {
            "fieldManager": manager, "force": "true" if force else "false",
            "fieldValidation": "Strict",
        }  # fmt: skip
        if dry_run:
            query["dryRun"] = "All"
        return self._json(
            "PATCH", path, query, json.dumps(wanted).encode(), "application/apply-patch+yaml",
            what=_named(wanted),
        )  # fmt: skip

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """See Cluster."""
        status, data = self._send("GET", self._place(kind, namespace, name), {})
        if status == 404:
            return None
        return self._read(status, data, f"{kind} {name}")

    def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str]
    ) -> builtins.list[Object]:
        """See Cluster."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        found = self._json(
            "GET", self._place(kind, namespace, None), {"labelSelector": selector}, what=kind
        )
        version, _, name = kind.rpartition("/")
        return [{"apiVersion": version, "kind": name, **one} for one in found.get("items") or []]

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        """See Cluster."""
        body = json.dumps({"propagationPolicy": "Background"}).encode()
        status, data = self._send("DELETE", self._place(kind, namespace, name), {}, body)
        if status == 404:
            return False
        self._read(status, data, f"{kind} {name}")
        return True

    # ---- the cluster ----

    def kinds(self) -> set[str]:
        """See Cluster."""
        groups = self._json("GET", "/apis", {}, what="the API groups").get("groups") or []
        found = set(self._discovered("v1"))
        for group in groups:
            # A group that another server answers for (metrics, say) may be away alone.
            with contextlib.suppress(Unreachable):
                found |= set(self._discovered(group["preferredVersion"]["groupVersion"]))
        return found

    def version(self) -> tuple[int, int]:
        """See Cluster."""
        told = self._json("GET", "/version", {}, what="the version")
        return int(told["major"]), int("".join(c for c in told["minor"] if c.isdigit()))

    def logs(
        self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = ""
    ) -> builtins.list[str]:
        """See Cluster."""
        query = {"tailLines": str(lines)} | ({"previous": "true"} if previous else {})
        if container:
            query["container"] = container
        status, data = self._send("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query)
        return data.decode("utf-8", "replace").splitlines() if status == 200 else []

    def may(self, verb: str, kind: str, namespace: str | None) -> bool:
        """See Cluster."""
        version, _, name = kind.rpartition("/")
        group = version.partition("/")[0] if "/" in version else ""
        found = self._discovered(version).get(name)
        if found is None:
            return False
        asked = {"verb": verb, "group": group, "resource": found[0]}
        if namespace and found[1]:
            asked["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }  # fmt: skip
        told = self._json(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {},
            json.dumps(review).encode(), what="what we may do",
        )  # fmt: skip
        return bool((told.get("status") or {}).get("allowed"))

    def ask(
        self, namespace: str, service: str, port: str, path: str, body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """See Cluster."""
        url = f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy/{path.lstrip('/')}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answer = self._call("GET" if body is None else "POST", url, {}, body, headers)
        return answer.status_code, dict(answer.headers), answer.content

    # ---- how ----

    def _path(self, wanted: Object) -> str:
        meta = wanted["metadata"]
        kind = f"{wanted['apiVersion']}/{wanted['kind']}"
        return self._place(kind, meta.get("namespace"), meta["name"])

    def _place(self, kind: str, namespace: str | None, name: str | None) -> str:
        version, _, word = kind.rpartition("/")
        found = self._discovered(version).get(word)
        if found is None:
            raise Refused(
                f"the cluster of {self.context} knows no {word} in {version}",
                hint="is the cluster too old, or is a part of it not installed?",
            )
        plural, namespaced = found
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        middle = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{root}{middle}/{plural}" + (f"/{name}" if name else "")

    def _discovered(self, version: str) -> dict[str, tuple[str, bool]]:
        """Kind → (plural, namespaced) of one group and version."""
        if version not in self._resources:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            status, data = self._send("GET", root, {})
            if status == 404:  # no such group: the cluster is older, or lacks the part
                return {}
            listed = self._read(status, data, f"the kinds of {version}").get("resources") or []
            self._resources[version] = {
                one["kind"]: (one["name"], bool(one["namespaced"]))
                for one in listed
                if "/" not in one["name"]
            }
        return self._resources[version]

    def _json(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None,
        kind: str = "application/json", *, what: str,
    ) -> Object:  # fmt: skip
        status, data = self._send(method, path, query, body, kind)
        return self._read(status, data, what)

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None,
        kind: str = "application/json",
    ) -> tuple[int, bytes]:  # fmt: skip
        headers = {"Content-Type": kind} if body is not None else {}
        answer = self._call(method, path, query, body, headers)
        return answer.status_code, answer.content

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None,
        headers: Mapping[str, str],
    ) -> Any:  # fmt: skip
        try:
            return self._http.request(
                method, path, params=dict(query) or None, content=body, headers=dict(headers)
            )
        except self._unusable as error:
            raise _unusable(self.context, error) from None
        except self._away as error:
            raise Unreachable(
                f"the cluster of the context {self.context} ({self.server}) does not answer: "
                f"{str(error) or type(error).__name__}",
                hint="is it running, and is its address in the kubeconfig still right? "
                f"kubectl --context {self.context} version",
            ) from None

    def _read(self, status: int, data: bytes, what: str) -> Object:
        try:
            told = cast("Object", json.loads(data))
        except ValueError:
            told = {"message": data.decode("utf-8", "replace")[:300]}
        if status < 300:
            return told
        said = str(told.get("message", status))
        causes = (told.get("details") or {}).get("causes") or []
        if status == 409 and any(c.get("reason") == "FieldManagerConflict" for c in causes):
            lines = [f"{c.get('field')}: {c.get('message')}" for c in causes]
            raise Conflict(
                f"{what} has fields that somebody else manages:\n  " + "\n  ".join(lines),
                hint="take your change out of it (kubectl edit), or put it into treadle.yaml; "
                "nothing was forced",
            )
        if status == 401:
            raise Refused(f"the login of the context {self.context} is not accepted: {said}")
        if status == 403:
            raise Refused(
                f"not allowed: {said}",
                hint=f"treadle doctor --env NAME names every permission that is missing in "
                f"{self.context} and the Role that gives it",
            )
        if status in (400, 422):
            raise Refused(f"the cluster does not take {what}: {said}")
        if status >= 500 or status == 429:
            raise Unreachable(f"the cluster of {self.context} answers {status}: {said}")
        raise TreadleError(f"{what}: {status} {said}")


def current_context() -> str | None:
    """The kubeconfig's current context; None where it has none (within a cluster, say)."""
    try:
        from lightkube.config.kubeconfig import KubeConfig
        from lightkube.core.exceptions import ConfigError
        from yaml import YAMLError
    except ImportError:
        raise MissingExtra("lightkube", "kubernetes", "a Kubernetes environment") from None
    try:
        return KubeConfig.from_env().current_context
    except (ConfigError, OSError, YAMLError, KeyError, TypeError) as error:
        raise _unusable("that is current", error) from None


def _unusable(context: str, error: Exception) -> UsageError:
    said = str(error) or type(error).__name__
    return UsageError(
        f"the context {context} cannot be used: {said}",
        hint="kubectl config get-contexts names them; KUBECONFIG names the file",
    )


def _named(wanted: Object) -> str:
    return f"{wanted['kind']} {wanted['metadata']['name']}"
