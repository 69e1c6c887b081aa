"""skops files with canonical bytes: the same fitted estimator gives the same file, everywhere.

skops itself names the members of its zip by object ids and writes today's time, so two dumps of one
estimator differ. Here the schema is walked and made canonical before it is written:

- members are named by the digest of their content; equal arrays are one member;
- an object id stays only where an object that can be changed occurs more than once, and is
  numbered in the order of the walk (sharing between immutable values means nothing);
- members of sets are sorted (their order follows the hash seed of the process);
- the padding bytes of structured arrays (decision trees) are zeroed: they are leftovers of memory;
- what states the process rather than the model goes (`_OF_THE_MACHINE`);
- entries are sorted, stored without compression and dated 1980.

What may be loaded is the allow-list of `base/trust`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra, Refused, TreadleError
from treadle.base.trust import allowed, skops_io

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNSHARED = {
    "JsonNode", "TypeNode", "FunctionNode", "SliceNode", "BytesNode", "OperatorFuncNode",
    "DTypeNode", "TupleNode",
}  # fmt: skip
"""Nodes of immutable values: whether two places hold one object or two equal ones means nothing."""

_OF_THE_MACHINE = ("n_threads", "_stop_words_id")
"""Attributes of scikit-learn's objects that state the process, not the model: a histogram binner's
number of threads (None: as many as there are) and the id() of a vectorizer's list of stop words
(which only spares a check that warns)."""


def dumps(estimator: object) -> bytes:
    """The canonical bytes of a fitted estimator. TreadleError where skops cannot write it."""
    skops_io = _skops()
    try:
        raw = skops_io.dumps(estimator)
    except Exception as error:
        raise TreadleError(
            f"skops cannot write this {type(estimator).__qualname__}: {error}",
            hint="`trust: pickle` in treadle.yaml stores it by pickle",
        ) from error
    return _canonical(raw)


def dump(estimator: object, path: Path) -> None:
    """Write the canonical file of a fitted estimator."""
    data = dumps(estimator)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def untrusted_types(source: Path | bytes) -> list[str]:
    """Names in a file that the allow-list does not hold, sorted; empty means `load` will take it."""
    skops_io = _skops()
    if isinstance(source, bytes):
        names = skops_io.get_untrusted_types(data=source)
    else:
        names = skops_io.get_untrusted_types(file=source)
    return sorted(name for name in names if not allowed(name))


def load(source: Path | bytes, trusted: Iterable[str] = ()) -> Any:
    """The estimator of a skops file.

    Types outside the allow-list and `trusted` (full names) raise Refused before anything is built.
    """
    skops_io = _skops()
    granted = set(trusted)
    refused = [name for name in untrusted_types(source) if name not in granted]
    if refused:
        raise Refused(
            f"the model holds types that are not trusted: {', '.join(refused)}",
            hint="`trust: pickle` in treadle.yaml allows models of your own types",
        )
    if isinstance(source, bytes):
        names = skops_io.get_untrusted_types(data=source)
        return skops_io.loads(source, trusted=names)
    names = skops_io.get_untrusted_types(file=source)
    return skops_io.load(source, trusted=names)


def _skops() -> Any:
    """skops.io. MissingExtra where it is not installed."""
    try:
        return skops_io()
    except ImportError as error:
        raise MissingExtra("skops", "sklearn", "storing a scikit-learn model") from error


def _canonical(raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        schema = json.loads(archive.read("schema.json"))
        members = {n: archive.read(n) for n in archive.namelist() if n != "schema.json"}
    names: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    for name, data in members.items():
        suffix = name.rpartition(".")[2]
        clean = _without_padding(data) if suffix == "npy" else data
        new = f"{hashlib.sha256(clean).hexdigest()[:32]}.{suffix}"
        names[name] = new
        contents[new] = clean
    _normalise(schema, names)
    _number(schema)
    contents["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name])
    return buffer.getvalue()


def _without_padding(data: bytes) -> bytes:
    """An .npy member with zeros in the bytes between the fields of a structured array."""
    import numpy as np

    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names is None:
        return data
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _normalise(node: Any, names: dict[str, str]) -> None:
    """Rename members, drop the identity of immutable values, sort sets, forget the machine."""
    if isinstance(node, list):
        for item in node:
            _normalise(item, names)
        return
    if not isinstance(node, dict):
        return
    for item in node.values():
        _normalise(item, names)
    loader = node.get("__loader__")
    if loader is None:
        return
    if isinstance(node.get("file"), str):
        node["file"] = names.get(node["file"], node["file"])
    scalar = loader == "NdArrayNode" and node.get("__class__") != "ndarray"
    if loader in _UNSHARED or scalar:
        node.pop("__id__", None)
    if loader == "SetNode":
        node["content"].sort(key=lambda item: json.dumps(_without_ids(item), sort_keys=True))
    if str(node.get("__module__")).startswith("sklearn.") and loader == "ObjectNode":
        content = node.get("content")
        fields = content.get("content") if isinstance(content, dict) else None
        for field in _OF_THE_MACHINE:
            if isinstance(fields, dict) and field in fields:
                if field == "n_threads" and node["__class__"] != "_BinMapper":
                    continue
                fields[field] = {
                    "__class__": "str", "__module__": "builtins", "__loader__": "JsonNode",
                    "content": "null", "is_json": True,
                }  # fmt: skip


def _without_ids(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_ids(item) for item in node]
    if isinstance(node, dict):
        return {key: _without_ids(item) for key, item in node.items() if key != "__id__"}
    return node


def _number(schema: Any) -> None:
    """Keep an id only where an object occurs again, numbered from 1 in the order of the walk."""
    nodes: list[dict[str, Any]] = []

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            # A user's dict may have the key "__id__": only nodes have a loader beside it.
            if "__id__" in node and "__loader__" in node:
                nodes.append(node)
            for item in node.values():
                walk(item)

    walk(schema)
    seen = Counter(node["__id__"] for node in nodes)
    numbers: dict[int, int] = {}
    for node in nodes:
        if seen[node["__id__"]] == 1:
            del node["__id__"]
        else:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
