"""MLflow's scoring client and its conversion of inputs: what they see of a server, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.models import convert_input_example_to_serving_input
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

sys.path.insert(0, str(Path(__file__).parents[1]))
from exchange import answer

address = ""
client: Any = None


def frame(columns: dict[str, Any], dtypes: dict[str, str]) -> Any:
    made = pd.DataFrame(columns)
    for name, dtype in dtypes.items():
        made[name] = made[name].astype(dtype)
    return made


def predicted(response: Any) -> Any:
    return json.loads(response.to_json())["predictions"]


def ping() -> Any:
    client.ping()
    return {"version": client.get_version()}


def invoke(columns: dict[str, Any], dtypes: dict[str, str], params: Any = None) -> Any:
    """A frame, as the client itself sends it; the answer as its own classes read it."""
    response = client.invoke(frame(columns, dtypes), params=params)
    predictions = response.get_predictions()
    return {"rows": predicted(response), "shape": list(predictions.shape),
            "type": type(response).__name__, "columns": [str(c) for c in predictions.columns]}  # fmt: skip


def tensor(values: Any, dtype: str) -> Any:
    return predicted(client.invoke(np.array(values, dtype=dtype)))


def converted(columns: dict[str, Any], dtypes: dict[str, str]) -> Any:
    """What `mlflow.models` makes of an input example, posted as it is."""
    body = convert_input_example_to_serving_input(frame(columns, dtypes))
    told = requests.post(f"{address}/invocations", data=body,
                           headers={"Content-Type": "application/json"}, timeout=60)  # fmt: skip
    return {"body": json.loads(body), "status": told.status_code,
            "rows": predicted(PredictionsResponse.from_json(told.text))}  # fmt: skip


def csv(columns: dict[str, Any], dtypes: dict[str, str]) -> Any:
    body = frame(columns, dtypes).to_csv(index=False)
    told = requests.post(f"{address}/invocations", data=body.encode(),
                           headers={"Content-Type": "text/csv"}, timeout=60)  # fmt: skip
    return predicted(PredictionsResponse.from_json(told.text))


def refused(columns: dict[str, Any], dtypes: dict[str, str]) -> Any:
    try:
        client.invoke(frame(columns, dtypes))
    except Exception as error:
        return str(error)
    return None


def work(given: dict[str, Any]) -> list[Any]:
    global address, client  # what the steps of one line share
    address = f"http://127.0.0.1:{given['port']}"
    client = ScoringServerClient("127.0.0.1", given["port"])
    does = {"ping": ping, "invoke": invoke, "tensor": tensor, "converted": converted, "csv": csv,
            "refused": refused}  # fmt: skip
    return [does[step.pop("do")](**step) for step in given["steps"]]


answer(work)
