"""/metrics: text that Prometheus reads, all workers added up, totals that never go down."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from treadle.operate import counters, metrics
from treadle.operate.counters import Shared
from treadle.operate.metrics import Metrics


def samples(*of: Metrics) -> dict[tuple[str, ...], float]:
    """Name and label values → value, as prometheus-client reads them."""
    found = {}
    for family in text_string_to_metric_families(of[0].render().decode()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return found


def test_every_family_is_read_by_prometheus_with_its_kind_and_its_words() -> None:
    kinds = {f.name: f.type for f in text_string_to_metric_families(Metrics().render().decode())}
    assert kinds["treadle_prediction_duration_seconds"] == "histogram"
    assert kinds["treadle_batch_rows"] == kinds["treadle_batch_requests"] == "histogram"
    assert kinds["treadle_requests"] == kinds["treadle_predictions"] == "counter"
    assert kinds["treadle_stage_seconds"] == "summary"
    assert kinds["treadle_queued_requests"] == kinds["treadle_build_info"] == "gauge"


def test_what_is_counted_is_told() -> None:
    one = Metrics()
    one.request("/invocations", 200)
    one.request("/invocations", 200)
    one.request("/nowhere", 418)
    one.batch(2, 7, 0.25, (0.0005, 0.3))
    one.parse(0.5)
    one.encode(0.125)
    one.shed("deadline")
    one.shed("a reason of tomorrow")
    one.queue(3, 40)
    one.capture(5, {"disk": 2, "a reason of tomorrow": 1})
    found = samples(one)
    assert found["treadle_requests_total", "/invocations", "200"] == 2
    assert found["treadle_requests_total", "other", "other"] == 1
    assert found["treadle_predictions_total",] == 7
    assert found["treadle_prediction_duration_seconds_bucket", "0.0005"] == 1
    assert found["treadle_prediction_duration_seconds_bucket", "0.2"] == 1
    assert found["treadle_prediction_duration_seconds_bucket", "0.3"] == 2
    assert found["treadle_prediction_duration_seconds_sum",] == pytest.approx(0.3005)
    assert found["treadle_batch_requests_bucket", "1.0"] == 0
    assert found["treadle_batch_requests_bucket", "2.0"] == 1
    assert found["treadle_batch_requests_sum",] == 2
    assert found["treadle_batch_rows_sum",] == 7
    assert found["treadle_stage_seconds_sum", "parse"] == 0.5
    assert found["treadle_stage_seconds_sum", "predict"] == 0.25
    assert found["treadle_stage_seconds_sum", "encode"] == 0.125
    assert found["treadle_stage_seconds_count", "predict"] == 1
    assert found["treadle_shed_requests_total", "deadline"] == 1
    assert found["treadle_shed_requests_total", "other"] == 1
    assert (found["treadle_queued_requests",], found["treadle_queued_rows",]) == (3, 40)
    assert found["treadle_captured_requests_total",] == 5
    assert found["treadle_capture_dropped_requests_total", "disk"] == 2
    assert found["treadle_capture_dropped_requests_total", "other"] == 1
    assert found["process_cpu_seconds_total",] > 0
    assert found["process_resident_memory_bytes",] > 1 << 20


@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(1, 2000), st.integers(0, 10**7))
@settings(max_examples=50)
def test_a_histogram_counts_every_value_once_below_its_bounds(
    seconds: list[float], requests: int, rows: int
) -> None:
    one = Metrics()
    one.batch(requests, rows, 0.1, seconds)
    found = samples(one)
    for bound in metrics.SECONDS:
        name = ("treadle_prediction_duration_seconds_bucket", str(float(bound)))
        assert found[name] == sum(value <= bound for value in seconds)
    assert found["treadle_prediction_duration_seconds_bucket", "+Inf"] == len(seconds)
    assert found["treadle_prediction_duration_seconds_count",] == len(seconds)
    assert math.isclose(found["treadle_prediction_duration_seconds_sum",], sum(seconds))
    assert found["treadle_batch_rows_count",] == 1
    at = bisect_left(metrics.ROWS, rows)
    if at < len(metrics.ROWS):
        assert found["treadle_batch_rows_bucket", str(float(metrics.ROWS[at]))] == 1
    if at:
        assert found["treadle_batch_rows_bucket", str(float(metrics.ROWS[at - 1]))] == 0


@given(st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True), st.text(max_size=20)))
def test_labels_of_any_text_come_back_as_they_were(info: dict[str, str]) -> None:
    one = Metrics()
    one.describe(info)
    families = {f.name: f for f in text_string_to_metric_families(one.render().decode())}
    told = families.get("treadle_model_info")
    assert (told.samples[0].labels if told else {}) == info


def test_workers_are_added_up_by_whichever_is_asked() -> None:
    shared = Shared.create(4)
    shared.header[counters.USED] = 3
    workers = [Metrics(shared, slot) for slot in range(3)]
    for number, worker in enumerate(workers):
        for _ in range(number + 1):
            worker.request("/ping", 200)
        worker.queue(number, 10 * number)
    for worker in workers:
        worker.beat()
    told = [samples(worker) for worker in workers]
    for found in told:
        assert found["treadle_requests_total", "/ping", "200"] == 6
        assert found["treadle_queued_rows",] == 30
        assert {k[1] for k in found if k[0] == "treadle_worker_cpu_seconds_total"} == set("012")


def test_a_worker_that_takes_over_a_row_goes_on_from_there() -> None:
    shared = Shared.create(2)
    shared.header[counters.USED] = 1
    first = Metrics(shared, 0)
    first.request("/ping", 200)
    first.queue(9, 9)
    first.capture(4, {"disk": 1})
    before = samples(first)
    shared.clear(0)
    assert shared.row(0)[counters.QUEUED_REQUESTS] == shared.row(0)[counters.PID] == 0
    second = Metrics(shared, 0)
    second.request("/ping", 200)
    second.capture(2, {"disk": 1})
    found = samples(second)
    assert found["treadle_requests_total", "/ping", "200"] == 2
    assert found["treadle_captured_requests_total",] == 6
    assert found["treadle_capture_dropped_requests_total", "disk"] == 2
    assert found["treadle_queued_requests",] == 0
    assert found["process_cpu_seconds_total",] >= 2 * before["process_cpu_seconds_total",]


def test_a_row_that_another_version_filled_begins_anew_and_is_not_added() -> None:
    shared = Shared.create(2)
    shared.header[counters.USED] = 2
    other = shared.claim(0, 1.0)
    other[counters.LAYOUT + 1] = 1000.0
    worker = Metrics(shared, 1)
    worker.request("/", 200)
    assert samples(worker)["treadle_requests_total", "/", "200"] == 1
    Metrics(shared, 0)
    assert shared.row(0)[counters.LAYOUT + 1] == 0


def test_another_process_counts_into_the_memory_that_it_was_given() -> None:
    shared = Shared.create(2)
    shared.header[counters.USED] = 2
    code = (
        "import sys; from treadle.operate.metrics import Metrics;"
        "from treadle.operate.counters import Shared;"
        "m = Metrics(Shared.attach(int(sys.argv[1])), 1);"
        "[m.request('/ping', 503) for _ in range(1000)]; m.beat();"
        "heavy = {'prometheus_client', 'numpy', 'asyncio', 'uvicorn'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert shared.descriptor is not None
    subprocess.run(
        [sys.executable, "-c", code, str(shared.descriptor)],
        pass_fds=[shared.descriptor],
        check=True,
    )
    assert samples(Metrics(shared, 0))["treadle_requests_total", "/ping", "503"] == 1000
    assert shared.row(1)[counters.PID] not in (0, os.getpid())


def test_ready_means_that_as_many_serve_as_are_wanted() -> None:
    shared = Shared.create(2)
    one = Metrics(shared, 0)
    shared.header[counters.WANTED] = 2
    answers: list[Any] = []
    for ready in (0, 1, 2):
        shared.header[counters.READY] = ready
        answers.append(one.ready())
    assert answers == [False, False, True]


def test_crowded_is_who_has_more_connections_than_one_that_lives_and_accepts() -> None:
    shared = Shared.create(3)
    shared.header[counters.USED] = 3
    here, there, third = (Metrics(shared, slot) for slot in range(3))
    assert not here.crowded(5)  # nobody else accepts
    there.accepting(True)
    assert here.crowded(1)
    assert not here.crowded(0)
    there.crowded(5)
    assert not here.crowded(5)
    assert here.crowded(6)
    shared.row(1)[counters.BEAT] -= 60  # it hangs
    assert not here.crowded(6)
    third.accepting(True)
    assert here.crowded(6)
    third.accepting(False)
    assert not here.crowded(6)
