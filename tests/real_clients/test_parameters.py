"""Parameters of a request reach the model whole, and that request's rows alone.

MLServer #1541: parameters were truncated to the first request's when requests shared a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.real_clients import models
from tests.real_clients.conftest import HAS_GRPC, Client, Served, start
from tests.real_clients.exchange import packed, unpacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLflow's own kind of model, which runs code of the model's directory."""
    home: Path = tmp_path_factory.mktemp("scaled")
    served = start(models.scaled(home / "model"), home, "--trust-pickle", grpc=HAS_GRPC)
    yield served
    assert served.stop() == 0


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_every_request_of_a_batch_keeps_its_own(client: Client, scaled: Served, over: str) -> None:
    inputs = [np.full(1 + n % 3, n, dtype=np.float64) for n in range(60)]
    params = [{"factor": float(n % 4), "text": "long" * (n % 7)} for n in range(60)]
    port = scaled.port if over == "http" else scaled.grpc_port
    step = {"do": "many", "inputs": [packed(a) for a in inputs], "how_many_at_once": 30,
            "parameters": params}  # fmt: skip
    told = client("triton", over=over, port=port, steps=[step])[0]
    for answer, array, own in zip(told, inputs, params, strict=True):
        (output,) = answer["outputs"].values()
        wanted = array * own["factor"] + len(own["text"])
        assert unpacked(output).ravel().tolist() == wanted.tolist()


def test_mlflows_client_sends_them_too(client: Client, scaled: Served) -> None:
    params = {"factor": 2.5, "text": "日本 ✈" * 1000}
    told = client(
        "mlflow_client", port=scaled.port,
        steps=[{"do": "invoke", "columns": {"x": [1.0, 2.0]}, "dtypes": {}, "params": params}],
    )[0]  # fmt: skip
    (first,), (second,) = (row if isinstance(row, list) else [row] for row in told["rows"])
    first, second = (v["y"] if isinstance(v, dict) else v for v in (first, second))
    assert (first, second) == (2.5 + 4000, 5.0 + 4000)


def test_an_unknown_parameter_is_refused_in_words(client: Client, scaled: Served) -> None:
    step = {"do": "refused", "what": "infer", "inputs": {"x": packed(np.ones(1))},
            "parameters": {"faktor": 2.0}}  # fmt: skip
    told = client("triton", over="http", port=scaled.port, steps=[step])[0]
    assert told["status"] == "400" and "factor" in told["message"]
