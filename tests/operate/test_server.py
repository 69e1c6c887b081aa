"""A real server, asked over HTTP: protocols, headers, errors, limits, capture, metrics."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.base import segments

ROW = {"carrier": "UA", "day": 1, "distance": 500, "temp": None, "rain": True}
JSON = {"Content-Type": "application/json"}


class Served:
    def __init__(self, process: subprocess.Popen[bytes], port: int, capture: Path) -> None:
        self.process, self.port, self.capture = process, port, capture

    def __call__(self, method: str, path: str, body: Any = None, headers: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers if headers is not None else JSON)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text, answer.headers


@pytest.fixture(scope="module")
def served(sklearn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    capture = tmp_path_factory.mktemp("served") / "capture"
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "treadle.operate",
            "serve",
            str(sklearn_folder),
            "--port",
            "0",
            "--release",
            "7",
            "--instance",
            "abc",
            "--capture",
            str(capture),
            "--max-body",
            "100000",
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "TREADLE_NAME": "demo", "TREADLE_PORT": "1"},
    )
    assert process.stderr
    port = None
    for line in process.stderr:
        if found := re.search(rb"serves on http://127.0.0.1:(\d+)", line):
            port = int(found[1])
            break
    assert port
    yield Served(process, port, capture)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_health_version_and_metadata(served: Served) -> None:
    assert [served("GET", path)[:2] for path in ("/ping", "/health")] == [(200, b"\n")] * 2
    told = json.loads(served("GET", "/version")[1])
    assert (told["release"], told["instance"], told["flavor"]) == ("7", "abc", "sklearn")
    assert json.loads(served("GET", "/v2/health/live")[1]) == {"live": True}
    assert json.loads(served("GET", "/v2/health/ready")[1]) == {"live": True, "ready": True}
    for path in ("/v2/models/demo/ready", "/v2/models/demo/versions/7/ready"):
        assert json.loads(served("GET", path)[1]) == {"name": "demo", "ready": True}
    about = json.loads(served("GET", "/v2/models/demo")[1])
    assert about["versions"] == ["7"] and about["inputs"][1] == {
        "name": "day",
        "datatype": "INT32",
        "shape": [-1],
    }
    assert about["outputs"] == [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]}]
    assert served("HEAD", "/ping")[:2] == (200, b"")


def test_a_prediction_has_its_id_in_both_protocols(served: Served) -> None:
    status, text, headers = served(
        "POST",
        "/invocations",
        {"dataframe_records": [ROW, ROW]},
        {**JSON, "X-Request-Id": "mine-1"},
    )
    predictions = json.loads(text)["predictions"]
    assert status == 200 and len(predictions) == 2 and len(predictions[0]) == 2
    assert re.fullmatch(r"local\.7\.abc\.[0-9A-HJKMNP-TV-Z]{26}", headers["X-Prediction-Id"])
    assert (headers["X-Request-Id"], headers["X-Model-Version"]) == ("mine-1", "7")
    kinds = {
        "carrier": "BYTES",
        "day": "INT32",
        "distance": "INT64",
        "temp": "FP64",
        "rain": "BOOL",
    }
    inputs = [{"name": n, "datatype": k, "shape": [1], "data": [ROW[n]]} for n, k in kinds.items()]
    for path in ("/v2/models/demo/infer", "/v2/models/demo/versions/7/infer"):
        status, text, headers = served(
            "POST", path, {"inputs": inputs, "outputs": [{"name": "predict_proba"}]}
        )
        answer = json.loads(text)
        assert status == 200 and answer["outputs"][0]["data"] == predictions[0]
        assert answer["id"] == headers["X-Prediction-Id"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{", JSON, 400, "JSON"),
        ({"inputs": {"day": [1]}}, JSON, 400, "carrier, distance, temp, rain: expected"),
        (
            {"dataframe_records": [{**ROW, "day": "s3cret"}]},
            JSON,
            400,
            "day, row 0: expected a integer, got a text",
        ),
        ({"dataframe_records": [ROW]}, {}, 400, "Content-Type"),
        ({"dataframe_records": [ROW]}, {"Content-Type": "text/html"}, 415, "application/json"),
        ({"dataframe_records": [ROW], "params": {"a": 1}}, JSON, 400, "params"),
        (b" " * 100_001, JSON, 413, "larger than 100000 bytes"),
    ],
)
def test_a_wrong_request_is_told_what_was_expected(
    served: Served, body: Any, headers: Any, status: int, words: str
) -> None:
    got, text, _ = served("POST", "/invocations", body, headers)
    told = json.loads(text)
    assert got == status and words in told["message"] and "s3cret" not in text.decode()
    assert told.keys() == {"error_code", "message"}


def test_errors_of_the_open_inference_protocol_have_its_shape(served: Served) -> None:
    for path, body, status in [
        ("/v2/models/demo/infer", {"inputs": []}, 400),
        ("/v2/models/other/infer", {}, 404),
        ("/v2/models/demo/versions/8/infer", {}, 404),
        ("/nothing", {}, 404),
    ]:
        got, text, _ = served("POST", path, body)
        assert got == status and list(json.loads(text)) == ["error"]
    status, _, headers = served("GET", "/invocations")
    assert (status, headers["Allow"]) == (405, "POST")
    assert served("POST", "/ping", {})[0] == 405
    got, text, _ = served(
        "POST", "/v2/models/demo/infer", b"x", {"Inference-Header-Content-Length": "1"}
    )
    assert got == 400 and list(json.loads(text)) == ["error"] and b"JSON" in text


def test_chunked_bodies_beyond_the_limit_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            connection.sendall(b"c350\r\n" + b" " * 50_000 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_requests_are_captured_with_what_came_along(served: Served) -> None:
    row = {**ROW, "flight": 15, "sched_dep": "2013-05-01T06:00:00"}
    _, text, headers = served("POST", "/invocations", {"dataframe_records": [row]})
    time.sleep(0.5)  # the open segment is readable at the latest 0.2 s after the answer
    found = {c.record.id: c.record for c in segments.read_segments(served.capture)}
    record = found[headers["X-Prediction-Id"]]
    assert (record.rows, record.release) == (1, 7)
    assert record.extra == {"flight": [15], "sched_dep": ["2013-05-01T06:00:00"]}
    assert (
        record.inputs["carrier"] == ["UA"] and record.inputs["temp"][0] != record.inputs["temp"][0]
    )
    expected = json.loads(text)["predictions"][0]
    assert record.outputs == {"prediction_0": [expected[0]], "prediction_1": [expected[1]]}
    served.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 5
    while list(served.capture.glob("*.open")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(served.capture.glob("*.open"))


def test_metrics_count_rows_and_say_what_is_served(served: Served) -> None:
    text = served("GET", "/metrics")[1].decode()
    assert re.search(r"^treadle_predictions_total [1-9]", text, re.MULTILINE)
    assert re.search(r'^treadle_model_info\{.*release="7".*\} 1.0$', text, re.MULTILINE)
    assert re.search(r"^treadle_prediction_duration_seconds_count [1-9]", text, re.MULTILINE)
    assert re.search(
        r'^treadle_capture_dropped_requests_total\{reason="queue"\} 0.0$', text, re.MULTILINE
    )


def test_pipelined_and_many_simultaneous_requests_get_their_own_answers(served: Served) -> None:
    body = [
        json.dumps({"dataframe_records": [{**ROW, "distance": d}] * n}).encode()
        for n, d in enumerate([100, 1600, 2900], start=1)
    ]
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(
            b"".join(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(b), b)
                for b in body
            )
        )
        reader = connection.makefile("rb")
        lengths = []
        for _ in body:
            head = b"".join(iter(reader.readline, b"\r\n"))
            size = int(re.search(rb"content-length: (\d+)", head)[1])
            lengths.append(len(json.loads(reader.read(size))["predictions"]))
    assert lengths == [1, 2, 3]


def test_mlflows_own_client_reads_the_answers(served: Served) -> None:
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", served.port)
    client.ping()
    frame = client.invoke(pd.DataFrame([ROW, ROW])).get_predictions()
    assert frame.shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/nowhere"], 2, "no MLmodel file"),
        ([], 2, "which model?"),
        ([], 3, "TREADLE_PORT: 'soon' is not what it should be"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments: list[str], code: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "treadle.operate", "serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TREADLE_PORT": "soon" if code == 3 else "0"},
    )
    code = 2 if code == 3 else code
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
