"""Kubernetes YAML of people: what is wrong with it, where, and the fix, before a cluster sees it.

kubectl reports structure late or never: an unknown field is dropped, a selector that matches nothing
waits for ever, a claim that nobody uses stays. Each document is held to the published schema of its
kind, then to the other documents that were named with it. Offline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.plan.mistakes import Mistake, did_you_mean, listed, position, render
from treadle.plan.tree import Node

_WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"})
_TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "object": "a mapping", "array": "a list",
}  # fmt: skip
_MOST_CHARACTERS = 5_000_000
_MOST_NODES = 300_000
_BOOLEANS = frozenset({"yes", "no", "on", "off"})
"""What kubectl's YAML 1.1 takes for a boolean, where it stands without quotes."""
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One object of a file."""

    file: str
    text: str
    """Of the whole file."""
    root: Node
    plain: Any

    @property
    def kind(self) -> str:
        """`Deployment`; empty if it says none."""
        found = self.plain.get("kind") if isinstance(self.plain, dict) else None
        return found if isinstance(found, str) else ""

    def node(self, path: Path) -> Node:
        """The node at a path, or the nearest above that there is."""
        found = self.root
        for step in path:
            below = found.get(step)
            if below is None:
                return found
            found = below
        return found


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where, and the fix."""

    file: str
    line: int
    column: int
    path: str
    words: str
    hint: str
    text: str
    """As a compiler would show it."""


class Schemas:
    """What the linter asks about kinds; `clients.kube_schemas` is the real one."""

    def __init__(
        self,
        problems: Callable[[dict[str, Any]], Iterator[Any] | None],
        api_versions: Callable[[str], list[str]],
        kinds: Callable[[], frozenset[str]],
    ) -> None:
        self.problems, self.api_versions, self.kinds = problems, api_versions, kinds


def lint(files: Mapping[str, str], schemas: Schemas) -> list[Finding]:
    """Everything wrong in the files (name → text), in the order of files and lines."""
    checker = _Checker(schemas)
    documents: list[Document] = []
    for name, text in files.items():
        documents += checker.read(name, text)
    for document in documents:
        checker.alone(document)
    checker.together(documents)
    order = {name: number for number, name in enumerate(files)}
    unique = {(f.file, f.line, f.column, f.words): f for f in checker.findings}
    return sorted(unique.values(), key=lambda f: (order[f.file], f.line, f.column))


