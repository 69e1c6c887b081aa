"""A Kubernetes cluster: objects as plain dicts, applied server-side under one field manager.

lightkube does TLS and logins by certificate or token (`kube_login` those by a program); the requests
are plain HTTP, because objects here are the rendered dicts and nothing else.

Source: Kubernetes API concepts (server-side apply, dry run, discovery), 1.30 and later.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from treadle.base.errors import Refused, TreadleError, Unreachable
from treadle.clients import kubeconfig

if TYPE_CHECKING:
    from treadle.clients import kube_exec
    from treadle.clients.kube_login import Credential

MANAGER = "treadle"
Object = dict[str, Any]
_TIMEOUT_S = 20.0
PATIENCE_S = 30.0
"""A command in a container that is silent for so long is given up."""
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_AT_ONCE = 8
"""Questions about permissions that are under way together."""


class Conflict(Refused):
    """Somebody else manages a field; the message names each."""


@dataclass(frozen=True, order=True)
class Access:
    """A verb on a kind of objects (`apps/v1/Deployment`), or on a part of them (`log`)."""

    kind: str
    verb: str
    part: str = ""


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

    def build(self) -> str:
        """The API server's version in full, in which distributions name themselves: v1.34.1+k3s1."""

    def logs(
        self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = ""
    ) -> builtins.list[str]:
        """The last lines of a pod's log; empty if there is none."""

    def execute(
        self,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str,
        patience_s: float = PATIENCE_S,
    ) -> Iterator[bytes]:
        """Run a command in a container: what it writes to standard output, in pieces, as it comes.

        Refused: the command failed, or may not be run. Unreachable: the connection was cut off, or the
        command was not begun, or said nothing, for `patience_s` seconds.
        """

    def follow(
        self, namespace: str, pod: str, lines: int, *, since: str = "", container: str = ""
    ) -> Iterator[tuple[str, str]]:
        """The last lines of a pod's log (or all from the moment `since` on) and those to come, each
        with its moment, until the container ends or the connection does; none if there is no log
        yet. Closing the iterator ends it."""

    def may(self, verb: str, kind: str, namespace: str | None) -> bool:
        """Whether we may do something with a kind of objects."""

    def allowed(self, asked: Iterable[Access], namespace: str) -> set[Access]:
        """What of `asked` we may do in a namespace, in as few questions as the cluster allows."""

    def who(self) -> str:
        """The user as whom the cluster knows us; empty where it does not say."""

    def ask(
        self, namespace: str, service: str, port: str, path: str, body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """A request to a service through the API server: status, headers, body."""


class ApiCluster:
    """A cluster by its API server."""

    def __init__(self, context: str) -> None:
        """`context` of the kubeconfig (`KUBECONFIG`, else `~/.kube/config`). UsageError: no such."""
        self.context = context
        self._about = kubeconfig.read(context)
        self.server = self._about.server
        import httpx2
        from lightkube.core.exceptions import ConfigError

        self._unusable = ConfigError
        self._away = httpx2.TransportError
        self._entry = threading.Lock()
        self._login = None
        if self._about.user.get("exec"):
            from treadle.clients.kube_login import Login

            self._login = Login(self._about)
        self._credential: Credential | None = None
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}
        self._http = self._connected()

    def _connected(self) -> Any:
        """A client with the context's TLS and login."""
        import httpx2
        from lightkube.config.client_adapter import user_auth

        try:
            login, user = self._login, self._about.config.user
            return httpx2.Client(
                base_url=self.server, verify=self._tls(), auth=None if login else user_auth(user),
                timeout=_TIMEOUT_S, proxy=self._about.cluster.get("proxy-url") or None,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=_AT_ONCE),
            )  # fmt: skip
        except (self._unusable, OSError, ValueError) as error:
            raise kubeconfig.unusable(self.context, error) from None

    def _tls(self) -> ssl.SSLContext:
        """What connections trust, and the certificate that they show."""
        from lightkube.config.client_adapter import verify_cluster
        from lightkube.config.models import User

        config = self._about.config
        found = verify_cluster(config.cluster, config.user or User(), config.abs_file)
        if self._credential is not None:
            self._credential.load(found)
        return found

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
        found: set[str] = set()
        for root in ("/api", "/apis"):
            told = self._json("GET", root, {}, what="the kinds", accept=_DISCOVERY)
            if told.get("kind") != "APIGroupDiscoveryList":  # a proxy that knows the old form alone
                return self._kinds_one_by_one()
            found |= self._discovered_together(told)
        return found

    def _discovered_together(self, told: Object) -> set[str]:
        """The kinds of one answer about all groups; what it says of each is kept."""
        found: set[str] = set()
        for group in told.get("items") or []:
            name = group["metadata"].get("name")
            for number, one in enumerate(group.get("versions") or []):
                kinds = {
                    kind["responseKind"]["kind"]: (kind["resource"], kind["scope"] == "Namespaced")
                    for kind in one.get("resources") or []
                    if kind.get("responseKind")
                }
                # What an absent server would say is not known: it is asked again when it matters.
                if one.get("freshness") != "Stale":
                    self._resources[f"{name}/{one['version']}" if name else one["version"]] = kinds
                if number == 0:  # the preferred version is the first
                    found |= kinds.keys()
        return found

    def _kinds_one_by_one(self) -> set[str]:
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

    def build(self) -> str:
        """See Cluster."""
        return str(self._json("GET", "/version", {}, what="the version").get("gitVersion", ""))

    def logs(
        self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = ""
    ) -> builtins.list[str]:
        """See Cluster."""
        query = {"tailLines": str(lines)} | ({"previous": "true"} if previous else {})
        if container:
            query["container"] = container
        status, data = self._send("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query)
        return data.decode("utf-8", "replace").splitlines() if status == 200 else []

    def execute(
        self,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str,
        patience_s: float = PATIENCE_S,
    ) -> Iterator[bytes]:
        """See Cluster."""
        from treadle.clients import kube_exec

        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
        words = f"{' '.join(command[:5])} in {pod}"
        refused = None
        while True:
            try:
                way = self._way(refused)
                yield from kube_exec.run(
                    way, path, command, container=container, what=words, patience_s=patience_s
                )
                return
            except kube_exec.NotUpgraded as error:
                if error.status == 401 and self._login is not None and refused is None:
                    refused = self._credential  # once more, with a new one
                    continue
                self._read(error.status, error.body, words)
                raise Unreachable(f"{words}: the API server answers {error.status}") from None
            except self._unusable as error:
                raise kubeconfig.unusable(self.context, error) from None

    def _way(self, refused: Credential | None) -> kube_exec.Way:
        """How a connection that is none of our client's is made: with the same login and TLS."""
        from lightkube.config.client_adapter import user_auth

        from treadle.clients import kube_exec

        headers = self._extra({}, refused=refused)["headers"]
        cluster, user = self._about.cluster, self._about.config.user
        try:
            return kube_exec.Way(
                self.server, self._tls(), None if self._login else user_auth(user), headers,
                cluster.get("tls-server-name") or None, cluster.get("proxy-url") or None,
            )  # fmt: skip
        except (self._unusable, OSError, ValueError) as error:
            raise kubeconfig.unusable(self.context, error) from None

    def follow(
        self, namespace: str, pod: str, lines: int, *, since: str = "", container: str = ""
    ) -> Iterator[tuple[str, str]]:
        """See Cluster."""
        query = {"follow": "true", "timestamps": "true"}
        query |= {"sinceTime": since} if since else {"tailLines": str(lines)}
        if container:
            query["container"] = container
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        more = self._extra({}, timeout=None)
        with contextlib.suppress(self._away):  # a connection that is cut is the end of it
            with self._http.stream("GET", path, params=query, **more) as answer:
                if answer.status_code != 200:
                    return
                for line in answer.iter_lines():
                    moment, _, text = line.partition(" ")
                    yield moment, text

    def may(self, verb: str, kind: str, namespace: str | None) -> bool:
        """See Cluster."""
        return self._may(Access(kind, verb), namespace)

    def _may(self, access: Access, namespace: str | None) -> bool:
        asked = self._attributes(access)
        if asked is None:
            return False
        version, _, name = access.kind.rpartition("/")
        if namespace and self._discovered(version)[name][1]:
            asked["namespace"] = namespace
        told = self._review("selfsubjectaccessreviews", "SelfSubjectAccessReview", {"resourceAttributes": asked})  # fmt: skip
        return bool((told.get("status") or {}).get("allowed"))

    def allowed(self, asked: Iterable[Access], namespace: str) -> set[Access]:
        """See Cluster."""
        every = sorted(set(asked))
        told = self._review("selfsubjectrulesreviews", "SelfSubjectRulesReview", {"namespace": namespace})  # fmt: skip
        rules = (told.get("status") or {}).get("resourceRules") or []
        found = {one for one in every if self._by_rules(one, rules)}
        # Rules need not be all there is (webhooks, clouds): what they do not give is asked for.
        rest = [one for one in every if one not in found]
        if rest:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                answers = pool.map(lambda one: self._may(one, namespace), rest)
                found |= {one for one, may in zip(rest, answers, strict=True) if may}
        return found

    def _by_rules(self, access: Access, rules: builtins.list[Object]) -> bool:
        asked = self._attributes(access)
        if asked is None:
            return False
        resource = asked["resource"] + (f"/{access.part}" if access.part else "")
        names = {resource, "*"} | ({f"*/{access.part}"} if access.part else set())
        return any(
            {access.verb, "*"} & set(rule.get("verbs") or [])
            and {asked["group"], "*"} & set(rule.get("apiGroups") or [])
            and names & set(rule.get("resources") or [])
            and not rule.get("resourceNames")
            for rule in rules
        )

    def _attributes(self, access: Access) -> dict[str, str] | None:
        """An access in the words of a review; None: the cluster has no such kind."""
        version, _, name = access.kind.rpartition("/")
        found = self._discovered(version).get(name)
        if found is None:
            return None
        group = version.partition("/")[0] if "/" in version else ""
        told = {"verb": access.verb, "group": group, "resource": found[0]}
        return told | ({"subresource": access.part} if access.part else {})

    def _review(self, path: str, kind: str, spec: Object) -> Object:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        return self._json(
            "POST", f"/apis/authorization.k8s.io/v1/{path}", {}, json.dumps(review).encode(),
            what="what we may do",
        )  # fmt: skip

    def who(self) -> str:
        """See Cluster."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            told = self._json(
                "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {},
                json.dumps(review).encode(), what="who we are",
            )  # fmt: skip
        except TreadleError:
            return ""
        return str(((told.get("status") or {}).get("userInfo") or {}).get("username", ""))

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
        kind: str = "application/json", *, what: str, accept: str = "application/json",
    ) -> Object:  # fmt: skip
        status, data = self._send(method, path, query, body, kind, accept)
        return self._read(status, data, what)

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None,
        kind: str = "application/json", accept: str = "application/json",
    ) -> tuple[int, bytes]:  # fmt: skip
        headers = {"Accept": accept} | ({"Content-Type": kind} if body is not None else {})
        answer = self._call(method, path, query, body, headers)
        return answer.status_code, answer.content

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None,
        headers: Mapping[str, str],
    ) -> Any:  # fmt: skip
        try:
            told = {"params": dict(query) or None, "content": body} | self._extra(headers)
            answer = self._http.request(method, path, **told)
            if answer.status_code == 401 and self._login is not None:
                # Taken back before its time, or a clock that is wrong: once more, with a new one.
                told |= self._extra(headers, refused=self._credential)
                answer = self._http.request(method, path, **told)
            return answer
        except self._unusable as error:
            raise kubeconfig.unusable(self.context, error) from None
        except self._away as error:
            raise Unreachable(
                f"the cluster of the context {self.context} ({self.server}) does not answer: "
                f"{str(error) or type(error).__name__}",
                hint="is it running, and is its address in the kubeconfig still right? "
                f"kubectl --context {self.context} version",
            ) from None

    def _extra(
        self, headers: Mapping[str, str], *, refused: Credential | None = None, **more: Any
    ) -> dict[str, Any]:
        """What every request takes beside its own: the login's token, the server's name for TLS."""
        told = dict(headers)
        if self._login is not None:
            with self._entry:
                former, self._credential = self._credential, self._login.credential(refused=refused)
                if self._credential.certificate != (former and former.certificate):
                    self._http = self._connected()  # connections keep what they began with
            if self._credential.token:
                told["Authorization"] = f"Bearer {self._credential.token}"
        name = self._about.cluster.get("tls-server-name")
        return {"headers": told, **({"extensions": {"sni_hostname": name}} if name else {}), **more}

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
    return kubeconfig.current()


def _named(wanted: Object) -> str:
    return f"{wanted['kind']} {wanted['metadata']['name']}"
