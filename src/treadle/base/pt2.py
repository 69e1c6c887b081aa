"""PyTorch's exported programs (`.pt2`): which may be loaded, and their canonical bytes. No torch here.

`torch.export.load` runs code that a file brings, in several places (torch 2.13, read in its source):
weights and constants with `use_pickle`, and custom objects, are unpickled; sample inputs are
unpickled without restriction when the restricted reader fails; `guards_code` is passed to `exec`;
shapes (`expr_str`) go through sympy's parser, which is `eval`; an operator's name is looked up with
getattr from `torch`, `math` or `operator` down, which reaches any function there is; the nesting of
inputs may name an enum, whose module is imported. Compiled artifacts (AOTInductor) are libraries to
be loaded.

So an archive is taken apart and written anew from what is known to be data: raw weights, their
shapes, and a graph whose operators are ATen's (none that opens a file) and arithmetic. Sample inputs
and guards are left out: the caller checks shape and type himself. The same writer gives equal
programs equal bytes: traces of the source, times, random names and paths go.
"""

from __future__ import annotations

import ast
import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from treadle.base.errors import Refused, TreadleError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_ROOT = "model"
"""Name of the archive's one top folder; torch takes the file's name, whatever that is."""
_GRAPH = "models/model.json"
_SAMPLE = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": "data/weights",
    "data/constants/model_constants_config.json": "data/constants",
}
_PLAIN = {"archive_format", "archive_version", ".data/version", "version", "byteorder",
          ".data/serialization_id", ".format_version", ".storage_alignment"}  # fmt: skip
_PLAIN_TEXT = re.compile(rb"[A-Za-z0-9._-]{0,64}\n?")
_RAW = re.compile(r"(weight|tensor)_\d{1,9}")
_DTYPES = {7: "float32", 8: "float64", 5: "int64", 4: "int32", 6: "float16", 12: "bool"}
"""torch's numbers for element types (`torch/_export/serde/schema.py`, ScalarType)."""

_ATEN = re.compile(r"torch\.ops\.(aten|prims)\.((?!__)\w+)\.([A-Za-z]\w*)")
_NOT_ATEN = {"from_file", "save", "load", "_save", "_load", "name"}
"""Operators of ATen that read or write files; and what lies there and is no operator."""
_OTHERS = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pos|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(float|int|max|min|not|ite|sqrt|sum)"
    r"|torch\._sym_sqrt|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled)"
)
_FUNCTIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "Mod",
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt",
    "CeilDiv", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat",
    "TruncToInt", "RoundToInt", "ToFloat", "Identity", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
    "Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan",
    "And", "Or", "Not", "floor", "ceiling", "true", "false", "int_oo",
}  # fmt: skip
"""What a shape may be made of: sympy's arithmetic and torch's own of shapes."""
_SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,9}")
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", None}


@dataclass(frozen=True)
class Program:
    """A checked archive."""

    data: bytes
    """The canonical bytes, from which `torch.export.load` runs nothing that came with them."""
    dtype: str
    """Element type of the one input: float32, float64, int64 …"""
    shape: tuple[int, ...]
    """Its shape; -1 where any length will do."""
    outputs: int
    """How many tensors come out."""


def read(source: bytes, sample: bytes = b"") -> Program:
    """Check an archive and write it anew; `sample` becomes its sample inputs.

    Raises Refused for anything that could run code when loaded, or that this reader does not know;
    TreadleError for what is no such archive.
    """
    records = _records(source)
    graph = _json(records, _GRAPH)
    payloads: dict[str, bytes] = {}
    for name, folder in _CONFIGS.items():
        config = _json(records, name)
        for path in _raw_tensors(config, name):
            payloads[f"{folder}/{path}"] = _record(records, f"{folder}/{path}")
        payloads[name] = _text(config)
    known = {*payloads, *_PLAIN, _GRAPH, _SAMPLE}
    for name, data in records.items():
        if name not in known:
            raise Refused(f"the exported program holds {name}, which is no plain data")
        if name in _PLAIN and not _PLAIN_TEXT.fullmatch(data):
            raise Refused(f"{name} of the exported program is no plain text")
    _check(graph)
    dtype, shape, outputs = _interface(graph)
    _forget(graph)
    data = _write({
        **payloads,
        _GRAPH: _text(graph),
        _SAMPLE: sample,
        "archive_format": b"pt2",
        "archive_version": _record(records, "archive_version"),
        ".data/version": records.get(".data/version", records.get("version", b"6\n")),
        "byteorder": _record(records, "byteorder"),
    })  # fmt: skip
    return Program(data, dtype, shape, outputs)