class _Checker:
    def __init__(self, schemas: Schemas) -> None:
        self.schemas = schemas
        self.findings: list[Finding] = []
        self.nodes = 0

    def say(
        self, file: str, text: str, start: int, end: int, path: Path, words: str, hint: str
    ) -> None:
        dotted = ".".join(map(str, path))
        mistake = Mistake(start, max(end, start + 1), dotted, words, hint)
        line, column = position(text, start)
        self.findings.append(
            Finding(file, line, column, dotted, words, hint, render(mistake, text, file))
        )

    def at(
        self, document: Document, path: Path, words: str, hint: str = "", *, key: bool = False
    ) -> None:
        node = document.node(path)
        start, end = (
            (node.key_start, node.key_end) if key and node.key_end else (node.start, node.end)
        )
        line_end = document.text.find("\n", start)
        end = min(end, line_end) if line_end > 0 else end
        self.say(document.file, document.text, start, end, path, words, hint)

    # ---- reading ----

    def read(self, name: str, text: str) -> list[Document]:
        """The documents of a file, split where YAML splits them."""
        if len(text) > _MOST_CHARACTERS:
            self.say(name, "", 0, 0, (), f"the file has {len(text)} characters", "split it")
            return []
        found = []
        for offset, part in _parts(text):
            if not re.sub(r"(?m)#.*$|^\.\.\.\s*$", "", part).strip():
                continue
            root = self._composed(name, text, offset, part)
            if root is None:
                continue
            document = Document(name, text, root, root.plain())
            if isinstance(document.plain, dict) and document.kind == "List":
                items = root.get("items")
                inner = (items.items or ()) if items is not None else ()
                found += [Document(name, text, item, item.plain()) for item in inner]
            else:
                found.append(document)
        return found

    def _composed(self, name: str, text: str, offset: int, part: str) -> Node | None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError

        try:
            root = YAML(typ="safe", pure=True).compose(part)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            start = offset + min(mark.index, len(part)) if mark is not None else offset
            words, hint = _syntax(str(error.problem or error.context or ""), part, start - offset)
            self.say(name, text, min(start, max(len(text) - 1, 0)), start + 1, (), words, hint)
            return None
        except Exception as error:
            words = f"this is no YAML: {type(error).__name__}: {str(error)[:100]}"
            self.say(name, text, offset, offset + 1, (), words, "")
            return None
        if root is None:
            return None
        try:
            return self._node(root, offset, name, text, 0)
        except RecursionError:
            self.say(
                name,
                text,
                offset,
                offset + 1,
                (),
                "it is nested too deeply, or its aliases unfold too far",
                "",
            )
            return None

    def _node(self, node: Any, offset: int, name: str, text: str, depth: int) -> Node:
        self.nodes += 1
        if depth > 100 or self.nodes > _MOST_NODES:
            raise RecursionError  # aliases of aliases unfold without an end
        start, end = offset + node.start_mark.index, offset + node.end_mark.index
        if node.id == "mapping":
            entries: dict[str, Node] = {}
            for key, value in node.value:
                word = str(key.value) if key.id == "scalar" else "?"
                below = self._node(value, offset, name, text, depth + 1)
                if word == "<<" and below.entries is not None:
                    entries = {**below.entries, **entries}
                    continue
                at = offset + key.start_mark.index
                if word in entries and entries[word].key_end:
                    self.say(
                        name, text, at, offset + key.end_mark.index, (word,),
                        f"`{word}` stands here a second time: the first one is lost",
                        "keep one of them",
                    )  # fmt: skip
                entries[word] = Node(
                    below.start, below.end, below.value, below.entries, below.items, at,
                    offset + key.end_mark.index, below.style,
                )  # fmt: skip
            return Node(start, end, entries=entries)
        if node.id == "sequence":
            items = tuple(self._node(one, offset, name, text, depth + 1) for one in node.value)
            return Node(start, end, items=items)
        return Node(start, end, _scalar(node), style=node.style)

    # ---- one document ----

    def alone(self, document: Document) -> None:
        plain = document.plain
        if not isinstance(plain, dict):
            self.at(document, (), "an object of Kubernetes is a mapping", "apiVersion: v1")
            return
        if not document.kind:
            self.at(document, (), "`kind` is missing", "kind: Pod (or Deployment, Service …)")
            return
        known = self.schemas.api_versions(document.kind)
        version = plain.get("apiVersion")
        if version is None:
            hint = f"apiVersion: {known[0]}" if known else "apiVersion: v1"
            self.at(document, ("kind",), "`apiVersion` is missing", hint, key=True)
        elif known and version not in known:
            words = f"there is no {document.kind} in {version}"
            self.at(document, ("apiVersion",), words, f"apiVersion: {known[0]}")
            plain = {**plain, "apiVersion": known[0]}
        nested = self._nested(document)
        self._name(document)
        if not known:
            meant = did_you_mean(document.kind, _canonical(self.schemas.kinds()))
            words = f"{document.kind} is no kind of Kubernetes' own: it is not checked"
            if meant:
                self.at(document, ("kind",), f"there is no kind {document.kind}", meant)
            else:
                self.at(document, ("kind",), words, "its CustomResourceDefinition checks it")
            return
        if version is None:
            plain = {"apiVersion": known[0], **plain}
        for problem in self.schemas.problems(plain) or ():
            self._schema(document, problem, nested)
        self._images(document)
        self._selector(document)

    def _nested(self, document: Document) -> set[str]:
        """`spec` and its like that slipped below metadata by their indentation."""
        metadata = document.root.get("metadata")
        found = set()
        for word in ("spec", "data", "status", "stringData", "rules", "subjects", "roleRef"):
            if metadata is not None and metadata.get(word) is not None:
                found.add(word)
                self.at(
                    document, ("metadata", word), f"`{word}` is nested under `metadata`",
                    f"move `{word}:` to the left, under the m of `metadata:`", key=True,
                )  # fmt: skip
        return found

    def _name(self, document: Document) -> None:
        metadata = document.plain.get("metadata")
        if not isinstance(metadata, dict):
            if "metadata" not in document.plain:
                self.at(
                    document, ("kind",), "`metadata` is missing", "metadata: {name: …}", key=True
                )
            return
        name = metadata.get("name")
        if name is None and metadata.get("generateName") is None:
            self.at(
                document, ("metadata",), "the object has no name", "metadata: {name: …}", key=True
            )
        elif isinstance(name, str) and not re.fullmatch(
            r"[a-z0-9]([a-z0-9.:-]{0,251}[a-z0-9])?", name
        ):
            self.at(
                document, ("metadata", "name"), f"{name!r} is no name in Kubernetes",
                "lower-case letters, digits and -, at most 253",
            )  # fmt: skip

    def _schema(self, document: Document, problem: Any, nested: set[str]) -> None:
        path = problem.path
        if problem.kind == "unknown":
            for name in problem.names:
                if path == ("metadata",) and name in nested:
                    continue
                hint = self._home(name) or did_you_mean(name, problem.known)
                self.at(document, (*path, name), f"there is no field `{name}` here", hint, key=True)
        elif problem.kind == "required":
            names = [name for name in problem.names if not (path == () and name in nested)]
            for name in names:
                self.at(document, path, f"`{name}` is missing", f"write {name}:", key=True)
        elif problem.kind == "type":
            wanted = " or ".join(_TYPES.get(name, name) for name in problem.names)
            seen = document.node(path)
            hint = ""
            if problem.names == ("string",) and seen.entries is None and seen.items is None:
                hint = f'put it in quotes: "{seen.value}"'
            elif (
                isinstance(seen.value, str) and "integer" in problem.names and seen.value.isdigit()
            ):
                hint = "remove the quotes"
            elif problem.names == ("array",):
                hint = "begin its items with `- `"
            self.at(document, path, f"expected {wanted}, found {_shown(seen)}", hint)
        elif problem.kind == "enum":
            seen = document.node(path)
            hint = did_you_mean(seen.value, problem.names) or f"one of {listed(problem.names)}"
            self.at(document, path, f"{_shown(seen)} cannot stand here", hint)
        else:
            self.at(document, path, problem.words)

    def _home(self, name: str) -> str:
        """Where a field that stands at the wrong depth belongs, if that is a step away."""
        homes = {
            "containers": "spec", "replicas": "spec", "selector": "spec", "template": "spec",
            "ports": "a container or a Service's spec", "image": "an item of containers",
            "env": "an item of containers", "resources": "an item of containers",
            "volumes": "the pod's spec", "labels": "metadata", "namespace": "metadata",
            "accessModes": "spec", "storageClassName": "spec",
        }  # fmt: skip
        where = homes.get(name)
        return f"`{name}` belongs in {where}: check the indentation" if where else ""

    def _images(self, document: Document) -> None:
        for path, container in _containers(document):
            image = container.get("image") if isinstance(container, dict) else None
            if not isinstance(image, str) or "@" in image:
                continue
            tag = image.rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                words = (
                    "the image has no tag: it is `latest`" if not tag else "the image is `latest`"
                )
                self.at(
                    document, (*path, "image"), f"{words}, another one each time",
                    f"name a version: {image.removesuffix(':latest')}:1.0, or a digest",
                )  # fmt: skip

    def _selector(self, document: Document) -> None:
        if document.kind not in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
            return
        spec = document.plain.get("spec")
        wanted = _dict(_dict(_dict(spec).get("selector")).get("matchLabels"))
        labels = _labels(_dict(_dict(spec).get("template")))
        for name, value in wanted.items():
            if labels.get(name) != value:
                there = ", ".join(f"{n}: {v}" for n, v in labels.items()) or "none"
                self.at(
                    document, ("spec", "selector", "matchLabels", str(name)),
                    f"the selector {name}: {value} does not match the template's labels ({there})",
                    f"write {name}: {value} under spec.template.metadata.labels",
                )  # fmt: skip

    # ---- all documents ----

    def together(self, documents: Sequence[Document]) -> None:
        pods = [(_space(d), labels) for d in documents for labels in _pod_labels(d)]
        claims = {
            (_space(d), _name_of(d)): d for d in documents if d.kind == "PersistentVolumeClaim"
        }
        used = set()
        for document in documents:
            for path, name in _claim_uses(document):
                used.add((_space(document), name))
                if claims and (_space(document), name) not in claims:
                    there = listed([str(one) for _, one in claims], "and")
                    self.at(
                        document, path, f"there is no claim `{name}` in these files",
                        f"there is {there}",
                    )  # fmt: skip
        for key, document in claims.items():
            if pods and key not in used:
                self.at(
                    document, ("metadata", "name"), f"no pod uses the claim `{key[1]}`",
                    "volumes: [{name: data, persistentVolumeClaim: {claimName: " f"{key[1]}}}}}]",
                )  # fmt: skip
        for document in documents:
            spec = _dict(document.plain).get("spec") if isinstance(document.plain, dict) else None
            selector = _dict(_dict(spec).get("selector"))
            if document.kind != "Service" or not selector or not pods:
                continue
            space = _space(document)
            if any(place == space and selector.items() <= labels.items() for place, labels in pods):
                continue
            near = [labels for place, labels in pods if place == space]
            there = "; ".join(", ".join(f"{n}: {v}" for n, v in labels.items()) for labels in near)
            self.at(
                document, ("spec", "selector"), "the selector matches no pod of these files",
                f"their labels are {there or 'none'}", key=True,
            )  # fmt: skip


