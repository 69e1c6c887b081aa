"""What a Prometheus Operator is told, where there is one: where the metrics are, and what is amiss.

The alerts are about what the model server itself counts (`operate/metrics`): pods and nodes are
watched by rules that every cluster with an operator has already.
"""

from __future__ import annotations

from typing import Any

from treadle.deploy.kubernetes.wanted import Wanted, label_selector, meta

ERRORS = 0.05
"""The share of predictions that fail from which on it is an alarm."""
SLOW_S = 1.0
RESTARTS = 2
_ASKED = "/invocations|/v2/models/.*/infer|/v1/models/.*:predict|grpc"
"""Values of the label `path` that stand for predictions: probes would thin out every ratio."""


def monitor(wanted: Wanted) -> dict[str, Any]:
    """Where the metrics are: behind the Service, with the token where one is asked for."""
    endpoint: dict[str, Any] = {"port": "http", "path": "/metrics"}
    if wanted.token_secret is not None:
        endpoint["authorization"] = {"credentials": {"name": wanted.token_secret, "key": "token"}}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": meta(wanted),
        "spec": {
            "selector": {
                "matchLabels": {**label_selector(wanted), "app.kubernetes.io/component": "model"}
            },
            "endpoints": [endpoint],
        },
    }


def rules(wanted: Wanted) -> dict[str, Any]:
    """Alerts on what the server exposes, of this environment alone (of both its versions)."""
    own = f'namespace="{wanted.namespace}",service=~"{wanted.serves}|{wanted.serves}-candidate"'
    logs = f"treadle logs --env {wanted.environment}"

    def count(name: str, more: str = "", over: str = "5m") -> str:
        return f"sum(rate({name}{{{own}{more}}}[{over}]))"

    failed = count("treadle_requests_total", f',path=~"{_ASKED}",status=~"5.."')
    asked = count("treadle_requests_total", f',path=~"{_ASKED}"')
    seconds = f"sum by (le) (rate(treadle_prediction_duration_seconds_bucket{{{own}}}[5m]))"
    dropped = count("treadle_capture_dropped_requests_total", ',reason!="per_minute"', "15m")
    found = [
        _alert(
            wanted, "TreadleErrors", f"{failed} / {asked} > {ERRORS}", "5m", "critical",
            "{{ $value | humanizePercentage }} of the predictions fail", logs,
        ),
        _alert(
            wanted, "TreadleSlow", f"histogram_quantile(0.99, {seconds}) > {SLOW_S:g}", "10m",
            "warning", "one prediction in a hundred takes {{ $value | humanizeDuration }} or longer",
            "more replicas or cpu in treadle.yaml, or a smaller model",
        ),
        _alert(
            wanted, "TreadleNotReady",
            f"sum(treadle_workers_ready{{{own}}}) < sum(treadle_workers_wanted{{{own}}})", "5m",
            "warning", "only {{ $value }} workers serve", logs,
        ),
        _alert(
            wanted, "TreadleDown", f"absent(treadle_workers_ready{{{own}}})", "5m", "critical",
            "no pod tells that it serves", f"treadle status --env {wanted.environment}",
        ),
        _alert(
            wanted, "TreadleWorkersRestart",
            f"sum(increase(treadle_worker_restarts_total{{{own}}}[15m])) > {RESTARTS}", "1m",
            "warning", "{{ $value | humanize }} workers died or hung in 15 minutes", logs,
        ),
        _alert(
            wanted, "TreadleCaptureDropped", f"{dropped} > 0", "15m", "warning",
            "requests that monitoring wanted are not kept", logs,
        ),
    ]  # fmt: skip
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": meta(wanted),
        "spec": {"groups": [{"name": wanted.name, "rules": found}]},
    }


def _alert(
    wanted: Wanted, name: str, expression: str, lasting: str, severity: str, words: str, what: str
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {
            "severity": severity, "project": wanted.project, "environment": wanted.environment,
        },
        "annotations": {
            "summary": f"{wanted.project} {wanted.environment}: {words}", "description": what,
        },
    }  # fmt: skip
