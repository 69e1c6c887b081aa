"""What a model takes and gives: the signature of an MLmodel file, and columns made to fit it.

Types are MLflow's words: boolean, integer (32 bit), long (64 bit), float (32 bit), double, string,
binary, datetime; `any` for what we hand over as it came (arrays, objects, maps); or a tensor with a
numpy dtype and a shape. Conversion follows these rules, stricter than Python, never per cell:

- numbers fit numbers: integers go into floats, floats without a fraction into integers (JSON has one
  number type); booleans and texts are no numbers and numbers are no texts
- a missing value (None, NaN) in an integer column makes that column float64 with NaN: the model sees
  what it saw in training when pandas read such a column; in a boolean column it stays None
- integers outside the type's range are refused, not wrapped
- datetime takes ISO 8601 texts; with an offset they are converted to UTC
- binary takes base64 texts
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.base.errors import TreadleError

if TYPE_CHECKING:
    import pandas as pd

Values = Sequence[Any] | np.ndarray[Any, Any]

_INTEGERS: dict[str, type[np.signedinteger[Any]]] = {"integer": np.int32, "long": np.int64}
_FLOATS: dict[str, type[np.floating[Any]]] = {"float": np.float32, "double": np.float64}
_SCALARS = {"boolean", "integer", "long", "float", "double", "string", "binary", "datetime"}
_NONE = type(None)
_NUMBERS = frozenset((int, float, _NONE))


class WrongInput(TreadleError):
    """A request that the model cannot take: which field, what was expected and what came.

    The text never holds values of the request.
    """

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got


@dataclass(frozen=True)
class Field:
    """One input or output: a column, or a tensor with dtype and shape (-1: any length)."""

    name: str
    type: str
    required: bool = True
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def tensor(self) -> bool:
        """Whether it is a tensor and not a column."""
        return self.type == "tensor"


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model: a value of a type, or a list of such (shape [-1])."""

    name: str
    type: str
    default: Any = None
    listed: bool = False

    def fit(self, value: Any) -> Any:
        """The value in this parameter's type. Raises WrongInput."""
        if value is None and self.default is None:
            return None
        if not self.listed:
            return self._one(value)
        if not isinstance(value, list | tuple):
            raise WrongInput(f"params.{self.name}", f"a list, each a {self.type}", _word(value))
        return [self._one(item) for item in value]

    def _one(self, value: Any) -> Any:
        where = f"params.{self.name}"
        kind = type(value)
        if self.type in _FLOATS and kind in (int, float):
            try:
                return float(value)
            except OverflowError:
                raise WrongInput(where, f"a {self.type}", "an integer beyond its range") from None
        if self.type in _INTEGERS and (kind is int or (kind is float and value.is_integer())):
            info = np.iinfo(_INTEGERS[self.type])
            if not info.min <= value <= info.max:
                raise WrongInput(where, f"a {self.type}", "a number beyond its range")
            return int(value)
        if self.type == "boolean" and kind is bool:
            return value
        if self.type in ("string", "datetime") and kind is str:
            return value
        if self.type not in _SCALARS:
            return value
        fraction = kind is float and self.type in _INTEGERS
        raise WrongInput(
            where, f"a {self.type}", "a number with a fraction" if fraction else _word(value)
        )


def params_key(params: Mapping[str, Any]) -> str:
    """Equal texts, equal parameters (1, 1.0 and True are three)."""
    return repr(sorted(params.items()))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in order; empty inputs: the model takes whatever comes."""

    inputs: tuple[Field, ...] = ()
    outputs: tuple[Field, ...] = ()
    params: tuple[str, ...] = ()
    """Names of the parameters that a request may set."""
    parameters: tuple[Parameter, ...] = ()
    """The same with their types and defaults, where the model says them."""

    def check_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The given parameters in their types; those not given are the model's to fill in.

        Raises WrongInput.
        """
        if params and not self.params:
            raise WrongInput("params", "none (this model takes no parameters)", "parameters")
        if any(name not in self.params for name in params):
            raise WrongInput("params", f"some of {', '.join(self.params)}", "another parameter")
        known = {parameter.name: parameter for parameter in self.parameters}
        return {
            name: known[name].fit(value) if name in known else value
            for name, value in params.items()
        }

    @property
    def tensors(self) -> bool:
        """Whether the model takes tensors and not columns."""
        return any(field.tensor for field in self.inputs)

    @property
    def width(self) -> int:
        """How many columns rows by position have; 0 where that is not known."""
        if not self.tensors:
            return len(self.inputs)
        shape = self.inputs[0].shape or ()
        return shape[1] if len(self.inputs) == 1 and len(shape) == 2 and shape[1] > 0 else 0

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the input columns, in the model's order."""
        return tuple(field.name for field in self.inputs)


