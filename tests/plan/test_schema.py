"""plan/schema.py: the meaning of every word, for editors, and where each value comes from."""

from __future__ import annotations

import json
import re

from tests.plan.spec_files import LINES, VALID, written

from treadle.plan.spec import json_schema, origins


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
