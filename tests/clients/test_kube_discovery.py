"""clients/kube.py against a server that has one group of kinds and is away with another."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.base.errors import Unreachable
from treadle.clients.kube import ApiCluster

pytest.importorskip("lightkube")


def kinds(*names: str) -> dict:
    return {"resources": [{"name": f"{one.lower()}s", "kind": one, "namespaced": True} for one in names]}  # fmt: skip


ANSWERS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": kinds("Pod"),
    "/apis": {"groups": [
        {"preferredVersion": {"groupVersion": version}} for version in ("metrics.k8s.io/v1beta1", "apps/v1")
    ]},
    "/apis/apps/v1": kinds("Deployment"),
}  # fmt: skip


class Api(http.server.BaseHTTPRequestHandler):
    """What is not among the answers is not available."""

    def do_GET(self) -> None:
        found = ANSWERS.get(self.path.partition("?")[0])
        body = json.dumps(found or {"message": "service unavailable"}).encode()
        self.send_response(200 if found else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiCluster]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    named = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(json.dumps(named))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    found = ApiCluster("here")
    yield found
    found.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_group_whose_server_is_away_takes_no_other_kind_with_it(cluster: ApiCluster) -> None:
    assert cluster.kinds() == {"Pod", "Deployment"}


def test_object_of_a_group_that_is_away_is_unreachable_and_not_unknown(cluster: ApiCluster) -> None:
    with pytest.raises(Unreachable, match="503"):
        cluster.get("metrics.k8s.io/v1beta1/PodMetrics", "default", "one")
