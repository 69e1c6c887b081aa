from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.base.errors import SpecError, UsageError
from treadle.base.spec import BatchTarget, ProcessTarget, Spec
from treadle.plan.spec import expand, json_schema, load, origins, remember

VALID = """\
# yaml-language-server: $schema=.treadle/schema.json
project: flights
pipeline: pipeline.py
data:
  flights:
    files: data/flights-*.parquet
    key: [carrier, flight, sched_dep]
    event_time: sched_dep
    known_later: [dep_time, dep_delay]
  arrivals:
    query: SELECT * FROM arrivals
    database: "${FLIGHTS_DSN}"
    incremental:
      by: known_at
      restated: 7d
steps:
  model:
    cache: false
model:
  result: model
  task: binary
  label: late
  features: [carrier, origin]
test:
  holdout: holdout
  blocks: 1d
  gates:
    - metric: roc_auc
      at_least: 0.62
    - metric: log_loss
      versus: champion
      margin: 0.005
deploy:
  zebra:
    target: process
    port: 8080
  nightly:
    target: batch
    of: zebra
    input: data/tomorrow.parquet
    output: forecasts/
    at: 05:00 Europe/Berlin
monitor:
  window: 7d
  false_alarms:
    at_most: 1
    per: 90d
  truth:
    data: arrivals
    matures: 1d
  capture:
    rate: 0.5
    per_minute: 100
retrain:
  when: [decay, drift]
  every: 30d
  new_rows: 20000
  cooldown: 7d
  approve: auto
trust: pickle
"""
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "treadle.yaml"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "treadle.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistakes(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(SpecError) as error:
        load(written(folder, text))
    assert error.value.mistakes
    assert error.value.exit_code == 2
    return error.value.mistakes


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


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


PROCESS = "    target: process\n    port: 8080\n"


@pytest.mark.parametrize(("written_as", "gpus"), [("all", "all"), ("2", 2), ('"2"', "2")])
def test_gpus_are_all_or_a_number(tmp_path, written_as, gpus):
    text = changed(PROCESS, f"    target: docker\n    gpus: {written_as}\n")
    assert load(written(tmp_path, text)).deploy["zebra"].gpus == gpus


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


def test_decay_without_truth_is_a_mistake_with_the_fix(tmp_path):
    text = changed("  truth:\n    data: arrivals\n    matures: 1d\n", "")
    (found,) = mistakes(tmp_path, text)
    assert "retrain.when" in found
    assert "write when: [drift], or add monitor: {truth: {data: arrivals" in found
    (by_default,) = mistakes(tmp_path, text.replace("  when: [decay, drift]\n", ""))
    assert "by default" in by_default


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


def test_a_byte_order_mark_and_windows_line_ends_are_read_with_right_places(tmp_path):
    data = b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode()
    assert load(written(tmp_path, data)).project == "flights"
    (found,) = mistakes(tmp_path, data.replace(b"project: flights", b"projet: flights"))
    assert found.startswith("treadle.yaml:2:1: projet")


def test_dates_and_times_without_quotes_are_texts(tmp_path):
    text = changed("label: late", "label: 2024-01-01").replace(
        "at: 05:00 Europe/Berlin", "at: 05:00"
    )
    spec = load(written(tmp_path, text))
    assert spec.model.label == "2024-01-01"
    target = spec.deploy["nightly"]
    assert isinstance(target, BatchTarget)
    assert target.at == "05:00"


def test_the_caret_stands_under_the_word_behind_wide_characters_and_in_long_lines(tmp_path):
    text = changed("holdout: holdout", "holdout: {日本: x, 漢字: 1}")
    (found,) = mistakes(tmp_path, text)
    assert found.splitlines()[2].index("^") == 4 + len("  holdout: ")
    wide = changed("    metric: roc_auc".strip(), "metric: roc_auc")
    long = wide.replace("at_least: 0.62", "at_least: " + " " * 500 + "x")
    (found,) = mistakes(tmp_path, long)
    source, caret = found.splitlines()[1:3]
    assert source[caret.index("^")] == "x"


# ---- the cache -----------------------------------------------------------------------------------


