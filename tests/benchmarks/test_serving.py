"""The benchmark of the server compares right answers only, within a round, and says what it left out."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from benchmarks.serving import inprocess, install, measure, servers, tables

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serving.py"
VENVS = Path.home() / ".cache" / "treadle-benchmarks" / "serving"


class Echo(http.server.BaseHTTPRequestHandler):
    """Predicts twice the sum of a row; ids count up, or are all the same."""

    protocol_version = "HTTP/1.1"
    offset, same, count = 0.0, False, 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {"predictions": [[2 * sum(row) + self.offset] for row in body["inputs"]]}
        type(self).count += 1
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-prediction-id", "one" if self.same else f"id-{self.count}")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    """Starts such a server: its port."""
    started = []

    def start(**how):
        handler = type("Handler", (Echo,), how)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server.server_address[1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def check(questions=5, **how):
    asked = [
        (servers.body("tensor", ["a", "b"], [[i, 1.5]]), [[2 * (i + 1.5)]])
        for i in range(questions)
    ]
    how = {"answer_key": "predictions", "identified": True} | how
    return measure.Check("/invocations", {}, asked, 1e-9, **how)


def test_right_answers_pass_and_the_worst_difference_is_told(echo):
    assert check().all(echo()) == 0
    assert check().all(echo(offset=5e-10)) == pytest.approx(5e-10)


def test_a_wrong_value_is_refused(echo):
    with pytest.raises(measure.Failed, match="wrong answer"):
        check().all(echo(offset=0.01))


def test_a_prediction_id_given_twice_is_refused(echo):
    with pytest.raises(measure.Failed, match="given twice"):
        check().all(echo(same=True))
    assert check(identified=False).all(echo(same=True)) == 0


def test_numbers_are_compared_in_order_and_by_count():
    assert measure.difference([{"0": 1.0, "1": 2.0}], [[1.0, 2.0]]) == 0
    assert measure.difference({"p": [[1.0], [2.0]]}, [[1.0], [2.5]]) == 0.5
    assert measure.difference([1.0], [[1.0, 2.0]]) == float("inf")
    assert measure.difference([float("nan")], [[1.0]]) == float("inf")
    assert measure.difference([], []) == float("inf")


def test_a_tree_of_processes_is_measured_frozen_and_ended(tmp_path):
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'while True: sum(range(10000))'])\n"
        "print('up', flush=True); child.wait()\n"
    )
    core = min(measure.os.sched_getaffinity(0))
    server = measure.Server(
        [sys.executable, "-c", program], tmp_path / "log.txt", core, dict(measure.os.environ)
    )
    try:
        wait(lambda: len(measure.tree(server.pid)) == 2)
        wait(lambda: measure.cpu_s(server.pid) > 0.1)
        rss, pss = measure.memory_mb(server.pid)
        assert 0 < pss <= rss
        server.freeze()
        wait(lambda: all(s[0] == "T" for s in measure.tree(server.pid).values()))
        before = measure.cpu_s(server.pid)
        measure.time.sleep(0.1)
        assert measure.cpu_s(server.pid) == before
        server.thaw()
        wait(lambda: measure.cpu_s(server.pid) > before)
    finally:
        server.end()
    assert measure.tree(server.pid) == {}


def wait(what, seconds=20):
    until = measure.time.monotonic() + seconds
    while not what():
        assert measure.time.monotonic() < until
        measure.time.sleep(0.01)


def test_every_form_of_a_body_carries_the_same_rows():
    rows = [[1.5, 2], [3, 4.25]]
    for form in {peer.form for peer in servers.SERVERS.values()}:
        text = servers.body(form, ["a", "b"], rows).decode()
        assert "[[1.5,2],[3,4.25]]" in text
        assert "\n" not in text


def test_every_peer_has_a_pinned_list_without_host_names():
    for name in {peer.venv for peer in servers.SERVERS.values() if peer.venv}:
        assert name in install.VENVS
        lines = (SCRIPT.parent / "serving" / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert pins
        assert all("==" in pin and "@" not in pin and "/" not in pin for pin in pins)


def test_percentiles_of_calls_come_in_milliseconds():
    found = inprocess.measure(lambda _: measure.time.sleep(0.002), [None], 0.05)
    assert 2 <= found["p50_ms"] <= found["p99_ms"]
    assert found["calls"] >= 1


def cell(*rates, p50=1.0, p99=2.0):
    return [
        {"rate": r, "p50_ms": p50, "p99_ms": p99, "cpu_us": 1e6 / r, "busy": 1.0} for r in rates
    ]


def run(**peers):
    every = {
        "nginx": {"title": "nginx", "cells": {"64": cell(1000, 2000), "1": cell(10, 10)}},
        "mlflow": {"title": "mlflow", "cells": {"64": cell(10, 10), "100": cell(5, 30)}},
        "bentoml": {"title": "BentoML", "cells": {"64": cell(10, 10), "100": cell(20, 10)}},
        **peers,
    }
    return {
        "cases": {
            "logreg": {
                "title": "Logistic regression (words)", "asked": 256, "peers": every,
                "inprocess": [{"p50_ms": 1.0, "p99_ms": 1.0}, {"p50_ms": 3.0, "p99_ms": 1.0}],
            }
        },
        "loads": [0.5, 1.0], "minutes": 2.0, "commit": "abc", "versions": {"ours": "treadle 1"},
        "machine": {"cores": "2", "processor": "x", "memory": "1 GiB", "system": "y", "python": "3"},
        "options": {"rounds": 2, "seconds": 1},
    }  # fmt: skip


OURS = {"title": "treadle", "ours": True, "starts": [2.0, 4.0, 3.5], "rss_mb": [129.0],
        "pss_mb": [100.0], "setting": "all on", "difference": 1e-16,
        "cells": {"64": cell(400, 600), "1": cell(5, 5, p50=3.0, p99=10.0),
                  "100": cell(200, 150)}}  # fmt: skip


def test_ratios_are_taken_within_a_round():
    found = {
        what: (values, bound) for what, _, values, bound, _ in tables.targets(run(treadle=OURS))
    }
    assert found["treadle, 64 connections / nginx"] == ([0.4, 0.3], 0.30)
    best = "treadle, 100 rows / best of MLflow, BentoML, LitServe, MLServer, KServe"
    assert found[best] == ([10.0, 5.0], 5)
    assert found["treadle, 1 connection: p50 / (nginx's + in-process)"] == ([1.5, 0.75], 1.6)
    assert found["treadle, first right answer, s"][0] == [2.0, 4.0, 3.5]


def test_a_missed_target_is_told_from_a_reached_one():
    lines = tables.target_table(run(treadle=OURS)).splitlines()
    told = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert told["treadle, 64 connections / nginx"].endswith("| 0.35 [0.30–0.40] | ≥ 0.3 | yes |")
    assert told["treadle, first right answer, s"].endswith("| 3.50 [2.00–4.00] | ≤ 3.0 | **no** |")
    assert told["treadle, PSS MB"].endswith("| 100 | ≤ 130 | yes |")


def test_a_yardstick_that_was_not_at_its_limit_is_named():
    assert "did not fill its core" not in tables.report(run(treadle=OURS))
    slow = cell(1000, 2000)
    for sample in slow:
        sample.update(busy=0.8, cpu_us=100)
    found = run(treadle=OURS, nginx={"title": "nginx", "cells": {"64": slow}})
    assert "nginx did not fill its core (80%" in tables.report(found)
    assert "By CPU per answer treadle is at 0.050 × nginx" in tables.report(found)


def test_what_was_left_out_is_named_with_its_reason(tmp_path):
    found = run(
        treadle=OURS,
        litserve={"title": "LitServe", "cells": {}, "error": "at the start: not installed"},
        compiled={"title": "compiled", "cells": {}, "ours": True, "skipped": "there is no option"},
    )
    (tmp_path / "run.json").write_text(json.dumps(found))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--table", tmp_path / "run.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == tables.report(found) + "\n"
    assert "- LitServe: at the start: not installed" in done.stdout
    assert "- compiled: there is no option" in done.stdout
    assert "| LitServe |" not in done.stdout


def test_unknown_models_and_servers_are_refused():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "logreg,resnet"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no resnet" in done.stderr


def test_a_server_that_is_not_installed_is_left_out_with_words(tmp_path):
    place = servers.Place({"native": "x"}, tmp_path, 1, tmp_path, {})
    with pytest.raises(measure.Failed, match="--install"):
        servers.SERVERS["litserve"].command(place)


@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path):
    """nginx and ours; the other peers would be installed from the network."""
    try:
        install.tools(VENVS)
        measure.cores()
    except measure.Failed as error:
        pytest.skip(str(error))
    out = tmp_path / "run.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--peers", "nginx,treadle,treadle-frame", "--venvs",
         VENVS, "--json", out],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    for case, name in (("logreg", "treadle"), ("flights", "treadle-frame"), ("onnx", "treadle")):
        peer = found["cases"][case]["peers"][name]
        assert peer["difference"] <= 1e-6
        assert peer["cells"]["64"][0]["requests"] > 0
    assert "### Targets" in done.stdout