# ---- how -----------------------------------------------------------------------------------------


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """(offset, document) between lines of `---`."""
    begin = 0
    for match in re.finditer(r"^---(?=\s|$)[^\n]*\n?", text, re.MULTILINE):
        yield begin, text[begin : match.start()]
        begin = match.end()
    yield begin, text[begin:]


def _syntax(problem: str, part: str, at: int) -> tuple[str, str]:
    if "\\t" in problem or (at < len(part) and part[at] == "\t"):
        return "a tab stands where YAML wants spaces", "indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a `:` stands where no key can be", "check the indentation of this line"
    if "expected <block end>" in problem or "did not find expected" in problem:
        return "the indentation does not fit what is above", "line it up with its neighbours"
    if "undefined alias" in problem:
        return f"YAML: {problem}", "the anchor `&name` must stand before"
    return f"YAML: {problem}", ""


def _scalar(node: Any) -> Any:
    """The value as Kubernetes reads it: YAML 1.1's booleans are texts to a careful writer."""
    if node.style is not None:
        return node.value
    tag = str(node.tag).rpartition(":")[2]
    if node.value.lower() in _BOOLEANS:
        return node.value.lower() in ("yes", "on")
    if re.fullmatch(r"[-+]?0[0-7]+", node.value):
        return int(node.value, 8)
    if tag == "null":
        return None
    if tag == "bool":
        return node.value.lower() == "true"
    try:
        if tag == "int":
            return int(node.value.replace("_", ""), 0)
        if tag == "float":
            return float(node.value.replace("_", ""))
    except ValueError:
        return node.value
    return node.value


