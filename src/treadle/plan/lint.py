"""Kubernetes YAML of people: what is wrong with it, where, and the fix, before a cluster sees it.

kubectl reports structure late or never: an unknown field is dropped, a selector that matches nothing
waits for ever, a claim that nobody uses stays. Each document is held to the published schema of its
kind, to what no schema says (`lint_rules`), then to the other documents that were named with it
(`lint_references`). Offline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.plan import lint_references, lint_rules, lint_values
from treadle.plan.lint_objects import Document, Path, Said, containers, pods
from treadle.plan.mistakes import Mistake, did_you_mean, listed, position, render
from treadle.plan.tree import Node

_TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "object": "a mapping", "array": "a list",
}  # fmt: skip
_MOST_CHARACTERS = 5_000_000
_MOST_NODES = 300_000
_BOOLEANS = frozenset({"yes", "no", "on", "off"})
"""What kubectl's YAML 1.1 takes for a boolean, where it stands without quotes."""


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
    warning: bool = False
    """Whether it may well be meant: nothing fails by it alone."""


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
        self, file: str, text: str, start: int, end: int, path: Path, words: str, hint: str,
        *, warning: bool = False,
    ) -> None:  # fmt: skip
        dotted = ".".join(map(str, path))
        said = f"warning: {words}" if warning else words
        mistake = Mistake(start, max(end, start + 1), dotted, said, hint)
        line, column = position(text, start)
        shown = render(mistake, text, file)
        self.findings.append(Finding(file, line, column, dotted, words, hint, shown, warning))

    def at(
        self, document: Document, path: Path, words: str, hint: str = "", *, key: bool = False,
        warning: bool = False,
    ) -> None:  # fmt: skip
        node = document.node(path)
        start, end = (
            (node.key_start, node.key_end) if key and node.key_end else (node.start, node.end)
        )
        line_end = document.text.find("\n", start)
        end = min(end, line_end) if line_end > 0 else end
        self.say(document.file, document.text, start, end, path, words, hint, warning=warning)

    def found(self, document: Document, said: Said) -> None:
        self.at(document, said.path, said.words, said.hint, key=said.key, warning=said.warning)

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
                hint = "its CustomResourceDefinition checks it"
                self.at(document, ("kind",), words, hint, warning=True)
            return
        if version is None:
            plain = {"apiVersion": known[0], **plain}
        for problem in self.schemas.problems(plain) or ():
            self._schema(document, problem, nested)
        self._images(document)
        for said in lint_rules.look(document, nested="spec" in nested):
            self.found(document, said)

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
        elif isinstance(name, str) and (wrong := lint_values.object_name(document.kind, name)):
            self.at(document, ("metadata", "name"), *wrong)

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
        found = pods(document)
        for path, container in containers(found) if found is not None else ():
            image = container.get("image")
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

    # ---- all documents ----

    def together(self, documents: Sequence[Document]) -> None:
        for document, said in lint_references.look(documents):
            self.found(document, said)


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
