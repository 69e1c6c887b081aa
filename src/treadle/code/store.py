"""Results by type: saved in open formats that give back an equal value, and equal bytes for it.

| value | format |
|---|---|
| pandas and polars frames and series, pyarrow tables | Parquet (zstd) |
| NumPy arrays and scalars (no objects) | npy |
| None, bool, int, float, str, list, tuple, set, dict, dates, paths, NumPy values in these | JSON |
| bytes | as they are |
| a list of paths | the files' contents and their names |
| scikit-learn estimators (skops), XGBoost, LightGBM, ONNX, PyTorch (exported) | a small model directory |
| anything else | pickle, where treadle.yaml says `trust: pickle`; else an error |

A frame that Parquet would give back changed (mixed objects in a column) is an error, not a surprise.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from treadle.base.digest import digest_file
from treadle.base.errors import PipelineError, Refused, StateCorrupt, TreadleError
from treadle.base.records import Result
from treadle.clients.objects import Objects

_META = b"treadle"
"""Key of our own entry in a Parquet file's metadata."""


class NotStorable(PipelineError):
    """A value that no safe format holds; the message names the result and its type."""


def save(name: str, value: object, objects: Objects, trust_pickle: bool = False) -> Result:
    """Store a value. Raises NotStorable where no format holds it without loss."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    library = type(value).__module__.partition(".")[0]
    try:
        if value is None or isinstance(value, _PLAIN):
            return _save_plain(name, value, objects)
        if library == "pandas":
            return _blob(name, "parquet", _pandas_bytes(name, value), objects, kind)
        if library == "polars":
            return _blob(name, "parquet", _polars_bytes(name, value), objects, kind)
        if library == "pyarrow":
            return _blob(name, "parquet", _arrow_bytes(name, value), objects, kind)
        if library == "numpy":
            return _blob(name, "npy", _numpy_bytes(name, value), objects, kind)
        writer = _model_writer(value)
        if writer is not None:
            return _save_model(name, writer, objects, kind)
        raise _unknown(name, value)
    except NotStorable:
        if not trust_pickle:
            raise
    return _blob(name, "pickle", _pickle_bytes(name, value), objects, kind)


def load(result: Result, objects: Objects, *, trust_pickle: bool = False) -> Any:
    """The value of a stored result, equal to the one that was saved and independent of it.

    Raises StateCorrupt where the blob is not what its digest says; Refused for a pickle that the
    project does not trust (any more).
    """
    if result.format == "model":
        return _load_model(result, objects)
    if result.format == "pickle" and not trust_pickle:
        raise Refused(
            f"result {result.name} is a pickle, and treadle.yaml does not say `trust: pickle`",
            hint="loading a pickle can run any code",
        )
    data = objects.read(result.content)
    if result.format == "parquet":
        return _load_parquet(result, data)
    if result.format == "npy":
        return _load_numpy(result, data)
    if result.format == "json":
        return decode(json.loads(data))
    if result.format == "bytes":
        return bytearray(data) if result.type == "builtins.bytearray" else data
    if result.format == "paths":
        return _load_paths(json.loads(data), objects)
    return pickle.loads(data)


def _blob(name: str, format_: Any, data: bytes, objects: Objects, kind: str) -> Result:
    return Result(name, format_, objects.put_bytes(data), len(data), kind)


def _unknown(name: str, value: object, more: str = "") -> NotStorable:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return NotStorable(
        f"result {name} is a {kind}{more}, for which there is no safe format",
        hint="return a frame, an array, plain values, paths or a fitted model; or set "
        "`trust: pickle` in treadle.yaml, which stores anything and can run code when it is loaded",
    )


def _pickle_bytes(name: str, value: object) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:
        raise NotStorable(
            f"result {name} cannot be stored, not even by pickle: {error}",
            hint="return a value that can be written down: no open file, lambda or connection",
        ) from error


# ---- plain values --------------------------------------------------------------------------------

_PLAIN = (bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset, datetime.date,
          datetime.timedelta, datetime.time, Path)  # fmt: skip


def _save_plain(name: str, value: Any, objects: Objects) -> Result:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if type(value) in (bytes, bytearray):
        return _blob(name, "bytes", bytes(value), objects, kind)
    if isinstance(value, Path) or (
        type(value) is list and value and all(isinstance(item, Path) for item in value)
    ):
        return _save_paths(name, value, objects)
    try:
        data = json.dumps(encode(value), separators=(",", ":"), allow_nan=False)
    except _NotPlain as error:
        raise _unknown(name, value, f" holding a {error}" if str(error) else "") from None
    except RecursionError:
        raise _unknown(name, value, " that holds itself or is nested very deep") from None
    return _blob(name, "json", data.encode("utf-8", "surrogatepass"), objects, kind)


class _NotPlain(Exception):
    """A value inside a plain one that JSON cannot hold."""


def encode(value: Any) -> Any:
    """A plain value in JSON's own types, with tags where JSON lacks the type; see `decode`."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"$dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if kind is tuple:
        return {"$tuple": [encode(item) for item in value]}
    if kind in (set, frozenset):
        items = sorted(
            (encode(item) for item in value), key=lambda i: json.dumps(i, sort_keys=True)
        )
        return {f"${kind.__name__}": items}
    if kind in (bytes, bytearray):
        return {f"${kind.__name__}": base64.b64encode(value).decode()}
    if kind in (datetime.datetime, datetime.date, datetime.time):
        if getattr(value, "tzinfo", None) is not None and value.tzinfo is not datetime.UTC:
            raise _NotPlain("datetime in a time zone other than UTC")
        return {
            f"${kind.__name__}": value.isoformat(),
            **({"fold": 1} if getattr(value, "fold", 0) else {}),
        }
    if kind is datetime.timedelta:
        return {"$timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, Path):
        return {"$path": str(value)}
    if kind.__module__ == "numpy":
        import numpy as np

        if isinstance(value, np.generic | np.ndarray) and not value.dtype.hasobject:
            buffer = io.BytesIO()
            np.save(buffer, value, allow_pickle=False)
            tag = "$array" if kind is np.ndarray else "$scalar"
            if tag == "$array" or isinstance(value, np.generic):
                return {tag: base64.b64encode(buffer.getvalue()).decode()}
    raise _NotPlain(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: decode(item) for key, item in value.items()}
    return _DECODERS[tag](value[tag], value)


def _decode_array(text: str) -> Any:
    import numpy as np

    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)


_DECODERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "$float": lambda item, _: float(item),
    "$dict": lambda item, _: {decode(key): decode(value) for key, value in item},
    "$tuple": lambda item, _: tuple(decode(i) for i in item),
    "$set": lambda item, _: {decode(i) for i in item},
    "$frozenset": lambda item, _: frozenset(decode(i) for i in item),
    "$bytes": lambda item, _: base64.b64decode(item),
    "$bytearray": lambda item, _: bytearray(base64.b64decode(item)),
    "$datetime": lambda item, tags: _folded(datetime.datetime.fromisoformat(item), tags),
    "$date": lambda item, _: datetime.date.fromisoformat(item),
    "$time": lambda item, tags: _folded(datetime.time.fromisoformat(item), tags),
    "$timedelta": lambda item, _: datetime.timedelta(*item),
    "$path": lambda item, _: Path(item),
    "$array": lambda item, _: _decode_array(item),
    "$scalar": lambda item, _: _decode_array(item)[()],
}


def _folded(value: Any, tags: dict[str, Any]) -> Any:
    return value.replace(fold=1) if tags.get("fold") else value


# ---- paths ---------------------------------------------------------------------------------------


def _save_paths(name: str, value: Path | list[Path], objects: Objects) -> Result:
    single = isinstance(value, Path)
    entries = []
    size = 0
    for path in [value] if isinstance(value, Path) else value:
        if not path.is_file():
            raise PipelineError(
                f"result {name} names {path}, which is no file",
                hint="a step that returns paths writes the files first; folders are listed file by "
                "file",
            )
        content, length = objects.put_file(path)
        size += length
        entries.append([str(path), content])
    data = json.dumps({"single": single, "files": entries}, separators=(",", ":")).encode()
    return Result(
        name, "paths", objects.put_bytes(data), size, "pathlib.Path" if single else "list"
    )


def _load_paths(stored: dict[str, Any], objects: Objects) -> Any:
    """The paths; a file that is gone is written again, one that was changed is given as a copy."""
    paths = []
    for text, content in stored["files"]:
        path = Path(text)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _restore(objects, content, path)
        elif digest_file(path) != content:
            path = Path(tempfile.mkdtemp(prefix="treadle-"), path.name)
            _restore(objects, content, path)
        paths.append(path)
    return paths[0] if stored["single"] else paths