def _shown(node: Node) -> str:
    if node.entries is not None:
        return "a mapping"
    if node.items is not None:
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return str(node.value).lower()
    return f"the text {node.value!r}" if isinstance(node.value, str) else f"the number {node.value}"


def _canonical(kinds: frozenset[str]) -> list[str]:
    """Kinds as they are written, for the common ones; the files know them in lower case."""
    written = [
        "Pod", "Deployment", "Service", "Namespace", "ConfigMap", "Secret", "StatefulSet", "DaemonSet",
        "ReplicaSet", "Job", "CronJob", "Ingress", "NetworkPolicy", "PersistentVolumeClaim",
        "PersistentVolume", "ServiceAccount", "Role", "RoleBinding", "ClusterRole",
        "ClusterRoleBinding", "StorageClass", "HorizontalPodAutoscaler", "PodDisruptionBudget",
        "ResourceQuota", "LimitRange", "Node",
    ]  # fmt: skip
    return [one for one in written if one.lower() in kinds]


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _space(document: Document) -> str:
    return str(_dict(_dict(document.plain).get("metadata")).get("namespace") or "default")


def _name_of(document: Document) -> str:
    return str(_dict(_dict(document.plain).get("metadata")).get("name"))


def _labels(template: Mapping[str, Any]) -> dict[Any, Any]:
    return _dict(_dict(template.get("metadata")).get("labels"))


def _pod_spec(document: Document) -> tuple[Path, dict[Any, Any]]:
    """Where the pod's spec is, and it."""
    path: Path = ()
    if document.kind == "Pod":
        path = ("spec",)
    elif document.kind == "CronJob":
        path = ("spec", "jobTemplate", "spec", "template", "spec")
    elif document.kind in _WORKLOADS:
        path = ("spec", "template", "spec")
    else:
        return (), {}
    found: Any = document.plain
    for step in path:
        found = _dict(found).get(step)
    return path, _dict(found)


def _pod_labels(document: Document) -> list[dict[Any, Any]]:
    if document.kind == "Pod":
        return [_labels(_dict(document.plain))]
    path, spec = _pod_spec(document)
    if not path or not spec:
        return []
    template: Any = document.plain
    for step in path[:-1]:
        template = _dict(template).get(step)
    return [_labels(_dict(template))]


def _containers(document: Document) -> Iterator[tuple[Path, Any]]:
    path, spec = _pod_spec(document)
    for word in ("containers", "initContainers"):
        listed_ = spec.get(word)
        for number, container in enumerate(listed_ if isinstance(listed_, list) else ()):
            yield (*path, word, number), container


def _claim_uses(document: Document) -> Iterator[tuple[Path, str]]:
    path, spec = _pod_spec(document)
    volumes = spec.get("volumes")
    for number, volume in enumerate(volumes if isinstance(volumes, list) else ()):
        name = _dict(_dict(volume).get("persistentVolumeClaim")).get("claimName")
        if isinstance(name, str):
            yield (*path, "volumes", number, "persistentVolumeClaim", "claimName"), name
