"""MLflow's scoring client, and what it makes of frames, against a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.real_clients import models
from tests.real_clients.conftest import Client, Served

pytestmark = pytest.mark.slow


def ask(client: Client, served: Served, *steps: dict[str, Any]) -> list[Any]:
    return client("mlflow_client", port=served.port, steps=list(steps))


def sent(frame: Any, **dtypes: str) -> dict[str, Any]:
    """A frame for a program: values as JSON has them, and the types to give back to the columns."""
    kinds = {
        name: str(kind) for name, kind in frame.dtypes.items() if str(kind) != "object"
    } | dtypes
    kinds = {name: "object" if kind == "str" else kind for name, kind in kinds.items()}
    return {
        "columns": frame.astype(object).where(frame.notna(), None).to_dict(orient="list"),
        "dtypes": kinds,
    }


def test_ping_and_version(client: Client, columns: Served) -> None:
    assert "version" in ask(client, columns, {"do": "ping"})[0]


def test_frames_are_answered_as_the_model_itself_does(
    client: Client, columns: Served, pipeline: Any
) -> None:
    frame = models.frame(60, seed=2)
    wanted = pipeline.predict_proba(frame).tolist()
    invoked, made, texts = ask(
        client, columns,
        {"do": "invoke", **sent(frame)}, {"do": "converted", **sent(frame)},
        {"do": "csv", **sent(frame)},
    )  # fmt: skip
    assert invoked["rows"] == wanted
    assert (invoked["type"], invoked["shape"]) == ("PredictionsResponse", [60, 2])
    assert (made["status"], made["rows"]) == (200, wanted)
    assert "dataframe_split" in made["body"]
    assert texts == wanted  # mlflow #5525: CSV was not answered as JSON was


def test_nullable_integers_are_integers_with_gaps(
    client: Client, columns: Served, pipeline: Any
) -> None:
    """mlflow #25593 and #5207: a nullable column was refused, or the signature dropped."""
    frame = models.frame(20, seed=3)
    wanted_frame = frame.astype({"day": "float64"})
    wanted_frame.loc[3, "day"] = np.nan
    with_gap = frame.astype({"day": "Int32", "distance": "Int64"})
    with_gap.loc[3, "day"] = None
    told = ask(
        client, columns,
        {"do": "invoke", **sent(with_gap, day="Int32", distance="Int64")},
        {"do": "csv", **sent(with_gap, day="Int32", distance="Int64")},
    )  # fmt: skip
    wanted = pipeline.predict_proba(wanted_frame).tolist()
    assert told[0]["rows"] == wanted and told[1] == wanted


def test_float32_tensors_stay_float32(client: Client, linear: Served) -> None:
    """mlflow #1286: a float32 was answered as the 17 digits of its double, or computed as one."""
    x = np.array([[0.1, 16777217.0, 1e-30]], dtype=np.float32)
    rows = ask(client, linear, {"do": "tensor", "values": x.tolist(), "dtype": "float32"})[0]
    assert np.array(rows[0]["double"], dtype=np.float32).tolist() == (x + x)[0].tolist()
    assert rows[0]["double"][0] == 0.2


def test_nan_goes_there_and_comes_back_as_null(client: Client, linear: Served) -> None:
    told = ask(
        client, linear, {"do": "tensor", "values": [[float("nan"), 1, 2]], "dtype": "float32"}
    )
    assert told[0][0]["double"] == [None, 2.0, 4.0]


def test_a_wrong_frame_is_told_what_was_expected(client: Client, columns: Served) -> None:
    frame = models.frame(2).astype({"day": object})
    frame["day"] = ["s3cret", "s3cret"]
    told = ask(client, columns, {"do": "refused", **sent(frame)})[0]
    assert "day, row 0" in told and "s3cret" not in told
