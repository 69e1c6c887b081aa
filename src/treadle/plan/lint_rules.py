"""What is wrong with one object of Kubernetes though its schema takes it: the API server would say so
late (when it is applied), the kubelet later, or nobody ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from treadle.plan import lint_values as values
from treadle.plan.lint_objects import (
    Document,
    Pods,
    Said,
    containers,
    holds,
    items,
    mapping,
    pods,
    sequence,
    shown,
    template_path,
)
from treadle.plan.lint_objects import Path as Place
from treadle.plan.mistakes import did_you_mean, listed

_SPECS = {
    "Pod": "{containers: [{name: …, image: …}]}",
    "Deployment": "{selector: …, template: …}", "StatefulSet": "{selector: …, template: …}",
    "DaemonSet": "{selector: …, template: …}", "ReplicaSet": "{selector: …, template: …}",
    "Job": "{template: …}", "CronJob": "{schedule: …, jobTemplate: …}",
    "Service": "{selector: …, ports: …}",
    "PersistentVolumeClaim": "{accessModes: …, resources: …}",
    "HorizontalPodAutoscaler": "{scaleTargetRef: …, maxReplicas: …}",
    "Ingress": "{rules: …}",
}  # fmt: skip
"""Kinds that are nothing without a spec, and what stands in it."""
_SELECTING = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
_NATURAL = frozenset(
    {
        "replicas", "minReadySeconds", "revisionHistoryLimit", "backoffLimit", "completions",
        "parallelism", "terminationGracePeriodSeconds", "ttlSecondsAfterFinished",
        "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "initialDelaySeconds",
        "activeDeadlineSeconds", "startingDeadlineSeconds", "minReplicas", "maxReplicas",
    }
)  # fmt: skip
_COUNTED = frozenset({"periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"})
_PORTS = frozenset({"containerPort", "hostPort", "nodePort", "port", "endPort", "targetPort"})
_UNSET = frozenset({"hostPort", "nodePort"})
"""0 is none of these."""


def look(document: Document, *, nested: bool = False) -> Iterator[Said]:
    """Everything; `nested` where a spec was found at a wrong place already."""
    if not nested and document.kind in _SPECS and mapping(document.plain).get("spec") is None:
        words = f"the {document.kind} has no `spec`"
        yield Said(("spec",), words, f"spec: {_SPECS[document.kind]}", key=True)
    yield from _name(document)
    yield from _labels(document)
    for path, value in _numbers((), document.plain):
        yield from _number(path, value)
    yield from _quantities(document)
    found = pods(document)
    if found is not None:
        yield from _selector(document, found)
        yield from _containers(found)
        yield from _volumes(found)
        for path, container in containers(found):
            yield from _ports(path, container)
            yield from _probes(path, container)
            yield from _resources((*path, "resources"), mapping(container.get("resources")))
    if document.kind == "Service":
        yield from _service(document)
    if document.kind == "HorizontalPodAutoscaler":
        yield from _range(document)
    if document.kind == "Deployment":
        yield from _strategy(document)


# ---- names and labels ----------------------------------------------------------------------------


def _name(document: Document) -> Iterator[Said]:
    metadata = mapping(mapping(document.plain).get("metadata"))
    space = metadata.get("namespace")
    if isinstance(space, str) and (wrong := values.label(space)):
        yield Said(("metadata", "namespace"), *wrong)


def _labels(document: Document) -> Iterator[Said]:
    places: list[tuple[Place, Any]] = [(("metadata",), mapping(document.plain).get("metadata"))]
    found = pods(document)
    if found is not None and document.kind != "Pod":
        path = template_path(document.kind)
        places.append(((*path, "metadata"), {"labels": found.labels}))
    for path, metadata in places:
        for name, value in mapping(mapping(metadata).get("labels")).items():
            yield from _wrong((*path, "labels", name), name, values.label_key, key=True)
            yield from _wrong((*path, "labels", name), value, values.label_value)
    # Annotations have the same names, in any case of letters, and any text.
    for name in mapping(mapping(mapping(document.plain).get("metadata")).get("annotations")):
        if isinstance(name, str) and values.label_key(name.lower()):
            words = f"{name[:70]!r} is no name of an annotation"
            yield Said(("metadata", "annotations", name), words, "example.com/name", key=True)
    selector = document.spec.get("selector")
    path = ("spec", "selector")
    if document.kind not in ("Service", "ReplicationController"):
        selector, path = mapping(selector).get("matchLabels"), (*path, "matchLabels")
    for name, value in mapping(selector).items():
        yield from _wrong((*path, name), name, values.label_key, key=True)
        yield from _wrong((*path, name), value, values.label_value)


def _wrong(
    path: Place, value: Any, judge: Callable[[str], values.Wrong], *, key: bool = False
) -> Iterator[Said]:
    if isinstance(value, str) and (wrong := judge(value)):
        yield Said(path, *wrong, key=key)


# ---- numbers -------------------------------------------------------------------------------------


def _numbers(path: Place, value: Any) -> Iterator[tuple[Place, int]]:
    """Every whole number below `spec` with its path; what is anybody's own data is passed over."""
    if isinstance(value, dict):
        for name, below in value.items():
            if path or name == "spec":
                yield from _numbers((*path, name), below)
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _numbers((*path, number), below)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def _number(path: Place, value: int) -> Iterator[Said]:
    name = path[-1]
    if name == "number" and "port" in path[-2:-1]:
        name = "port"  # of an Ingress
    if name in _PORTS and not (value == 0 and name in _UNSET):
        if wrong := values.port(value):
            yield Said(path, *wrong)
    elif name in _NATURAL and value < 0:
        yield Said(path, f"{name} cannot be {value}", "0 or more")
    elif name in _COUNTED and value < 1:
        yield Said(path, f"{name} cannot be {value}", "1 or more")


