"""The flights on a cluster, from nothing to nothing: what a reader of docs/kubernetes.md does in a day."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.test_flights import EXAMPLE
from tests.support import base_image, cluster, images
from tests.support.cluster import kubectl
from tests.support.moves import nothing_failed, until
from tests.support.on_cluster import Clients, OnClaim, OnCluster, ended

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FLIGHT = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "distance": 1400, "sched_hour": 7, "weekday": 2, "wind_speed": 9.2}  # fmt: skip
NIGHTLY = "flights-nightly"


@pytest.fixture
def flights(tmp_path: Path) -> Iterator[OnCluster]:
    """The example with a production on the cluster, and forecasts of it every night."""
    cluster.require()
    images.require("base")
    project = OnCluster(tmp_path / "flights")
    shutil.copytree(
        EXAMPLE, project.folder, ignore=shutil.ignore_patterns(".treadle", "later", "__pycache__")
    )
    project.namespace = f"flights-{secrets.token_hex(3)}"
    project.cache, project.objects = tmp_path / "cache", "flights-production"
    project.edit("treadle.yaml", (
        "  local: {target: process, port: 8080}",
        f"  production: {{target: kubernetes, context: {cluster.context()}, state: checkout, replicas: 2, "
        f"namespace: {project.namespace}, image: {cluster.registry()}/{project.namespace}, cpu: 50m, memory: 384Mi}}\n"
        "  nightly:\n"
        "    {target: batch, of: production, at: '59 23 31 12 *', size: 64Mi, cpu: 50m, memory: 512Mi,\n"
        "     input: 'claim://scores/incoming/*.parquet', output: 'claim://scores/forecasts/'}",
    ))  # fmt: skip
    project.add_spec(f'\nbuild: {{base: "oci:{base_image.layout()}"}}\n')
    try:
        yield project
    finally:
        project("down", "--env", "nightly", code=None)
        project("down", "--env", "production", "--everything", code=None)


def month_comes(project: OnCluster, month: str) -> None:
    """Its flights and what became of them."""
    shutil.copy(EXAMPLE / f"later/flights-{month}.parquet", project.folder / "data")
    shutil.copy(EXAMPLE / f"later/arrivals-{month}.parquet", project.folder / "truth")


def data_of(project: OnCluster, prediction: str) -> list[str]:
    """The files of data that a prediction's lineage ends in."""
    links = project("lineage", prediction, "--json").json["links"]
    (data,) = [link for link in links if link["kind"] == "data"]
    return data["facts"]["files"]


def test_flights_are_served_rolled_out_scored_rolled_back_and_taken_down(
    flights: OnCluster,
) -> None:
    # From an empty cluster to two pods that answer through the Service, and from an answer to the data.
    flights("up", "--env", "production")
    assert flights.live()["status"]["availableReplicas"] == 2
    ask = ("predict", "data/flights-2013-04.parquet", "-n", "2", "--env", "production", "--json")
    answer = flights(*ask).json
    assert answer["release"] == "1"
    assert all(sum(shares) == pytest.approx(1) for shares in answer["predictions"])
    assert len(data_of(flights, answer["ids"][0])) == 4, "January to April"

    # The next month's model, while clients ask.
    clients = Clients(flights, env={"BODY": json.dumps({"dataframe_records": [FLIGHT]})})
    month_comes(flights, "2013-05")
    flights("up", "--env", "production")
    answer = flights(*ask).json
    assert answer["release"] == "2"
    assert len(data_of(flights, answer["ids"][0])) == 5, "May, too"

    # Scores from a CronJob, as its schedule would start it.
    flights("up", "--env", "nightly")
    claim = OnClaim(flights)
    may = EXAMPLE / "later/flights-2013-05.parquet"
    claim.write("incoming/may.parquet", may.read_bytes())
    kubectl("create", "job", f"{NIGHTLY}-now", "--from", f"cronjob/{NIGHTLY}", "-n", flights.namespace)  # fmt: skip
    assert ended(flights.namespace, f"{NIGHTLY}-now")["ended"] == "Complete"
    scores = claim.scores()
    assert len(scores) > 20_000
    assert set(scores["treadle_release"]) == {2}
    assert len(data_of(flights, scores["prediction_id"][7])) == 5

    # Back, in one command.
    flights("rollback", "--env", "production", "--yes", "--reason", "by a test")
    assert flights(*ask).json["release"] == "1"
    until(lambda: not flights.pods(leaving=True), 120)
    told = clients.done(stop=True)
    assert {"1", "2"} <= set(told["versions"])
    nothing_failed(told, least=2_000)

    # A release that cannot come up leaves the one before to answer.
    flights.edit("treadle.yaml", ("memory: 384Mi", "memory: 20Mi"))
    month_comes(flights, "2013-06")
    ran = flights("up", "--env", "production", code=3)
    assert "did not get ready" in ran.err
    assert "the release before serves again" in ran.err
    assert flights(*ask).json["release"] == "1"

    # Down: the namespace and the claim stay, until everything is to go.
    kubectl("delete", "pod", claim.name, "-n", flights.namespace, "--wait=false")
    assert "is down" in flights("down", "--env", "nightly").out
    assert "is down" in flights("down", "--env", "production").out
    until(lambda: not flights.pods(leaving=True), 120)
    kinds = "all,configmap,secret,serviceaccount,networkpolicy,hpa,pdb,ingress,role,rolebinding,pvc"
    left = kubectl("get", kinds, "-n", flights.namespace, "-o", "name").split()
    assert [
        one for one in left if "inventory" not in one and not one.startswith("pod/")
    ] == ["configmap/kube-root-ca.crt", "serviceaccount/default", "persistentvolumeclaim/scores"]  # fmt: skip
    flights("down", "--env", "production", "--everything")
    gone = ("get", "namespace", flights.namespace, "--ignore-not-found", "-o", "name")
    until(lambda: kubectl(*gone) == "", 120)