class Kept:
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], object] = {}

    def get(self, kind: str, key: str) -> object | None:
        text = self.values.get((kind, key))
        return None if text is None else json.loads(str(text))

    def put(self, kind: str, key: str, value: object) -> None:
        self.values[kind, key] = json.dumps(value, sort_keys=True)


def test_a_remembered_spec_is_equal_and_keeps_the_order_of_its_environments(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    spec = load(path, cache)
    assert cache.values == {}
    cache.put(*remember(path, spec))
    again = load(path, cache)
    assert again == spec
    assert list(again.deploy) == ["zebra", "nightly"]
    assert list(again.data) == ["flights", "arrivals"]


def test_a_changed_file_or_a_foreign_cache_entry_is_read_anew(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    kind, key, _ = remember(path, load(path))
    for foreign in ({}, [], "x", {"spec": {"project": "x"}, "order": {}}, {"spec": 3, "order": 3}):
        cache.put(kind, key, foreign)
        assert load(path, cache).project == "flights"
    cache.put(*remember(path, load(path)))
    written(tmp_path, changed("project: flights", "project: planes"))
    assert load(path, cache).project == "planes"


def test_a_file_saved_between_reading_and_remembering_is_not_taken_for_the_old_one(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    spec = load(path, cache)
    written(tmp_path, changed("project: flights", "project: planes"))
    cache.put(*remember(path, spec))
    assert load(path, cache).project == "planes"


def test_an_unchanged_spec_is_loaded_without_pydantic_and_ruamel(tmp_path):
    path = written(tmp_path, VALID)
    kind, key, value = remember(path, load(path))
    (tmp_path / "cache.json").write_text(json.dumps({f"{kind} {key}": value}))
    code = """
import json, sys
from pathlib import Path
from treadle.plan.spec import load
kept = json.loads(Path("cache.json").read_text())
class Cache:
    def get(self, kind, key): return kept.get(f"{kind} {key}")
spec = load(Path("treadle.yaml"), Cache())
assert spec.project == "flights" and spec.default_environment == "zebra"
heavy = {"pydantic", "ruamel", "ruamel.yaml", "polars", "pandas", "cronsim", "zoneinfo", "difflib"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- secrets, schema, origins --------------------------------------------------------------------


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


def test_the_schema_describes_words_and_allows_no_others():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["trust"]["description"].startswith("`pickle` lets results")
    for section in schema["$defs"].values():
        assert section["additionalProperties"] is False
        assert section["description"]
    gate = schema["$defs"]["GateSection"]["properties"]
    assert "roc_auc" in gate["metric"]["enum"]
    assert "worse than the champion" in gate["margin"]["description"]
    window = schema["$defs"]["MonitorSection"]["properties"]["window"]
    assert re.match(window["pattern"], "1h30m")
    json.dumps(schema)


def test_origins_name_the_line_or_the_default_with_its_meaning(tmp_path):
    found = {item.key: item for item in origins(written(tmp_path, VALID))}
    assert found["project"].where == "treadle.yaml:2"
    assert found["data.flights.key"].value == ["carrier", "flight", "sched_dep"]
    assert found["data.flights.key"].where == "treadle.yaml:7"
    assert (
        found["test.gates.1.margin"].where
        == f"treadle.yaml:{LINES.index(chr(32) * 6 + 'margin: 0.005') + 1}"
    )
    assert found["deploy.zebra.host"].where == "default"
    assert found["deploy.zebra.port"].why.startswith("0 takes any free port")
    assert found["monitor.false_alarms.per"].value == "90d"
    assert found["monitor.capture.rate"].why.startswith("Share of requests")


def test_the_origins_of_an_almost_empty_spec_are_defaults(tmp_path):
    text = "project: x\ndata: {d: {files: d.csv}}\nmodel: {result: m, task: regression, label: y}\n"
    found = {item.key: item for item in origins(written(tmp_path, text))}
    assert found["deploy.local.target"].where == "default"
    assert found["monitor.window"].value == "7d"
    assert found["retrain"].value is None


# ---- properties ----------------------------------------------------------------------------------

LINES = VALID.splitlines()
KEYED = [n for n, line in enumerate(LINES) if re.match(r"\s*(- )?[a-z_]+:", line)]
FREE = {"flights", "arrivals", "zebra", "nightly"}  # names that a person chooses
READ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def block(number: int) -> range:
    """The lines of the key in line `number`: its own and those indented deeper."""
    indent = len(LINES[number]) - len(LINES[number].lstrip(" "))
    end = number + 1
    while end < len(LINES) and len(LINES[end]) - len(LINES[end].lstrip(" ")) > indent:
        end += 1
    return range(number, end)


def outcome(folder: Path, text: str | bytes) -> tuple[Spec | None, tuple[str, ...]]:
    try:
        return load(written(folder, text)), ()
    except SpecError as error:
        assert error.mistakes
        for mistake in error.mistakes:
            assert re.match(r"treadle\.yaml:\d+:\d+: ", mistake), mistake
        return None, error.mistakes


@READ
@given(st.sampled_from(KEYED))
def test_a_deleted_key_is_a_default_or_a_mistake_that_names_it_or_what_needs_it(tmp_path, number):
    lines = [line for n, line in enumerate(LINES) if n not in block(number)]
    spec, found = outcome(tmp_path, "\n".join(lines))
    name = LINES[number].strip(" -").split(":")[0]
    assert spec is not None or any(f"`{name}`" in item or "{" in item or "exactly one" in item
                                   or "belong together" in item or "margin" in item
                                   or "nothing" in item for item in found)  # fmt: skip


@READ
@given(st.sampled_from(KEYED), st.sampled_from("xqz"), st.data())
def test_a_misspelt_key_is_told_in_its_line(tmp_path, number, letter, data):
    match = re.match(r"(\s*(?:- )?)([a-z_]+)(:.*)", LINES[number])
    assert match is not None
    place = data.draw(st.integers(0, len(match[2])))
    name = match[2][:place] + letter + match[2][place:]
    if match[2] in FREE:
        return
    if re.fullmatch(r"  [a-z]+", LINES[number].split(":")[0]) and match[2] == "model":
        return  # the step's name is free
    text = "\n".join([*LINES[:number], f"{match[1]}{name}{match[3]}", *LINES[number + 1 :]])
    spec, found = outcome(tmp_path, text)
    assert spec is None
    assert any(item.startswith(f"treadle.yaml:{number + 1}:") and name in item for item in found)


@READ
@given(
    st.sampled_from([n for n in KEYED if not LINES[n].endswith(":")]),
    st.sampled_from(["{a: b}", "[[1]]", "[{a: 1}]"]),
)
def test_a_value_of_a_wrong_type_is_told_in_its_line(tmp_path, number, wrong):
    key = LINES[number].partition(":")[0]
    text = "\n".join([*LINES[:number], f"{key}: {wrong}", *LINES[number + 1 :]])
    spec, found = outcome(tmp_path, text)
    assert spec is None
    assert any(item.startswith(f"treadle.yaml:{number + 1}:") for item in found), found


@READ
@given(st.integers(0, len(VALID)), st.integers(0, 12), st.text(max_size=6))
def test_any_edit_of_the_text_is_a_spec_or_a_spec_error(tmp_path, place, removed, added):
    text = VALID[:place] + added + VALID[place + removed :]
    outcome(tmp_path, text.encode("utf-8", "surrogatepass"))


YAML_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["project", "data", "model", "test", "gates", "deploy", "target", "files",
                         "retrain", "when", "monitor", "truth", "key", "steps", "cache", "a", ""]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@READ
@given(YAML_LIKE)
def test_any_json_is_a_spec_or_a_spec_error(tmp_path, value):
    outcome(tmp_path, json.dumps(value))


@READ
@given(st.binary(max_size=200))
def test_any_bytes_are_a_spec_error(tmp_path, data):
    assert outcome(tmp_path, data)[0] is None


CLUSTER = "    target: kubernetes\n    context: minikube\n    state: checkout\n"


def test_route_and_who_reads_metrics_are_read(tmp_path):
    more = (
        "    route: {gateway: infra/public, path: /flights}\n    prometheus: {namespace: metrics}\n"
    )
    found = load(written(tmp_path, changed(PROCESS, CLUSTER + more))).deploy["zebra"]
    assert (found.route.gateway, found.route.path, found.route.host) == ("infra/public", "/flights", None)  # fmt: skip
    assert found.prometheus.namespace == "metrics"
    assert found.prometheus.labels == {"app.kubernetes.io/name": "prometheus"}


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