def _restore(objects: Objects, content: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.treadle")
    temporary.write_bytes(objects.read(content))
    os.replace(temporary, path)


# ---- frames --------------------------------------------------------------------------------------


def _write_table(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1, store_schema=True)
    return buffer.getvalue()


def _pandas_bytes(name: str, value: Any) -> bytes:
    import pandas as pd
    import pyarrow as pa

    series = isinstance(value, pd.Series)
    if series:
        frame = value.to_frame(name="value")
    elif isinstance(value, pd.DataFrame):
        frame = value
    else:
        raise _unknown(name, value)
    if type(value) not in (pd.Series, pd.DataFrame):
        raise _unknown(name, value, " (a subclass)")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise _unknown(name, value, f" with two columns named {twice!r}")
    if not isinstance(frame.columns, pd.MultiIndex) and not all(
        type(column) is str for column in frame.columns
    ):
        columns: Any = [encode_column(name, value, column) for column in frame.columns]
        frame = frame.set_axis([f"c{i}" for i in range(len(columns))], axis=1)
    else:
        columns = None
    if isinstance(frame.columns, pd.MultiIndex):
        raise _unknown(name, value, " with a column index of several levels")
    try:
        # Without a column, a range index that is only noted would lose the number of rows.
        table = pa.Table.from_pandas(frame, preserve_index=None if len(frame.columns) else True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise _unknown(name, value, f" with mixed values in a column ({error})") from error
    objects_columns = [c for c in frame.columns if frame[c].dtype == object]
    for column in objects_columns:
        _check_objects(name, value, frame[column], table.column(column))
    facts = {
        "categories": {
            column: _categories(name, value, frame[column])
            for column in frame.columns
            if isinstance(frame[column].dtype, pd.CategoricalDtype)
        },
        "series": series,
        "name": encode_column(name, value, value.name) if series else None,
        "columns": columns,
        "column_name": encode_column(name, value, value.columns.name) if not series else None,
        "index_range": None if len(frame.columns) else _range(frame.index),
        "columns_range": None if series else _range(value.columns),
        "columns_dtype": None if series else str(value.columns.dtype),
        "objects": objects_columns,
        "freq": getattr(getattr(frame.index, "freq", None), "freqstr", None),
    }
    meta = {**(table.schema.metadata or {}), _META: json.dumps(facts).encode()}
    table = table.replace_schema_metadata(meta)
    empty = _to_pandas(table.slice(0, 0))
    like = empty.to_frame("value") if series else empty
    original = value.to_frame("value") if series else value
    changed = [
        str(column)
        for column, before, after in zip(
            original.columns, original.dtypes, like.dtypes, strict=True
        )
        if before != after
    ]
    index = original.index
    levels = index.levels if isinstance(index, pd.MultiIndex) else [index]
    odd = any(isinstance(level.dtype, pd.CategoricalDtype) for level in levels)
    if changed or odd or index.dtype != like.index.dtype:
        what = f"column {changed[0]}" if changed else "the index"
        raise _unknown(name, value, f" whose {what} has a type that Parquet does not keep")
    return _write_table(table)


def _range(columns: Any) -> list[int] | None:
    import pandas as pd

    if isinstance(columns, pd.RangeIndex):
        return [columns.start, columns.stop, columns.step]
    return None


def encode_column(name: str, value: Any, column: Any) -> Any:
    """A column's name that is no text (a number, a date, a tuple) as JSON."""
    try:
        return encode(column)
    except _NotPlain:
        raise _unknown(name, value, f" with a column named {column!r}") from None


def _categories(name: str, value: Any, column: Any) -> dict[str, Any]:
    """Categories with those that do not occur, which Parquet may forget."""
    index = column.cat.categories
    try:
        values = encode(index.tolist())
    except _NotPlain as error:
        raise _unknown(
            name, value, f" whose column {column.name} has {error} as categories"
        ) from None
    return {"values": values, "dtype": str(index.dtype), "ordered": bool(column.cat.ordered)}


def _check_objects(name: str, value: Any, column: Any, stored: Any) -> None:
    """Objects of one type, with None for what is missing, come back equal; others may not."""
    for before, after in zip(column.to_numpy(), stored.to_pylist(), strict=True):
        if before is not after and not (type(before) is type(after) and before == after):
            raise _unknown(
                name, value,
                f" whose column {column.name} mixes {type(before).__name__} with other values",
            )  # fmt: skip


def _to_pandas(table: Any) -> Any:
    import numpy as np
    import pandas as pd

    facts = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
    frame = table.to_pandas()
    for column in facts.get("objects", ()):
        values = np.empty(table.num_rows, dtype=object)
        values[:] = table.column(column).to_pylist()
        frame[column] = pd.Series(values, index=frame.index, dtype=object)
    for column, known in facts.get("categories", {}).items():
        values = pd.Index(decode(known["values"]), dtype=known["dtype"])
        dtype = pd.CategoricalDtype(values, ordered=known["ordered"])
        frame[column] = frame[column].astype(dtype)
    if facts.get("index_range"):
        start, stop, step = facts["index_range"]
        frame.index = pd.RangeIndex(start, stop, step, name=frame.index.name)
    if facts.get("freq") and len(frame):
        frame.index.freq = facts["freq"]
    if facts.get("series"):
        series = frame["value"]
        series.name = decode(facts["name"])
        return series
    if facts.get("columns_range"):
        frame.columns = pd.RangeIndex(*facts["columns_range"])
    elif facts.get("columns") is not None:
        frame.columns = pd.Index([decode(c) for c in facts["columns"]])
    if facts.get("columns_dtype") and str(frame.columns.dtype) != facts["columns_dtype"]:
        frame.columns = frame.columns.astype(facts["columns_dtype"])
    frame.columns.name = decode(facts.get("column_name"))
    return frame


def _polars_bytes(name: str, value: Any) -> bytes:
    import polars as pl

    if isinstance(value, pl.LazyFrame):
        raise NotStorable(f"result {name} is a polars LazyFrame", hint="return it with .collect()")
    series = isinstance(value, pl.Series)
    if series:
        frame = value.to_frame()
    elif isinstance(value, pl.DataFrame):
        frame = value
    else:
        raise _unknown(name, value)
    buffer = io.BytesIO()
    try:
        frame.write_parquet(buffer, compression="zstd", compression_level=1)
    except Exception as error:
        raise _unknown(name, value, f" ({error})") from error
    data = buffer.getvalue()
    stored = pl.read_parquet_schema(io.BytesIO(data))
    for column, dtype in frame.schema.items():
        if stored[column] != dtype:
            raise _unknown(
                name, value, f" whose column {column} is a {dtype}, which Parquet does not keep"
            )
    return data


def _arrow_bytes(name: str, value: Any) -> bytes:
    import pyarrow as pa

    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if not isinstance(value, pa.Table):
        raise _unknown(name, value)
    return _write_table(value.combine_chunks())


def _load_parquet(result: Result, data: bytes) -> Any:
    if result.type.startswith("polars."):
        import polars as pl

        frame = pl.read_parquet(io.BytesIO(data))
        return frame.to_series() if result.type.endswith("Series") else frame
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    if result.type.startswith("pyarrow."):
        if result.type.endswith("RecordBatch"):
            batches = table.combine_chunks().to_batches()
            return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        return table
    return _to_pandas(table)


# ---- arrays --------------------------------------------------------------------------------------


def _numpy_bytes(name: str, value: Any) -> bytes:
    import numpy as np

    if type(value) is not np.ndarray and not isinstance(value, np.generic):
        raise _unknown(name, value)
    if value.dtype.hasobject:
        raise _unknown(name, value, " of objects")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _load_numpy(result: Result, data: bytes) -> Any:
    import numpy as np

    array = np.load(io.BytesIO(data), allow_pickle=False)
    return array if result.type == "numpy.ndarray" else array[()]


# ---- models --------------------------------------------------------------------------------------

_MODEL_FILE = "treadle.json"


def _model_writer(value: Any) -> Callable[[Path], dict[str, Any]] | None:
    """What writes a fitted model into a folder, or None where no safe format is known."""
    modules = {cls.__module__.partition(".")[0] for cls in type(value).__mro__}
    kind = type(value).__qualname__
    if "xgboost" in modules and (kind == "Booster" or kind.startswith("XGB")):
        return lambda folder: _write_xgboost(value, folder)
    if type(value).__module__.partition(".")[0] == "lightgbm" and kind == "Booster":
        return lambda folder: _write_lightgbm(value, folder)
    if type(value).__module__.startswith("onnx") and kind == "ModelProto":
        return lambda folder: _write_onnx(value, folder)
    if "sklearn" in modules:
        return lambda folder: _write_sklearn(value, folder)
    if "torch" in modules and _is_torch(value):
        return lambda folder: _write_torch(value, folder)
    return None


def _save_model(
    name: str, writer: Callable[[Path], dict[str, Any]], objects: Objects, kind: str
) -> Result:
    with tempfile.TemporaryDirectory(prefix="treadle-") as temporary:
        folder = Path(temporary)
        try:
            facts = writer(folder)
        except NotStorable as error:
            raise NotStorable(f"result {name}: {error.message}", hint=error.hint) from error
        facts["type"] = kind
        (folder / _MODEL_FILE).write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
        content, _ = objects.put_tree(folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
    return Result(name, "model", content, size, kind)


def _load_model(result: Result, objects: Objects) -> Any:
    with tempfile.TemporaryDirectory(prefix="treadle-") as temporary:
        folder = objects.tree(result.content, Path(temporary, "model"))
        try:
            facts = json.loads((folder / _MODEL_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StateCorrupt(f"result {result.name} is no model directory: {error}") from error
        readers = {
            "sklearn": _read_sklearn,
            "xgboost": _read_xgboost,
            "lightgbm": _read_lightgbm,
            "onnx": _read_onnx,
            "pytorch": _read_torch,
        }
        try:
            return readers[facts["flavor"]](folder, facts)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _write_sklearn(value: Any, folder: Path) -> dict[str, Any]:
    from treadle.clients import skops_file

    try:
        data = skops_file.dumps(value)
        refused = skops_file.untrusted_types(data)
    except TreadleError as error:
        raise NotStorable(error.message, hint=error.hint) from error
    if refused:
        raise NotStorable(
            f"this model holds {', '.join(refused)}, which is not scikit-learn's own",
            hint="`trust: pickle` in treadle.yaml stores models of your own types by pickle",
        )
    (folder / "model.skops").write_bytes(data)
    return {"flavor": "sklearn"}


def _read_sklearn(folder: Path, _: dict[str, Any]) -> Any:
    from treadle.clients import skops_file

    return skops_file.load(folder / "model.skops")


def _write_xgboost(value: Any, folder: Path) -> dict[str, Any]:
    value.save_model(os.fspath(folder / "model.ubj"))
    parameters = {}
    if hasattr(value, "get_params"):
        parameters = {k: v for k, v in value.get_params().items() if v is not None}
        try:
            parameters = encode(parameters)
        except _NotPlain as error:
            raise NotStorable(f"a parameter of this model is a {error}") from None
    return {"flavor": "xgboost", "class": type(value).__qualname__, "parameters": parameters}


def _read_xgboost(folder: Path, facts: dict[str, Any]) -> Any:
    import xgboost

    if facts["class"] == "Booster":
        model = xgboost.Booster()
    else:
        model = getattr(xgboost, facts["class"])(**decode(facts["parameters"]))
    model.load_model(os.fspath(folder / "model.ubj"))
    return model


def _write_lightgbm(value: Any, folder: Path) -> dict[str, Any]:
    (folder / "model.txt").write_text(value.model_to_string(num_iteration=-1), encoding="utf-8")
    return {"flavor": "lightgbm"}


def _read_lightgbm(folder: Path, _: dict[str, Any]) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=(folder / "model.txt").read_text(encoding="utf-8"))


def _write_onnx(value: Any, folder: Path) -> dict[str, Any]:
    (folder / "model.onnx").write_bytes(value.SerializeToString(deterministic=True))
    return {"flavor": "onnx"}


def _read_onnx(folder: Path, _: dict[str, Any]) -> Any:
    import onnx

    return onnx.load_model_from_string((folder / "model.onnx").read_bytes())


def _is_torch(value: Any) -> bool:
    from treadle.clients import torch_file

    return torch_file.is_torch(value)


def _write_torch(value: Any, folder: Path) -> dict[str, Any]:
    from treadle.clients import torch_file

    try:
        program = torch_file.dumps(value)
    except TreadleError as error:
        raise NotStorable(error.message, hint=error.hint) from error
    (folder / "model.pt2").write_bytes(program.data)
    return {"flavor": "pytorch"}


def _read_torch(folder: Path, _: dict[str, Any]) -> Any:
    """The function that the module was: a module of its graph, not of the project's class."""
    from treadle.clients import torch_file

    return torch_file.loads((folder / "model.pt2").read_bytes())
