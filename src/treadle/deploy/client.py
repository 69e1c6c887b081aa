"""Ask a running service: what `treadle predict` does. Standard library only."""

from __future__ import annotations

import http.client
import json
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from treadle.base.errors import TreadleError, Unreachable, UsageError


@dataclass(frozen=True)
class Asked:
    """An answer of the service."""

    predictions: list[Any]
    """One entry a row: a value, a list of values, or an object of them."""
    id: str
    version: str
    """The release that answered."""

    @property
    def ids(self) -> list[str]:
        """The prediction id of each row."""
        return [f"{self.id}.{row}" for row in range(len(self.predictions))]


class Client:
    """A connection that is kept between questions. Not thread-safe."""

    def __init__(self, address: str, *, timeout_s: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{address!r} is no address such as http://127.0.0.1:8080")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, rows: Any, *, request_id: str | None = None) -> Asked:
        """Predictions for a DataFrame, a list of records or a mapping of columns.

        Times are sent as ISO 8601, NaN and missing values as null. Raises UsageError with the
        service's own words where it refuses the input, Unreachable where nobody answers, and
        TreadleError where the model failed. A question is asked once and never repeated.
        """
        headers = {"Content-Type": "application/json"}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        status, text, told = self._exchange("POST", "/invocations", body(rows), headers)
        return answered(status, text, told, self._address)

    def version(self) -> dict[str, Any]:
        """What the service says of itself: environment, release, instance, model, run."""
        status, text, _ = self._exchange("GET", "/version", None, {})
        if status != 200:
            raise Unreachable(f"{self._address} answered {status}")
        told: dict[str, Any] = json.loads(text)
        return told

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Any]:
        connection = self._connection
        try:
            connection.request(method, path, data, dict(headers))
            answer = connection.getresponse()
            text = answer.read()  # the library closes the connection where the server said so
            return answer.status, text, answer.headers
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(
                f"nobody answers at {self._address}: {why}", hint="treadle status"
            ) from None


def answered(status: int, text: bytes, told: Mapping[str, str], address: str) -> Asked:
    """What the service said to a question; raises as `Client.ask` does."""
    if status == 200:
        return Asked(
            json.loads(text)["predictions"], told.get("X-Prediction-Id", ""),
            told.get("X-Model-Version", ""),
        )  # fmt: skip
    try:
        words = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        words = f"{address} answered {status}"
    if status in (400, 413, 415):
        raise UsageError(f"the service refuses the input: {words}")
    if status == 503:
        raise Unreachable(f"the service at {address} is busy: {words}")
    raise TreadleError(words, hint="treadle logs")


def ask(address: str, rows: Any, *, timeout_s: float = 60.0) -> Asked:
    """One question on a connection of its own; see `Client.ask`."""
    with Client(address, timeout_s=timeout_s) as client:
        return client.ask(rows)


def body(rows: Any) -> bytes:
    """The body of a question."""
    if hasattr(rows, "columns") and hasattr(rows, "to_json"):  # a pandas DataFrame
        columns = {str(name): rows[name].astype(object).tolist() for name in rows.columns}
    elif isinstance(rows, Mapping):
        columns = {str(name): list(values) for name, values in rows.items()}
    elif isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    else:
        raise UsageError("rows are a DataFrame, a list of records or a mapping of columns")
    data = list(zip(*([_sendable(v) for v in column] for column in columns.values()), strict=True))
    document = {"dataframe_split": {"columns": list(columns), "data": data}}
    return json.dumps(document, allow_nan=False, ensure_ascii=False).encode()


def _sendable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise UsageError("an infinity cannot be sent as JSON")
        return float(value)
    if hasattr(value, "isoformat"):
        text = value.isoformat()
        return None if text == "NaT" else text
    if hasattr(value, "item"):
        return _sendable(value.item())
    if isinstance(value, list | tuple):
        return [_sendable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _sendable(item) for key, item in value.items()}
    if type(value).__name__ == "NAType":
        return None
    raise UsageError(f"a {type(value).__name__} cannot be sent as JSON")
