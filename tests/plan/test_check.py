"""plan/check.py and the checks that it asks: each mistake in words, at its place, all at once."""

from __future__ import annotations

import pytest
from tests.plan.spec_files import CLUSTER, PROCESS, VALID, changed, mistakes, written

from treadle.plan.spec import load


def test_a_mistake_shows_place_line_caret_and_the_word_that_was_meant(tmp_path):
    text = changed("      at_least: 0.62", "      at_leest: 0.62")
    (mistake,) = mistakes(tmp_path, text)
    line = text.splitlines().index("      at_leest: 0.62") + 1
    assert mistake == (
        f"treadle.yaml:{line}:7: test.gates.0.at_leest: there is no such key\n"
        "          at_leest: 0.62\n"
        "          ^^^^^^^^\n"
        "    did you mean `at_least`?"
    )


def test_the_caret_stands_under_the_word_behind_wide_characters_and_in_long_lines(tmp_path):
    text = changed("holdout: holdout", "holdout: {日本: x, 漢字: 1}")
    (found,) = mistakes(tmp_path, text)
    assert found.splitlines()[2].index("^") == 4 + len("  holdout: ")
    wide = changed("    metric: roc_auc".strip(), "metric: roc_auc")
    long = wide.replace("at_least: 0.62", "at_least: " + " " * 500 + "x")
    (found,) = mistakes(tmp_path, long)
    source, caret = found.splitlines()[1:3]
    assert source[caret.index("^")] == "x"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = VALID
    for old, new in [
        ("project: flights", "project: Flights"),
        ("pipeline: pipeline.py", "pipline: pipeline.py"),
        ("by: known_at", "by: 3"),
        ("cache: false", "cache: no"),
        ("task: binary", "task: binray"),
        ("blocks: 1d", "blocks: 1"),
        ("metric: roc_auc", "metric: roc_auk"),
        ("port: 8080", "port: 80800"),
        ("of: zebra", "of: zebr"),
        ("at: 05:00 Europe/Berlin", "at: 05:00 Berlin"),
        ("window: 7d", "window: 7x"),
        ("rate: 0.5", "rate: 5"),
        ("when: [decay, drift]", "when: [decy, drift]"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    found = mistakes(tmp_path, text)
    assert len(found) == 13
    numbers = [int(item.split(":")[1]) for item in found]
    assert numbers == sorted(numbers)
    for words in ("did you mean `binary`", "write a unit: 1d", "`roc_auc`", "did you mean `zebra`",
                  "Europe/Berlin", "0 to 65535, not 80800", "share from 0 to 1"):  # fmt: skip
        assert sum(words in item for item in found) == 1, words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    port: 8080", "    port: 8080\n    canary: {}", "`canary` is not supported yet"),
        ("    cache: false", "    resources: {cpu: 4}", "`resources` is not supported yet"),
        ("task: binary", "task: forecast", "task `forecast` is not supported yet"),
        ("trust: pickle", "dashboard: {port: 1}", "`dashboard` is not supported yet"),
        ("trust: pickle", "hub: {}", "`hub` is not supported yet"),
    ],
)  # fmt: skip
def test_words_of_later_work_are_not_supported_yet_and_nothing_else(tmp_path, old, new, words):
    found = [item for item in mistakes(tmp_path, changed(old, new)) if "deploy.nightly" not in item]
    assert len(found) == 1
    assert words in found[0]
    assert "no such key" not in found[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    port: 8080", "    prt: 8080", "did you mean `port`"),
        ("    port: 8080", "    of: local", "`of` belongs under"),
        ("trust: pickle", "cooldown: 3d", "`cooldown` belongs under `retrain`"),
        ("features: [carrier, origin]", "features: [carrier, late]", "is the label"),
        ("features: [carrier, origin]", "features: [dep_delay]", "known only later: learning from it is a leak"),
        ("features: [carrier, origin]", "features: []", "no column is left"),
        ("features: [carrier, origin]", "compile: automatic", "did you mean `auto`"),
        ("features: [carrier, origin]", "compile: true", "true is not one of `auto`"),
        ("features: [carrier, origin]", "complie: auto", "did you mean `compile`"),
        ("trust: pickle", "compile: auto", "`compile` belongs under `model`"),
        ("features: [carrier, origin]", "features: [a, b, a]", "`a` is listed twice"),
        ("    data: arrivals", "    data: arrivls", "did you mean `arrivals`"),
        ("of: zebra", "of: nightly", "the champion of another one"),
        ("- metric: log_loss", "- metric: rmse", "is a metric of regression, not of binary"),
        ("key: [carrier, flight, sched_dep]", "key: [carrier, carrier]", "listed twice"),
        ("key: [carrier, flight, sched_dep]", "key: carrier", "write [carrier]"),
        ("window: 7d", "window: 0d", "cannot be 0d"),
        ("window: 7d", "window: 9999999w", "a hundred years"),
        ("cooldown: 7d", "cooldown: 7", "write a unit: 7d"),
        ("new_rows: 20000", "new_rows: 0", "at least 1"),
        ("at_least: 0.62", "at_least: .nan", "not a number"),
        ("at_least: 0.62", 'at_least: "0.62"', "remove the quotes"),
        ("at_least: 0.62", "at_least: 0.62\n      at_most: 1", "exactly one of"),
        ("project: flights", "project: 123", 'write "123"'),
        ("project: flights", "project:", "expected text, found nothing"),
        ("project: flights", 'project: " "', "the text is empty"),
        ("holdout: holdout", "holdout: ${HOLDOUT}", "no templating"),
        ('"${FLIGHTS_DSN}"', '"${FLIGHTS-DSN}"', "names no environment variable"),
        ('"${FLIGHTS_DSN}"', '"${FLIGHTS"', "names no environment variable"),
        ("SELECT * FROM arrivals", "SELECT ${X}", "no templating"),
        ("holdout: holdout", "holdout: &x holdout", "anchors and aliases are not supported"),
        ("holdout: holdout", "holdout: *x", "anchors and aliases are not supported"),
        ("holdout: holdout", "<<: {holdout: holdout}", "merge keys are not supported"),
        ("holdout: holdout", "holdout: !env HOLDOUT", "tags are not supported"),
        ("holdout: holdout", "holdout: a\n  holdout: b", "is written twice"),
        ("holdout: holdout", "1: b", "a key is text"),
        ("holdout: holdout", '? [a]\n  : b', "a key is a word"),
        ("holdout: holdout", "\tholdout: a", "tab"),
        ("holdout: holdout", "holdout: 'a", "never closed"),
        ("holdout: holdout", 'holdout: "\\ud800"', "half a character"),
        ("holdout: holdout", "holdout: @x", "quote"),
        ("  matures: 1d", "  matures: 1d\n---\na: b", "second document"),
        ("trust: pickle", "trust: yes", "not one of `pickle`"),
        ("  zebra:", "  Zebra.1:", "lower-case"),
        ("  flights:\n", "  big-flights:\n", "write big_flights"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_words(tmp_path, old, new, words):
    found = mistakes(tmp_path, changed(old, new))
    assert any(words in item for item in found), "\n".join(found)


def test_a_gate_may_name_what_the_judge_can_compute_and_nothing_else():
    from treadle.plan.vocabulary import METRICS as NAMES
    from treadle.test.metrics import METRICS

    assert {task: set(names) for task, names in NAMES.items()} == {
        task: set(metrics) for task, metrics in METRICS.items()
    }


@pytest.mark.parametrize("gpus", ["true", "[1]", "1.5", "some", "0"])
def test_gpus_that_are_neither_are_one_mistake(tmp_path, gpus):
    (said,) = mistakes(tmp_path, changed(PROCESS, f"    target: docker\n    gpus: {gpus}\n"))
    assert "deploy.zebra.gpus" in said
    assert "`all` or a number" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("replicas: 2..4, scale_down_stabilization: soon", "is no duration"),
        ("replicas: 2..4, scale_down_stabilization: 2h", "at most 1h"),
        ("replicas: 2, scale_down_stabilization: 1m", "for a range of replicas"),
    ],
)
def test_scale_down_stabilization_that_cannot_be_is_one_mistake(tmp_path, more, words):
    text = f"    target: kubernetes\n    context: minikube\n    state: checkout\n    {more}\n"
    (said,) = mistakes(tmp_path, changed(PROCESS, text.replace(", ", "\n    ")))
    assert words in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "route: {gateway: a/b/c}",
            "deploy.zebra.route.gateway: gateway is NAME or NAMESPACE/NAME",
        ),
        ("route: {host: flights.example.com}", "`gateway` is missing"),
        ("route: {gateway: public, host: 'http://x'}", "deploy.zebra.route.host: host is a name"),
        ("route: {gateway: public, path: flights}", "deploy.zebra.route.path: path begins with /"),
        ("route: {gateway: public, paht: /flights}", "did you mean `path`"),
        ("prometheus: {namespace: A B}", "deploy.zebra.prometheus.namespace: namespace is a name"),
        ("cpu: 1 core", "deploy.zebra.cpu: a quantity is a number"),
        ("memory: 1gb", "deploy.zebra.memory: a quantity is a number"),
        ("memory: '0'", "deploy.zebra.memory: memory is more than nothing"),
        ("resources: {example.com/fpga: some}", "a quantity is a number"),
    ],
)
def test_mistakes_of_a_cluster_are_one_each_where_they_stand(tmp_path, line, words):
    (said,) = mistakes(tmp_path, changed(PROCESS, f"{CLUSTER}    {line}\n"))
    assert words in said, said


