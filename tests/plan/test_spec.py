"""plan/spec.py: what is read from a treadle.yaml, and which files are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.plan.spec_files import CLUSTER, PROCESS, VALID, changed, mistakes, written

from treadle.base.errors import SpecError, UsageError
from treadle.base.spec import BatchTarget, ProcessTarget
from treadle.plan.spec import expand, load

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "treadle.yaml"


def test_the_example_of_the_repository_is_read():
    spec = load(FLIGHTS)
    assert spec.project == "flights"
    assert spec.default_environment == "local"
    assert spec.training_data() == "flights"
    assert spec.retrain is not None
    assert spec.retrain.approve == "auto"


def test_every_key_is_read_into_its_section(tmp_path):
    spec = load(written(tmp_path, VALID))
    assert spec.default_environment == "zebra"
    assert spec.deploy["zebra"] == ProcessTarget("process", 8080)
    assert isinstance(spec.deploy["nightly"], BatchTarget)
    assert spec.deploy["nightly"].at == "05:00 Europe/Berlin"
    assert spec.data["arrivals"].database == "${FLIGHTS_DSN}"
    assert spec.test.gates[1].margin == 0.005
    assert spec.monitor.capture.rate == 0.5


@pytest.mark.parametrize(("written_as", "gpus"), [("all", "all"), ("2", 2), ('"2"', "2")])
def test_gpus_are_all_or_a_number(tmp_path, written_as, gpus):
    text = changed(PROCESS, f"    target: docker\n    gpus: {written_as}\n")
    assert load(written(tmp_path, text)).deploy["zebra"].gpus == gpus


def test_route_and_who_reads_metrics_are_read(tmp_path):
    more = (
        "    route: {gateway: infra/public, path: /flights}\n    prometheus: {namespace: metrics}\n"
    )
    found = load(written(tmp_path, changed(PROCESS, CLUSTER + more))).deploy["zebra"]
    assert (found.route.gateway, found.route.path, found.route.host) == ("infra/public", "/flights", None)  # fmt: skip
    assert found.prometheus.namespace == "metrics"
    assert found.prometheus.labels == {"app.kubernetes.io/name": "prometheus"}


def test_dates_and_times_without_quotes_are_texts(tmp_path):
    text = changed("label: late", "label: 2024-01-01").replace(
        "at: 05:00 Europe/Berlin", "at: 05:00"
    )
    spec = load(written(tmp_path, text))
    assert spec.model.label == "2024-01-01"
    target = spec.deploy["nightly"]
    assert isinstance(target, BatchTarget)
    assert target.at == "05:00"


def test_a_byte_order_mark_and_windows_line_ends_are_read_with_right_places(tmp_path):
    data = b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode()
    assert load(written(tmp_path, data)).project == "flights"
    (found,) = mistakes(tmp_path, data.replace(b"project: flights", b"projet: flights"))
    assert found.startswith("treadle.yaml:2:1: projet")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "a list, not a mapping"),
        (b"just words\n", "not a mapping"),
        (b"{}", "`project` is missing"),
        ("project: flights".encode("utf-16"), "UTF-16"),
        ("project: fl\u00fcge\n".encode("latin-1"), "0xfc is not UTF-8"),
        (b"a: \x07", "does not allow"),
        (b"%YAML 1.1\n---\na: 1\n", "directives are not supported"),
        (b"[" * 2000, "nested too deeply"),
        (b"a: " * 400_000, "that is no spec"),
        (b"data:\ndeploy:\nmodel:\nproject: x\n", "fill it or leave it out"),
        (b"project: x\ndata: {}\nmodel: {}\ndeploy: {}\n", "there is no data set"),
    ],
)
def test_a_file_that_is_no_spec_is_a_spec_error(tmp_path, data, words):
    assert any(words in item for item in mistakes(tmp_path, data))


def test_a_missing_file_or_a_folder_in_its_place_is_a_spec_error(tmp_path):
    with pytest.raises(SpecError) as error:
        load(tmp_path / "treadle.yaml")
    assert "treadle init" in str(error.value.hint)
    with pytest.raises(SpecError):
        load(tmp_path)


def test_a_secret_is_taken_from_the_environment_and_its_absence_names_it():
    assert (
        expand("postgresql://${USER_1}:${P}@h/d", {"USER_1": "u", "P": "p$"})
        == "postgresql://u:p$@h/d"
    )
    with pytest.raises(UsageError) as error:
        expand("${FLIGHTS_DSN}", {}, "data.flights.database")
    assert "data.flights.database: the environment variable is not set: FLIGHTS_DSN" in str(
        error.value
    )
    assert expand("sqlite:///a.db", {}) == "sqlite:///a.db"
