"""What a Prometheus Operator is told, where there is one."""

from __future__ import annotations

from typing import Any

from treadle.deploy.kubernetes.wanted import Wanted, label_selector, meta


def monitor(wanted: Wanted) -> dict[str, Any]:
    """Where the metrics are."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": meta(wanted),
        "spec": {
            "selector": {"matchLabels": label_selector(wanted)},
            "endpoints": [{"port": "http", "path": "/metrics"}],
        },
    }