def test_decay_without_truth_is_a_mistake_with_the_fix(tmp_path):
    text = changed("  truth:\n    data: arrivals\n    matures: 1d\n", "")
    (found,) = mistakes(tmp_path, text)
    assert "retrain.when" in found
    assert "write when: [drift], or add monitor: {truth: {data: arrivals" in found
    (by_default,) = mistakes(tmp_path, text.replace("  when: [decay, drift]\n", ""))
    assert "by default" in by_default


def test_captured_fields_may_be_left_out_or_hashed_but_not_those_monitoring_needs(tmp_path):
    fields = "    exclude: [secret]\n    hash: [carrier, customer]\n"
    spec = load(written(tmp_path, changed("    rate: 0.5\n", "    rate: 0.5\n" + fields)))
    assert spec.monitor.capture.exclude == ("secret",)
    assert spec.monitor.capture.hash == ("carrier", "customer")
    wrong = "    rate: 0.5\n    exclude: [carrier]\n    hash: [sched_dep]\n"
    key, time = mistakes(tmp_path, changed("    rate: 0.5\n", wrong))
    assert "the truth is joined by `carrier`" in key
    assert "write hash: [carrier]" in key
    assert "windows are cut by `sched_dep`, the event_time" in time


def test_captured_fields_are_checked_where_nothing_is_retrained_too(tmp_path):
    capture = "    per_minute: -4\n    exclude: [carrier]\n    hash: [sched_dep]\n"
    text = changed("    per_minute: 100\n", capture)
    text = text[: text.index("retrain:")]
    minute, key, time = mistakes(tmp_path, text)
    assert "at least 0" in minute
    assert "the truth is joined by `carrier`" in key
    assert "windows are cut by `sched_dep`" in time
