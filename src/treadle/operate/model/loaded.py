"""A model that answers: what comes is checked, put together, predicted by the model's own library.

`admit` and `assemble` (see assemble.py) make the input, `answer` calls the library, `predict` does
all three for a caller in the process. Answers are those of the directory's own pyfunc, `predict_fn`
included; load.py says how a directory is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.base.errors import TreadleError
from treadle.operate.model.assemble import Admitted, Assembler, Prepared, query_of
from treadle.operate.model.engine import Call
from treadle.operate.model.folder import input_example, read_mlmodel, verify
from treadle.operate.model.load import open_folder
from treadle.operate.model.signature import Signature, Values
from treadle.operate.query import Query

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

__all__ = [
    "Admitted",
    "LoadedModel",
    "Prepared",
    "input_example",
    "load",
    "query_of",
    "read_mlmodel",
    "verify",
]


@dataclass
class LoadedModel:
    """A model that answers. One call at a time; `admit` may run beside it."""

    folder: Path
    flavor: str
    signature: Signature
    function: str
    """`predict`, `predict_proba` …: the pyfunc's `predict_fn`."""
    call: Call
    """The library's own function: data and params → whatever the library returns."""
    native: Any
    """The library's model object, or the pyfunc."""
    content: str = ""
    """Digest of the directory, where the files were verified."""
    matrix: np.dtype[Any] | None = None
    columns: bool = False
    """In which form `call` wants named columns: see `engine.Engine`."""
    assembler: Assembler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.assembler = Assembler(self.signature, self.matrix, self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the input columns in the model's order; empty without a signature."""
        return self.signature.features

    def predict(self, data: pd.DataFrame | Array | Mapping[str, Values]) -> Array:
        """Predictions, one row (or one value) a row, of a frame, a matrix or columns by name.

        Columns are put in order and converted to the signature's types (see `signature`); unknown
        columns are ignored. Of a model with several outputs it is the one that `predict_fn` asks
        for, else the first. Raises WrongInput.
        """
        outputs = self.answer(self.prepare(query_of(data)))
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        wanted = "prob" if "proba" in self.function else ""
        return next(
            (v for name, v in outputs.items() if wanted in name), next(iter(outputs.values()))
        )

    def predict_frame(self, frame: pd.DataFrame) -> Array:
        """The same as `predict`, by the name that the gates use."""
        return self.predict(frame)

    def admit(self, query: Query) -> Admitted:
        """Check a query's names, widths and types, and say whom it may share a call with.

        Raises WrongInput.
        """
        return self.assembler.admit(query)

    def plain(self, admitted: Admitted) -> bool:
        """Whether the rows of others are read the same beside these."""
        return self.assembler.plain(admitted)

    def assemble(self, admitted: Sequence[Admitted]) -> Prepared:
        """One input for queries of one key, in order.

        Raises WrongInput; where several were given, it does not say which is to blame: each alone
        then raises its own, or does not.
        """
        return self.assembler.assemble(admitted)

    def prepare(self, query: Query) -> Prepared:
        """Check one query and make the model's input of it. Raises WrongInput."""
        return self.assemble([self.admit(query)])

    def answer(self, prepared: Prepared) -> dict[str, Array]:
        """Call the model: output name → array with one row a row. No call for 0 rows."""
        if prepared.rows == 0:
            several = [field.name for field in self.signature.outputs[1:]]
            names = [self.signature.outputs[0].name, *several] if several else [self._output_name()]
            return {name: np.empty(0) for name in names}  # the names that rows would have
        raw = self.call(prepared.data, prepared.params)
        outputs = _outputs(raw, self._output_name())
        for name, values in outputs.items():
            if values.shape[:1] != (prepared.rows,):
                raise TreadleError(
                    f"the model gave {values.shape[0] if values.ndim else 'one value'} for "
                    f"{name} where {prepared.rows} rows were asked"
                )
        return outputs

    def _output_name(self) -> str:
        outputs = self.signature.outputs
        named = len(outputs) == 1 and outputs[0].name != "output"
        return outputs[0].name if named else self.function


def load(
    folder: Path,
    *,
    files: Mapping[str, str] | None = None,
    trust_pickle: bool = False,
    compiled: bool = False,
) -> LoadedModel:
    """Load a model directory.

    `compiled`: answer by its compiled form, if one was accepted (the server does; the gates judge
    the original).

    `files` (relative path → digest) is compared with what lies there: a file that differs, is
    missing or is too many raises StateCorrupt before anything of the model is read. Formats that
    can run code when loaded (pickle, cloudpickle, joblib, pyfunc code) raise Refused unless
    `trust_pickle`; skops types are held against our own allow-list. MissingExtra names the library
    that the model needs.
    """
    folder = Path(folder)
    opened = open_folder(folder, files=files, trust_pickle=trust_pickle, compiled=compiled)
    engine = opened.engine
    return LoadedModel(
        folder, opened.flavor, opened.signature, opened.function, engine.call, engine.native,
        opened.content, engine.matrix, engine.columns,
    )  # fmt: skip


def _outputs(raw: Any, name: str) -> dict[str, Array]:
    """Whatever a library returns, as named arrays."""
    if isinstance(raw, Mapping):
        return {str(key): _array(value) for key, value in raw.items()}
    if hasattr(raw, "columns") and hasattr(raw, "to_numpy"):  # a DataFrame
        return {str(column): raw[column].to_numpy() for column in raw.columns}
    if isinstance(raw, list) and len(raw) > 1 and all(isinstance(v, np.ndarray) for v in raw):
        return {f"{name}_{number}": value for number, value in enumerate(raw)}  # several targets
    if hasattr(raw, "toarray"):  # a sparse matrix
        raw = raw.toarray()
    return {name: _array(raw)}


def _array(value: Any) -> Array:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        # skl2onnx's ZipMap: one dict of class → probability a row.
        keys = sorted(value[0])
        return np.array([[row[key] for key in keys] for row in value])
    return np.asarray(value)