def read(section: Mapping[str, Any] | None) -> Signature:
    """The signature from the `signature:` of an MLmodel file (its parts are JSON texts)."""
    if not section:
        return Signature()
    return Signature(
        _fields(section.get("inputs"), "input"),
        _fields(section.get("outputs"), "output"),
        tuple(str(item["name"]) for item in _parsed(section.get("params")) or ()),
        tuple(map(_parameter, _parsed(section.get("params")) or ())),
    )


def _parameter(item: Mapping[str, Any]) -> Parameter:
    kind = str(item.get("dtype") or item.get("type") or "any")
    shape = item.get("shape")
    known = kind if kind in _SCALARS and (shape is None or len(shape) == 1) else "any"
    return Parameter(str(item["name"]), known, item.get("default"), shape is not None)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _fields(text: Any, word: str) -> tuple[Field, ...]:
    items = _parsed(text) or ()
    fields = []
    for number, item in enumerate(items):
        name = str(item.get("name") or (word if len(items) == 1 else f"{word}_{number}"))
        kind = str(item["type"])
        if kind == "tensor":
            spec = item["tensor-spec"]
            shape = tuple(int(n) for n in spec["shape"])
            fields.append(Field(name, "tensor", item.get("required", True), spec["dtype"], shape))
        else:
            known = kind if kind in _SCALARS else "any"
            fields.append(Field(name, known, item.get("required", True)))
    return tuple(fields)


CHANGED_BY_MISSING = frozenset(("boolean", "integer", "long"))
"""Types whose column is of another type where a value is missing."""


def any_missing(values: Values) -> bool:
    """Whether a column has a None or a NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values.dtype.kind == "f" and bool(np.isnan(values).any())
    found = set(map(type, values))
    if _NONE in found:
        return True
    return not found <= {bool, int, str} and any(value != value for value in values)  # noqa: PLR0124


def check(name: str, kind: str, value: Any, row: int) -> None:
    """Raise WrongInput if a value's type does not fit a column's type (`convert` sees the value)."""
    if kind in _FLOATS or kind in _INTEGERS:
        fits = type(value) in _NUMBERS or isinstance(value, np.integer | np.floating)
    elif kind == "string":
        fits = value is None or isinstance(value, str)
    elif kind == "boolean":
        fits = value is None or isinstance(value, bool | np.bool_)
    else:
        return
    if not fits:
        raise WrongInput(f"{name}, row {row}", f"a {kind}", _word(value))


def convert(name: str, kind: str, values: Values) -> Any:
    """A column as numpy array (or, for texts, a pandas array) of the signature's type.

    Raises WrongInput naming the first row that does not fit.
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        return _convert_array(name, kind, values)
    values = values if isinstance(values, list) else list(values)
    if kind in _FLOATS:
        _only(name, kind, values, {int, float, _NONE})
        try:
            with np.errstate(over="ignore"):
                return np.array(values, dtype=_FLOATS[kind])
        except OverflowError:
            raise _beyond(name, kind, values) from None
    if kind in _INTEGERS:
        found = _only(name, kind, values, {int, float, _NONE})
        return _integers(name, kind, values, found)
    if kind == "string":
        _only(name, kind, values, {str, _NONE}, np.str_)
        return _texts(values)
    if kind == "boolean":
        found = _only(name, kind, values, {bool, _NONE}, np.bool_)
        return np.array(values, dtype=object if _NONE in found else bool)
    if kind == "datetime":
        return _times(name, values)
    if kind == "binary":
        return _binary(name, values)
    return _objects(values)


def convert_plain(name: str, kind: str, values: Values) -> Any:
    """The same for engines that take no frame: texts as an array of objects, without pandas."""
    if kind != "string" or (isinstance(values, np.ndarray) and values.dtype != object):
        return convert(name, kind, values)
    values = values if isinstance(values, list) else list(values)
    _only(name, kind, values, {str, _NONE}, np.str_)
    return np.array(values, dtype=object)


def frame(columns: Mapping[str, Any], signature: Signature) -> pd.DataFrame:
    """The DataFrame that columns made by `convert_plain` would have been by `convert`."""
    import pandas as pd

    texts = {field.name for field in signature.inputs if field.type == "string"}
    return pd.DataFrame(
        {n: _texts(list(column)) if n in texts else column for n, column in columns.items()},
        copy=False,
    )


def _only(
    name: str, kind: str, values: list[Any], allowed: set[type], also: type | None = None
) -> set[type]:
    """The types of the values, if they are allowed; numpy's own scalars count as Python's."""
    found = set(map(type, values))
    if found <= allowed:
        return found
    for row, value in enumerate(values):
        if type(value) in allowed or (also is not None and isinstance(value, also)):
            continue
        if float in allowed and isinstance(value, np.integer | np.floating):
            continue
        raise WrongInput(f"{name}, row {row}", f"a {kind}", _word(value))
    return {float, _NONE} if float in allowed else allowed


