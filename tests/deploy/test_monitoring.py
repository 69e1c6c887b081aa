"""deploy/kubernetes/monitoring.py and the route: objects of kinds that a cluster may lack."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from treadle.base.spec import Prometheus, Route
from treadle.deploy.kubernetes import manifest, monitoring, network
from treadle.deploy.kubernetes.wanted import Wanted
from treadle.operate import metrics

WANTED = Wanted("flights", "production", "flights", "r.io/flights@sha256:1", "", 3, "")


def expressions() -> list[str]:
    (group,) = monitoring.rules(WANTED)["spec"]["groups"]
    return [one["expr"] for one in group["rules"]]


# ---- metrics -------------------------------------------------------------------------------------


def test_alerts_ask_for_metrics_and_labels_that_the_server_has() -> None:
    counted = metrics.Metrics()
    counted.request("/invocations", 500)
    counted.batch(1, 1, 0.1, [0.1])
    families = list(text_string_to_metric_families(counted.render().decode()))
    names = {sample.name for family in families for sample in family.samples}
    for expression in expressions():
        asked = set(re.findall(r"treadle_\w+", expression))
        assert asked
        assert asked <= names, expression
    assert "per_minute" in metrics.DROPPED


def test_ratio_of_errors_counts_predictions_and_no_probes() -> None:
    pattern = re.compile(monitoring._ASKED)
    asked = {route for route in metrics.ROUTES if pattern.fullmatch(route)}
    assert asked == {
        "/invocations", "/v2/models/{model}/infer", "/v1/models/{model}:predict", "grpc",
    }  # fmt: skip


def promtool(*arguments: str) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(value))  # JSON is YAML
    return str(path)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    rules = written(tmp_path, "rules.yaml", monitoring.rules(WANTED)["spec"])
    assert "6 rules found" in promtool("check", "rules", rules)


def test_alerts_are_raised_by_what_they_are_about_and_by_nothing_else(tmp_path: Path) -> None:
    rules = written(tmp_path, "rules.yaml", monitoring.rules(WANTED)["spec"])
    own = 'namespace="flights",service="flights-production",pod="a"'
    sick = [
        {"series": f'treadle_requests_total{{{own},path="/invocations",status="200"}}', "values": "0+90x60"},
        {"series": f'treadle_requests_total{{{own},path="/invocations",status="500"}}', "values": "0+10x60"},
        {"series": f'treadle_prediction_duration_seconds_bucket{{{own},le="1.0"}}', "values": "0+50x60"},
        {"series": f'treadle_prediction_duration_seconds_bucket{{{own},le="5.0"}}', "values": "0+100x60"},
        {"series": f'treadle_prediction_duration_seconds_bucket{{{own},le="+Inf"}}', "values": "0+100x60"},
        {"series": f"treadle_workers_ready{{{own}}}", "values": "1x60"},
        {"series": f"treadle_workers_wanted{{{own}}}", "values": "2x60"},
        {"series": f"treadle_worker_restarts_total{{{own}}}", "values": "0+1x60"},
        {"series": f'treadle_capture_dropped_requests_total{{{own},reason="disk"}}', "values": "0+1x60"},
    ]  # fmt: skip
    well = [
        {"series": f'treadle_requests_total{{{own},path="/invocations",status="200"}}', "values": "0+90x60"},
        # Probes of a server that starts fail; nobody is failed by it.
        {"series": f'treadle_requests_total{{{own},path="/v2/health/ready",status="503"}}', "values": "0+90x60"},
        {"series": f'treadle_prediction_duration_seconds_bucket{{{own},le="1.0"}}', "values": "0+100x60"},
        {"series": f'treadle_prediction_duration_seconds_bucket{{{own},le="+Inf"}}', "values": "0+100x60"},
        {"series": f"treadle_workers_ready{{{own}}}", "values": "2x60"},
        {"series": f"treadle_workers_wanted{{{own}}}", "values": "2x60"},
        {"series": f"treadle_worker_restarts_total{{{own}}}", "values": "0x60"},
        {"series": f'treadle_capture_dropped_requests_total{{{own},reason="per_minute"}}', "values": "0+9x60"},
        {"series": 'treadle_requests_total{namespace="flights",service="flights-staging",path="/invocations",status="500"}', "values": "0+90x60"},
    ]  # fmt: skip
    every = ["TreadleErrors", "TreadleSlow", "TreadleNotReady", "TreadleWorkersRestart", "TreadleCaptureDropped"]  # fmt: skip
    raised = {"sick": (sick, every), "well": (well, []), "gone": ([], ["TreadleDown"])}
    for state, (series, alerts) in raised.items():
        test = {
            "rule_files": [rules],
            "tests": [{
                "interval": "1m", "input_series": series,
                # How many of each alert are firing, at the end of an hour.
                "promql_expr_test": [{
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "55m",
                    "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in alerts],
                }],
            }],
        }  # fmt: skip
        promtool("test", "rules", written(tmp_path, f"{state}.yaml", test))


def test_monitor_bears_the_token_and_finds_one_service() -> None:
    secured = dataclasses.replace(WANTED, token_secret="flights-token")
    (endpoint,) = monitoring.monitor(secured)["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "flights-token", "key": "token"}}
    selector = monitoring.monitor(WANTED)["spec"]["selector"]["matchLabels"].items()
    assert selector <= network.service(WANTED)["metadata"]["labels"].items()
    assert not selector <= network.stable_service(WANTED)["metadata"]["labels"].items()


def test_prometheus_is_let_in_only_where_there_is_a_monitor() -> None:
    other = dataclasses.replace(WANTED, prometheus=Prometheus("metrics", {"app": "prom"}))
    assert len(network.allow(other)["spec"]["ingress"]) == 1
    _, rule = network.allow(other, ["ServiceMonitor"])["spec"]["ingress"]
    assert rule["from"] == [{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "metrics"}},
        "podSelector": {"matchLabels": {"app": "prom"}},
    }]  # fmt: skip


# ---- route ---------------------------------------------------------------------------------------


def route(**words: Any) -> dict[str, Any]:
    wanted = dataclasses.replace(WANTED, route=Route(**words))
    (found,) = [one for one in manifest.render(wanted, kinds=["HTTPRoute"]) if one["kind"] == "HTTPRoute"]  # fmt: skip
    return found["spec"]


def test_route_leads_from_the_gateway_to_the_service() -> None:
    found = route(gateway="infra/public", host="flights.example.com")
    assert found["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert found["hostnames"] == ["flights.example.com"]
    (rule,) = found["rules"]
    assert rule["backendRefs"] == [{"name": "flights-production", "port": 80}]
    assert "filters" not in rule


def test_prefix_of_a_route_is_taken_off_before_the_server_sees_it() -> None:
    (rule,) = route(gateway="public", path="/flights")["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/flights"}}]
    assert rule["filters"][0]["urlRewrite"]["path"] == {
        "type": "ReplacePrefixMatch", "replacePrefixMatch": "/",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "let_in"),
    [
        ({"gateway": "infra/public"}, "infra"),
        ({"gateway": "public"}, "flights"),
        ({"gateway": "infra/public", "proxies": "envoy-gateway-system"}, "envoy-gateway-system"),
    ],
)  # fmt: skip
def test_pods_of_the_gateway_are_let_in(words: dict[str, str], let_in: str) -> None:
    wanted = dataclasses.replace(WANTED, route=Route(**words))
    assert len(network.allow(wanted)["spec"]["ingress"]) == 1
    _, rule = network.allow(wanted, ["HTTPRoute"])["spec"]["ingress"]
    (source,) = rule["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": let_in}


@pytest.mark.parametrize(
    "words",
    [
        {"gateway": ""}, {"gateway": "a/b/c"}, {"gateway": "Public"},
        {"gateway": "p", "host": "http://x"}, {"gateway": "p", "host": "a..b"},
        {"gateway": "p", "path": "flights"}, {"gateway": "p", "path": "/a/"},
        {"gateway": "p", "path": "/a?b"}, {"gateway": "p", "proxies": "a/b"},
    ],
)  # fmt: skip
def test_what_is_no_route_is_said(words: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not"):
        Route(**words)
