"""The asking client against a real server."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from treadle.base.errors import Unreachable, UsageError
from treadle.deploy import client


def test_a_question_has_predictions_and_ids(roll_out: Callable[..., Any]) -> None:
    address = roll_out(5, "two").address
    frame = pd.DataFrame({"z": [1, 2], "x": [0.5, np.nan], "key": ["a", None]})
    with client.Client(address) as service:
        answers = [
            service.ask(frame),
            service.ask(frame.to_dict("list")),
            service.ask([{"x": 0, "z": 1}, {"x": 0, "z": 2}], request_id="me"),
        ]
        assert service.version()["release"] == "5"
        with pytest.raises(UsageError, match="x: expected a column of this name"):
            service.ask({"z": [1]})
        assert service.ask(frame).predictions[0] == 1.0  # the connection goes on
    for answer in answers:
        assert answer.predictions[0] == 1.0 and answer.version == "5"
        assert answer.ids == [f"{answer.id}.0", f"{answer.id}.1"]
    assert answers[0].predictions[1] is None  # 0 * NaN


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="nobody answers at http://127.0.0.1:9"):
        client.ask("http://127.0.0.1:9", {"x": [1]})
    with pytest.raises(UsageError, match="is no address"):
        client.ask("localhost", {"x": [1]})


def test_values_are_sent_as_json_has_them() -> None:
    sent = client.body(
        {
            "a": [pd.Timestamp("2013-01-01T06:00"), pd.NaT, dt.date(2013, 1, 1)],
            "b": [np.int64(2**62), np.float32(0.5), float("nan")],
            "c": [pd.NA, True, [np.int8(1)]],
        }
    )
    assert json.loads(sent)["dataframe_split"]["data"] == [
        ["2013-01-01T06:00:00", 2**62, None],
        [None, 0.5, True],
        ["2013-01-01", None, [1]],
    ]
    for wrong in ({"a": [float("inf")]}, {"a": [object()]}, "text"):
        with pytest.raises(UsageError):
            client.body(wrong)