def _word(value: Any) -> str:
    """The kind of a value, in JSON's words, without the value."""
    if isinstance(value, bool | np.bool_):
        return "a boolean"
    if isinstance(value, int | float | np.number):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _integers(name: str, kind: str, values: list[Any], found: set[type]) -> Any:
    target = _INTEGERS[kind]
    if found <= {int}:
        try:
            whole = np.array(values, dtype=np.int64)
        except OverflowError:
            raise _beyond(name, kind, values) from None
        return _in_range(name, kind, whole)
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        raise _beyond(name, kind, values) from None
    missing = np.isnan(numbers)
    fraction = ~missing & (numbers != np.floor(numbers))  # infinities pass here, not the range
    if fraction.any():
        row = int(fraction.argmax())
        raise WrongInput(f"{name}, row {row}", f"a {kind}", "a number with a fraction")
    low = float(np.iinfo(target).min)
    outside = ~missing & ((numbers < low) | (numbers >= -low))  # the maximum is -low - 1
    if outside.any():
        raise WrongInput(
            f"{name}, row {int(outside.argmax())}", f"a {kind}", "a number beyond its range"
        )
    if missing.any():
        return numbers
    # Not through float64: an int64 above 2^53 beside a 1.0 keeps all its digits.
    return np.array([int(value) for value in values], dtype=np.int64).astype(target)


def _beyond(name: str, kind: str, values: list[Any]) -> WrongInput:
    """The error that names the first integer which is too long for its column."""
    most = 2**63 if kind in _INTEGERS else 2**1024 - 2**970  # where a double would round up
    whole = ((row, value) for row, value in enumerate(values) if isinstance(value, int))
    row = next((row for row, value in whole if value >= most or value < -most), None)
    where = name if row is None else f"{name}, row {row}"
    return WrongInput(where, f"a {kind}", "an integer beyond its range")


def _in_range(name: str, kind: str, whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    info = np.iinfo(_INTEGERS[kind])
    outside = (whole < info.min) | (whole > info.max)
    if outside.any():
        raise WrongInput(
            f"{name}, row {int(outside.argmax())}", f"a {kind}", "an integer beyond its range"
        )
    return whole.astype(_INTEGERS[kind])


def _texts(values: list[Any]) -> Any:
    import pandas as pd

    if int(pd.__version__.split(".")[0]) >= 3:
        return pd.array(values, dtype="str")
    return _objects(values)


def _objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # element by element: numpy would unpack lists
        column[row] = value
    return column


def _times(name: str, values: list[Any]) -> Any:
    import datetime as dt

    import pandas as pd

    for row, value in enumerate(values):
        if not isinstance(value, str | dt.date | np.datetime64 | _NONE | pd.Timestamp):
            raise WrongInput(f"{name}, row {row}", "a datetime (ISO 8601 text)", _word(value))
    try:
        times = pd.to_datetime(pd.Series(values, dtype=object), utc=True, format="ISO8601")
        return times.dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    except (ValueError, TypeError, OverflowError):
        raise WrongInput(name, "datetimes (ISO 8601 texts)", "a text that is none") from None


def _binary(name: str, values: list[Any]) -> np.ndarray[Any, Any]:
    decoded: list[Any] = []
    for row, value in enumerate(values):
        if value is None or isinstance(value, bytes):
            decoded.append(value)
            continue
        try:
            decoded.append(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise WrongInput(f"{name}, row {row}", "base64", _word(value)) from None
    return _objects(decoded)


def _convert_array(name: str, kind: str, values: np.ndarray[Any, Any]) -> Any:
    """A typed array (a tensor of the Open Inference protocol, a frame's column)."""
    code = values.dtype.kind
    if kind in _FLOATS and code in "iuf":
        with np.errstate(over="ignore"):
            return values.astype(_FLOATS[kind], copy=False)
    if kind in _INTEGERS and code == "i":
        return _in_range(name, kind, values)
    if kind in _INTEGERS and code in "uf":
        return _integers(name, kind, values.tolist(), {float})
    if kind == "boolean" and code == "b":
        return values
    if kind == "datetime" and code == "M":
        return values.astype("datetime64[ns]")
    if kind == "string" and code in "UT":
        return _texts(values.tolist())
    if kind == "any":
        return values
    return convert(name, kind, values.tolist())


def frame_columns(frame: pd.DataFrame) -> dict[str, Values]:
    """A frame's columns as values that `convert` takes (extension types as objects, None missing).

    Nullable integers, categories, time zones and strings arrive here as the test and batch scoring
    read them from Parquet.
    """
    import pandas as pd

    columns: dict[str, Values] = {}
    for position, name in enumerate(frame.columns):
        series = frame.iloc[:, position]
        if isinstance(series.dtype, pd.DatetimeTZDtype):
            columns[str(name)] = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        elif isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufM":
            columns[str(name)] = series.to_numpy()
        else:
            missing = series.isna().to_numpy()
            values = series.astype(object).tolist()
            columns[str(name)] = (
                [None if gone else value for value, gone in zip(values, missing, strict=True)]
                if missing.any()
                else values
            )
    return columns
