"""Programs that people point at a server: Prometheus, curl, schemathesis."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real_clients import open_inference
from tests.real_clients.conftest import VENV, Client, Serve, Served, free_port

pytestmark = pytest.mark.slow
Tool = Callable[..., str]
BODY = json.dumps({"inputs": [[1.0, 2.0, 3.0]]})


def post(address: str, body: str = BODY) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


# ---- Prometheus ----------------------------------------------------------------------------------


@pytest.fixture
def pair(serve: Serve, folders: dict[str, Path]) -> Served:
    """A server of two workers, either of which may be the one that is scraped."""
    return serve(folders["linear"], "--workers", "2")


@pytest.fixture
def prometheus(tool: Tool, pair: Served, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that scrapes the server every second, asked with its own query language."""
    program, port = tool("prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": "treadle", "static_configs": [{"targets": [f"127.0.0.1:{pair.port}"]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    process = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(text: str) -> Any:
        """The answer's series; [] as long as Prometheus is not up or has not scraped."""
        asked = urllib.parse.urlencode({"query": text})
        try:
            url = f"http://127.0.0.1:{port}/api/v1/query?{asked}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    yield query
    process.terminate()
    process.wait(timeout=30)


def test_prometheus_scrapes_and_knows_our_counters_of_all_workers(
    prometheus: Callable[[str], Any], pair: Served
) -> None:
    def value(query: str) -> float:
        series = prometheus(query)
        return float(series[0]["value"][1]) if series else -1

    rows = 'treadle_predictions_total{job="treadle"}'
    until = time.monotonic() + 60
    while (before := value(rows)) < 0 and time.monotonic() < until:
        time.sleep(0.3)
    assert value('up{job="treadle"}') == 1
    for _ in range(17):  # a connection each: some come to one worker, some to the other
        post(pair.address)
    while value(rows) != before + 17 and time.monotonic() < until:
        time.sleep(0.3)
    assert value(rows) == before + 17
    for name in (
        'treadle_requests_total{path="/invocations",status="200"}',
        "treadle_prediction_duration_seconds_count",
        "treadle_model_info",
        "process_resident_memory_bytes",
    ):
        assert value(name) > 0, name
    assert value("histogram_quantile(0.5, treadle_prediction_duration_seconds_bucket)") > 0
    # Series of another type or without help are told in the metadata of what is scraped.
    assert prometheus("count({__name__=~'treadle_.+'})")


def test_promtool_finds_nothing_to_say_about_the_metrics(tool: Tool, linear: Served) -> None:
    post(linear.address)
    with urllib.request.urlopen(f"{linear.address}/metrics", timeout=30) as answer:
        text = answer.read()
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# ---- curl ----------------------------------------------------------------------------------------


def curl(tool: Tool, *arguments: str) -> str:
    done = subprocess.run(
        [tool("curl"), "--silent", "--show-error", "--fail-with-body", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_curl_uses_one_connection_for_all_its_requests(tool: Tool, linear: Served) -> None:
    asked: list[str] = []
    for number in range(20):
        asked += ["--next"] if number else []
        asked += [f"{linear.address}/invocations", "--json", BODY, "--output", "/dev/null"]
        asked += ["--write-out", "%{http_code} %{num_connects} %{http_version}\n"]
    lines = curl(tool, *asked).splitlines()
    assert lines == ["200 1 1.1", *["200 0 1.1"] * 19]


def test_curl_sends_what_curl_sends(tool: Tool, linear: Served, tmp_path: Path) -> None:
    """Form-encoded by default, a chunked body, HTTP/1.0, `Expect: 100-continue`, HEAD."""
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"inputs": [[1.0, 2.0, 3.0]] * 100_000}))
    as_json = ("--header", "Content-Type: application/json")
    url = f"{linear.address}/invocations"
    for more in (
        ("--http1.0",),
        ("--header", "Transfer-Encoding: chunked"),
        ("--header", "Expect: 100-continue"),
    ):
        answer = curl(tool, url, "--data-binary", f"@{large}", *as_json, *more)
        assert len(json.loads(answer)["predictions"]) == 100_000
    assert "200 OK" in curl(tool, "--head", f"{linear.address}/ping")
    told = subprocess.run(
        [tool("curl"), "-s", "-w", "%{http_code}", url, "--data", BODY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.endswith("415") and "application/json" in told.stdout


# ---- schemathesis --------------------------------------------------------------------------------

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection"
)


def schemathesis(client: Client, tool: Tool, served: Served, document: str, tmp_path: Path) -> None:
    """Every operation with generated right and wrong requests; answers as the description says."""
    done = subprocess.run(
        [
            str(VENV / "bin" / "schemathesis"),
            "run",
            document,
            f"--url={served.address}",
            f"--checks={CHECKS}",
            "--max-examples=60",
            "--seed=1",
            "--workers=1",
            "--no-color",
            "--request-timeout=20",
            "--phases=examples,coverage,fuzzing",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_schemathesis_on_the_served_description(
    client: Client, tool: Tool, linear: Served, tmp_path: Path
) -> None:
    schemathesis(client, tool, linear, f"{linear.address}/openapi.json", tmp_path)


def test_schemathesis_on_the_served_description_of_columns(
    client: Client, tool: Tool, columns: Served, tmp_path: Path
) -> None:
    schemathesis(client, tool, columns, f"{columns.address}/openapi.json", tmp_path)


def test_schemathesis_on_the_open_inference_protocol(
    client: Client, tool: Tool, linear: Served, tmp_path: Path
) -> None:
    document = tmp_path / "open_inference.json"
    document.write_text(json.dumps(open_inference.document("demo", "7")))
    schemathesis(client, tool, linear, str(document), tmp_path)