def _records(source: bytes) -> dict[str, bytes]:
    """Name within the top folder → bytes. Archives of this kind are not compressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            for info in infos:
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(source):
                    raise Refused("the exported program is compressed, which torch never does")
            return {info.filename.partition("/")[2]: archive.read(info) for info in infos}
    except (
        zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
        struct.error,
    ) as error:  # fmt: skip
        raise TreadleError(f"this is no exported program of PyTorch: {error}") from None


def _record(records: Mapping[str, bytes], name: str) -> bytes:
    if name not in records:
        raise TreadleError(f"the exported program lacks {name}")
    return records[name]


def _json(records: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(_record(records, name))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TreadleError(f"{name} of the exported program is no JSON")
    return value


def _raw_tensors(config: Mapping[str, Any], name: str) -> Iterator[str]:
    """The file names of a payload configuration, every one of raw bytes."""
    entries = config.get("config")
    if not isinstance(entries, dict):
        raise TreadleError(f"{name} of the exported program lists nothing")
    for key, entry in entries.items():
        path = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(path, str) or entry.get("use_pickle") is not False:
            raise Refused(f"{key} of the exported program is a pickle")
        if not _RAW.fullmatch(path) or entry.get("tensor_meta") is None:
            raise Refused(f"{key} of the exported program is an object of its own kind, no tensor")
        yield path


def _check(graph: dict[str, Any]) -> None:
    """Every name that is looked up and every text that is evaluated when the graph is read."""
    for key, value in _walk(graph):
        if key in ("target", "as_operator") and isinstance(value, str):
            match = _ATEN.fullmatch(value)
            if (match and match[2] not in _NOT_ATEN) or _OTHERS.fullmatch(value):
                continue
            raise Refused(f"the exported program calls {value[:80]}, which is not on the list")
        if key == "expr_str":
            _check_expression(value)
        elif key in ("in_spec", "out_spec") and isinstance(value, str):
            _check_tree(value)
        elif key == "custom_obj_values" and value:
            raise Refused("the exported program holds objects of its own kind")
    constraints = graph.get("range_constraints") or {}
    if not isinstance(constraints, dict):
        raise TreadleError("the exported program's graph cannot be read")
    for symbol in constraints:
        if not _SYMBOL.fullmatch(symbol):
            raise Refused("the exported program has a shape that is no plain symbol")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth, without recursion."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _check_expression(text: Any) -> None:
    """A shape: symbols, numbers and known functions of them."""
    if not isinstance(text, str) or len(text) > 10_000:
        raise Refused("the exported program has a shape that is no expression")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused("the exported program has a shape that is no expression") from None
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name):
                fine = name in _FUNCTIONS or _SYMBOL.fullmatch(name) is not None
            case ast.Constant(value=value):
                fine = type(value) in (int, float, bool) or (
                    isinstance(value, str) and _SYMBOL.fullmatch(value) is not None
                )
            case ast.Call(func=ast.Name()):
                fine = True
            case (
                ast.Expression() | ast.keyword() | ast.BinOp() | ast.UnaryOp() | ast.Compare()
                | ast.Load() | ast.operator() | ast.unaryop() | ast.cmpop()
            ):  # fmt: skip
                fine = True
            case _:
                fine = False
        if not fine:
            raise Refused("the exported program has a shape that is more than arithmetic")


def _check_tree(text: Any) -> None:
    """The nesting of inputs and outputs: tuples, lists and dicts."""
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        protocol, tree = 0, None
    fine = protocol == 1
    for key, value in _walk(tree):
        fine = fine and (key != "type" or any(value == kind for kind in _TREES))
        fine = fine and (key != "context" or _plain_context(value))
    if not fine:
        raise Refused("the exported program takes or gives an object of its own kind")


def _plain_context(text: Any) -> bool:
    """Nothing, or the keys of a dict."""
    try:
        keys = [] if text is None else json.loads(text) or []
    except (ValueError, TypeError, RecursionError):
        return False
    return isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)


def _interface(graph: dict[str, Any]) -> tuple[str, tuple[int, ...], int]:
    """Type and shape of the one input, and the number of outputs."""
    try:
        signature = graph["graph_module"]["signature"]
        inputs = [i["user_input"]["arg"] for i in signature["input_specs"] if "user_input" in i]
        outputs = [o for o in signature["output_specs"] if "user_output" in o]
        if len(inputs) != 1 or "as_tensor" not in inputs[0]:
            raise TreadleError(
                f"the exported program takes {len(inputs)} inputs",
                hint="let forward take one tensor: a row for each case, a column for each feature",
            )
        meta = graph["graph_module"]["graph"]["tensor_values"][inputs[0]["as_tensor"]["name"]]
        shape = tuple(int(size["as_int"]) if "as_int" in size else -1 for size in meta["sizes"])
        return _DTYPES.get(meta["dtype"], "another type"), shape, len(outputs)
    except (KeyError, TypeError, ValueError, IndexError):
        raise TreadleError("the exported program's graph cannot be read") from None


def _forget(graph: dict[str, Any]) -> None:
    """Leave out what says nothing of the function: where it was traced, guards, extra notes."""
    graph["guards_code"] = []
    stack: list[Any] = [graph]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            # A node of the graph, or the graph itself; elsewhere it is some tensor's name.
            if ("target" in item or "graph" in item) and "metadata" in item:
                item["metadata"] = {}
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _text(value: Any) -> bytes:
    """JSON in the order that torch gave it: a graph's order has a meaning, keys keep theirs."""
    return json.dumps(value, separators=(",", ":")).encode()


def _write(records: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(records):
            entry = zipfile.ZipInfo(f"{_ROOT}/{name}", _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, records[name])
    return buffer.getvalue()