def _range(document: Document) -> Iterator[Said]:
    least, most = document.spec.get("minReplicas", 1), document.spec.get("maxReplicas")
    if type(least) is int and type(most) is int:
        if most < 1:
            yield Said(("spec", "maxReplicas"), f"at most {most} replicas are none", "1 or more")
        elif least > most:
            yield Said(
                ("spec", "minReplicas"), f"at least {least} replicas are more than at most {most}",
                "minReplicas is not above maxReplicas",
            )  # fmt: skip


def _strategy(document: Document) -> Iterator[Said]:
    strategy = mapping(document.spec.get("strategy"))
    rolling = mapping(strategy.get("rollingUpdate"))
    path = ("spec", "strategy", "rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling:
        words = "`rollingUpdate` has no meaning for the type Recreate"
        yield Said(path, words, "take one of the two away", key=True)
    none = (0, "0%", "0")
    if rolling.get("maxSurge") in none and rolling.get("maxUnavailable") in none:
        words = "with neither a pod more nor one fewer no pod can be replaced"
        yield Said(path, words, "maxSurge: 1", key=True)
    deadline, ready = (
        document.spec.get("progressDeadlineSeconds"),
        document.spec.get("minReadySeconds", 0),
    )
    if type(deadline) is int and type(ready) is int and deadline <= ready:
        yield Said(
            ("spec", "progressDeadlineSeconds"),
            f"the deadline of {deadline} s is not after minReadySeconds ({ready} s)", "make it longer",
        )  # fmt: skip


def _quantities(document: Document) -> Iterator[Said]:
    for path, name, value in _quantity_fields(document):
        if value is None or isinstance(value, dict | list):
            continue  # the schema says so
        if wrong := values.quantity_wrong(value):
            yield Said(path, *wrong)
        elif odd := values.odd_quantity(name, value):
            yield Said(path, *odd, warning=True)


def _quantity_fields(document: Document) -> Iterator[tuple[Place, str, Any]]:
    """Path, resource and value of every quantity."""
    found = pods(document)
    if found is not None:
        for path, container in containers(found):
            resources = mapping(container.get("resources"))
            yield from _resource_fields((*path, "resources"), resources)
        for path, volume in items((*found.path, "volumes"), found.spec.get("volumes")):
            limit = mapping(volume.get("emptyDir")).get("sizeLimit")
            yield (*path, "emptyDir", "sizeLimit"), "storage", limit
    path = ("spec",)
    if document.kind == "PersistentVolumeClaim":
        resources = mapping(document.spec.get("resources"))
        yield from _resource_fields((*path, "resources"), resources)
    if document.kind == "PersistentVolume":
        for name, value in mapping(document.spec.get("capacity")).items():
            yield (*path, "capacity", name), str(name), value
    if document.kind == "ResourceQuota":
        for name, value in mapping(document.spec.get("hard")).items():
            yield (*path, "hard", name), str(name).rpartition(".")[2], value
    for place, one in items((*path, "volumeClaimTemplates"), document.spec.get("volumeClaimTemplates")):  # fmt: skip
        resources = mapping(mapping(one.get("spec")).get("resources"))
        yield from _resource_fields((*place, "spec", "resources"), resources)


def _resource_fields(path: Place, resources: dict[Any, Any]) -> Iterator[tuple[Place, str, Any]]:
    for word in ("requests", "limits"):
        for name, value in mapping(resources.get(word)).items():
            yield (*path, word, name), str(name), value


def _resources(path: Place, resources: dict[Any, Any]) -> Iterator[Said]:
    limits = mapping(resources.get("limits"))
    for name, value in mapping(resources.get("requests")).items():
        wanted, most = values.quantity(value), values.quantity(limits.get(name))
        if wanted is not None and most is not None and wanted > most:
            yield Said(
                (*path, "requests", name),
                f"{value} of {name} are requested, and at most {limits[name]} may be taken",
                f"a limit of {value} or more, or a smaller request",
            )  # fmt: skip


# ---- pods ----------------------------------------------------------------------------------------


def _selector(document: Document, found: Pods) -> Iterator[Said]:
    if document.kind not in _SELECTING:
        return
    selector = mapping(document.spec.get("selector"))
    path = ("spec", "selector")
    wanted = mapping(selector.get("matchLabels"))
    expressions = list(items((*path, "matchExpressions"), selector.get("matchExpressions")))
    if "selector" in document.spec and not wanted and not expressions:
        words = "the selector is empty: it names no label of its pods"
        yield Said(path, words, "matchLabels: {app: …}, as in the template", key=True)
    for name, value in wanted.items():
        if found.labels.get(name) != value:
            yield Said(
                (*path, "matchLabels", str(name)),
                f"the selector {name}: {value} does not match the template's labels "
                f"({shown(found.labels)})",
                f"write {name}: {value} under spec.template.metadata.labels",
            )  # fmt: skip
    for place, one in expressions:
        yield from _expression(place, one, found)


def _expression(path: Place, one: dict[Any, Any], found: Pods) -> Iterator[Said]:
    operator, key = one.get("operator"), one.get("key")
    known = ("In", "NotIn", "Exists", "DoesNotExist")
    if not isinstance(operator, str) or not isinstance(key, str):
        return  # the schema says so
    if operator not in known:
        hint = did_you_mean(operator, known) or listed(known)
        yield Said((*path, "operator"), f"there is no operator {operator}", hint)
        return
    if operator in ("In", "NotIn") and not sequence(one.get("values")):
        yield Said((*path, "operator"), f"{operator} needs values", "values: [...]")
    elif operator in ("Exists", "DoesNotExist") and sequence(one.get("values")):
        yield Said((*path, "values"), f"{operator} takes no values", "take them away", key=True)
    elif not holds(one, found.labels):
        yield Said(
            path, f"the selector's `{key} {operator}` does not match the template's labels "
            f"({shown(found.labels)})", "change it, or spec.template.metadata.labels",
        )  # fmt: skip


def _containers(found: Pods) -> Iterator[Said]:
    if found.spec.get("containers") == []:
        words = "a pod has at least one container"
        yield Said(
            (*found.path, "containers"), words, "containers: [{name: …, image: …}]", key=True
        )
    seen: set[str] = set()
    for path, one in containers(found):
        name = one.get("name")
        if not isinstance(name, str):
            continue
        yield from _wrong((*path, "name"), name, values.label)
        if name in seen:
            words = f"another container of this pod is named `{name}`"
            yield Said((*path, "name"), words, "give each a name of its own")
        seen.add(name)


def _volumes(found: Pods) -> Iterator[Said]:
    there: dict[str, Place] = {}
    for path, volume in items((*found.path, "volumes"), found.spec.get("volumes")):
        name = volume.get("name")
        if not isinstance(name, str):
            continue
        yield from _wrong((*path, "name"), name, values.label)
        if name in there:
            words = f"another volume of this pod is named `{name}`"
            yield Said((*path, "name"), words, "give each a name of its own")
        there.setdefault(name, path)
    known = [*there, *(name for name in found.claims if isinstance(name, str))]
    used: set[str] = set()
    for path, container in containers(found):
        places: set[str] = set()
        for word in ("volumeMounts", "volumeDevices"):
            for place, mount in items((*path, word), container.get(word)):
                name, where = mount.get("name"), mount.get("mountPath")
                if isinstance(name, str):
                    used.add(name)
                    if name not in known:
                        hint = did_you_mean(name, known) or (
                            f"there is {listed(known, 'and')}" if known
                            else f"volumes: [{{name: {name}, …}}] in the pod's spec"
                        )  # fmt: skip
                        yield Said((*place, "name"), f"the pod has no volume `{name}`", hint)
                if isinstance(where, str):
                    if where in places:
                        words = f"something is mounted at {where} already"
                        yield Said((*place, "mountPath"), words, "mount each at a place of its own")
                    places.add(where)
    for name, path in there.items():
        if name not in used and next(containers(found), None) is not None:
            words = f"no container mounts the volume `{name}`"
            yield Said((*path, "name"), words, f"volumeMounts: [{{name: {name}, mountPath: …}}]", warning=True)  # fmt: skip


def _ports(path: Place, container: dict[Any, Any]) -> Iterator[Said]:
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    for place, port in items((*path, "ports"), container.get("ports")):
        name, number = port.get("name"), port.get("containerPort")
        if isinstance(name, str):
            yield from _wrong((*place, "name"), name, values.port_name)
            if name in names:
                words = f"another port of this container is named `{name}`"
                yield Said((*place, "name"), words, "give each a name of its own")
            names.add(name)
        if isinstance(number, int):
            key = (number, str(port.get("protocol") or "TCP"))
            if key in numbers:
                words = f"port {number} stands here a second time"
                yield Said((*place, "containerPort"), words, "keep one of them", warning=True)
            numbers.add(key)


def _probes(path: Place, container: dict[Any, Any]) -> Iterator[Said]:
    names = [
        str(port["name"])
        for _, port in items((), container.get("ports"))
        if isinstance(port.get("name"), str)
    ]
    asked: list[tuple[Place, Any]] = [
        ((*path, word), container.get(word))
        for word in ("startupProbe", "readinessProbe", "livenessProbe")
    ]
    hooks = mapping(container.get("lifecycle"))
    asked += [((*path, "lifecycle", word), hooks.get(word)) for word in ("preStop", "postStart")]
    for place, probe in asked:
        for how in ("httpGet", "tcpSocket"):
            port = mapping(mapping(probe).get(how)).get("port")
            if isinstance(port, str) and port.isdigit():
                words = f"port {port!r} is a text: it is taken for a port's name"
                yield Said((*place, how, "port"), words, "remove the quotes")
            elif isinstance(port, str) and port not in names:
                hint = did_you_mean(port, names) or (
                    f"there is {listed(names, 'and')}" if names
                    else f"ports: [{{name: {port}, containerPort: …}}], or the number here"
                )  # fmt: skip
                yield Said((*place, how, "port"), f"the container has no port named `{port}`", hint)
        success = mapping(probe).get("successThreshold")
        if place[-1] in ("startupProbe", "livenessProbe") and type(success) is int and success > 1:
            words = f"successThreshold of a {place[-1]} can only be 1"
            yield Said((*place, "successThreshold"), words, "take it away")


def _service(document: Document) -> Iterator[Said]:
    ports = list(items(("spec", "ports"), document.spec.get("ports")))
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    for place, port in ports:
        name, number = port.get("name"), port.get("port")
        if name is None and len(ports) > 1:
            yield Said(place, "of several ports each needs a name", "name: http")
        if isinstance(name, str):
            yield from _wrong((*place, "name"), name, values.label)
            if name in names:
                words = f"another port of this Service is named `{name}`"
                yield Said((*place, "name"), words, "give each a name of its own")
            names.add(name)
        if isinstance(number, int):
            key = (number, str(port.get("protocol") or "TCP"))
            if key in numbers:
                yield Said((*place, "port"), f"port {number} stands here a second time", "keep one")
            numbers.add(key)
        target = port.get("targetPort")
        if isinstance(target, str) and target.isdigit():
            words = f"targetPort {target!r} is a text: it is taken for a port's name"
            yield Said((*place, "targetPort"), words, "remove the quotes")
        elif isinstance(target, str):
            yield from _wrong((*place, "targetPort"), target, values.port_name)
    if not ports and document.spec and document.spec.get("type") != "ExternalName" and document.spec.get("clusterIP") != "None":  # fmt: skip
        words = "the Service has no ports: nothing can be asked of it"
        yield Said(("spec", "ports"), words, "ports: [{port: 80}]", key=True)
