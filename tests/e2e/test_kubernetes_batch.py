"""A batch environment on a real cluster: CronJobs and Jobs that score files on a claim."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import secrets
import socket
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.e2e.conftest import Project
from tests.e2e.test_kubernetes import cache, make, more_data  # noqa: F401 - fixtures
from tests.support import cluster, s3
from tests.support.cluster import kubectl
from tests.support.on_cluster import OnClaim, ended
from tests.support.projects import houses_csv

from treadle.base.errors import DataRefused, Refused
from treadle.deploy.kubernetes import apply, batch, jobs, scoring
from treadle.deploy.kubernetes.scoring import Scoring
from treadle.deploy.kubernetes.wanted import Wanted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
NAME = "houses-nightly"
WHERE = '{target: batch, of: local, input: "claim://scores/incoming/*.csv", output: "claim://scores/forecasts/", cpu: 50m, memory: 512Mi'


def live(project: Project, kind: str, name: str = NAME) -> dict[str, Any]:
    return json.loads(kubectl("get", kind, name, "-n", project.namespace, "-o", "json"))


def pods(namespace: str, job: str) -> list[dict[str, Any]]:
    told = kubectl("get", "pods", "-n", namespace, "-l", f"batch.kubernetes.io/job-name={job}", "-o", "json")  # fmt: skip
    return json.loads(told)["items"]


def nightly(make: Callable[..., Project], more: str) -> Project:  # noqa: F811
    """A project that serves, and has a batch environment that was not brought up yet."""
    project = make(", replicas: 1")
    project.edit("treadle.yaml", (", replicas: 1}", f", replicas: 1}}\n  nightly: {WHERE}{more}}}"))
    project("up")
    return project


# ---- CronJob -------------------------------------------------------------------------------------


def test_cron_job_writes_scores_to_a_claim_that_lead_back_to_the_data(
    make: Callable[..., Project],  # noqa: F811
) -> None:
    project = nightly(make, ', at: "59 23 31 12 *"')
    ran = project("up", "--env", "nightly", code=3)
    assert "there is no claim scores" in ran.err
    assert "PersistentVolumeClaim" in ran.err
    assert kubectl("get", "cronjob,job", "-n", project.namespace, "-o", "name") == ""
    project.edit("treadle.yaml", (WHERE, f"{WHERE}, size: 64Mi"))

    assert "the CronJob" in project("plan", "--env", "nightly").out
    project("up", "--env", "nightly")
    assert live(project, "pvc", "scores")["spec"]["resources"]["requests"]["storage"] == "64Mi"
    claim = OnClaim(project)
    claim.write("incoming/monday.csv", houses_csv(40, seed=5).encode())
    kubectl(
        "create", "job", f"{NAME}-tonight", "--from", f"cronjob/{NAME}", "-n", project.namespace
    )
    assert ended(project.namespace, f"{NAME}-tonight")["ended"] == "Complete"

    found = claim.scores()
    assert len(found) == 40
    assert found["treadle_release"].unique().tolist() == [1]
    identity = found["prediction_id"][7]
    assert identity.startswith(f"local.1.{NAME}-tonight-")
    links = {link["kind"]: link["id"] for link in project("lineage", identity, "--json").json["links"]}  # fmt: skip
    assert {
        "prediction",
        "instance",
        "image",
        "release",
        "model",
        "run",
        "code",
        "data",
    } <= links.keys()
    said = project("status", "--env", "nightly").out
    assert "CronJob of release 1" in said
    assert "40 rows" in said
    assert "scored 40 rows" in project("logs", "--env", "nightly").out

    rendered = project("render", "--env", "nightly").out
    assert rendered == project("render", "--env", "nightly").out
    assert '"CronJob"' in rendered
    checks = project("doctor", "--env", "nightly", "--json", code=None).json["checks"]
    assert {one["name"]: one["state"] for one in checks}["claims"] == "ok"

    # 21, 23: what is as it should be is left alone.
    before = live(project, "cronjob")["metadata"]["resourceVersion"]
    assert "nothing to do" in project("up", "--env", "nightly").out
    project("plan", "--env", "nightly", "--exit-code", code=0)
    assert live(project, "cronjob")["metadata"]["resourceVersion"] == before
    kubectl("patch", "cronjob", NAME, "-n", project.namespace, "--type=json", "-p",
            '[{"op": "replace", "path": "/spec/schedule", "value": "0 0 1 1 *"}]')  # fmt: skip
    assert "spec.schedule" in project("plan", "--env", "nightly", "--exit-code", code=10).out
    kubectl("delete", "cronjob", NAME, "-n", project.namespace)
    project("up", "--env", "nightly")

    # A new champion: said, and brought there.
    more_data(project, 41)
    project("up")
    assert "release 1 → release 2" in project("plan", "--env", "nightly").out
    assert "release 2 is champion" in project("status", "--env", "nightly").out
    project("up", "--env", "nightly")
    assert live(project, "cronjob")["metadata"]["labels"]["app.kubernetes.io/version"] == "2"
    outcomes = [d["outcome"] for d in project.ledger() if d["subject"] == "nightly"]
    assert outcomes == ["scheduled"] * 3

    # 24: everything goes but the claim and what is on it.
    assert "claims and what is on them stay" in project("down", "--env", "nightly").out
    left = kubectl("get", "cronjob,job,configmap,networkpolicy,sa,pvc", "-n", project.namespace, "-o", "name").split()  # fmt: skip
    assert [n for n in left if "nightly" in n] == [f"configmap/{NAME}-inventory"]
    assert "persistentvolumeclaim/scores" in left
    assert len(claim.scores()) == 40


# ---- Job -----------------------------------------------------------------------------------------


def test_job_scores_once_an_up_and_bad_input_fails_it_in_one_attempt(
    make: Callable[..., Project],  # noqa: F811
) -> None:
    project = nightly(make, ", size: 64Mi")
    ran = project("up", "--env", "nightly", code=2)  # there is no file yet
    assert "claim://scores/incoming/*.csv: no such file" in ran.err
    claim = OnClaim(project)
    claim.write("incoming/monday.csv", houses_csv(40, seed=5).encode())
    done = project("up", "--env", "nightly", "--json").json
    assert done["made"]["rows"] == "40"
    first = claim.scores()["prediction_id"][0]
    links = project("lineage", first, "--json").json["links"]
    assert "image" in {link["kind"] for link in links}
    assert done["next"] == f"treadle lineage {first}"

    # 15: one pod, one attempt, the pod's own words and the exit code of the command line.
    claim.write("incoming/tuesday.csv", b"area,price\n1,2\n")
    ran = project("up", "--env", "nightly", code=3)
    assert "claim://scores/incoming/tuesday.csv lacks rooms" in ran.err
    job = project.ledger()[0]["evidence"]["job"]
    assert project.ledger()[0]["outcome"] == "failed"
    status = ended(project.namespace, job)
    assert status["ended"] == "Failed"
    assert status["failed"] == len(pods(project.namespace, job)) == 1
    assert any(c.get("reason") == "PodFailurePolicy" for c in status["conditions"])
    assert len(claim.names("forecasts")) == 1
    assert "failed" in project("status", "--env", "nightly").out

    # 28: a command that is killed before, while or after the Job runs is taken up; one Job, one
    # file, one entry each.
    claim.write("incoming/tuesday.csv", houses_csv(5, seed=6).encode())
    for number, point in enumerate(("batch.wanted", "batch.applied", "batch.ended"), 2):
        killed = project("up", "--env", "nightly", code=None, env={"TREADLE_CRASH": point})
        assert killed.code != 0
        assert "take up Job" in project("plan", "--env", "nightly").out
        project("up", "--env", "nightly")
        assert len(claim.names("forecasts")) == number, point
    outcomes = [d["outcome"] for d in project.ledger() if d["subject"] == "nightly"]
    assert outcomes == ["scored"] * 3 + ["failed", "scored", "failed"]


def own_address() -> str:
    """This machine's, as the cluster sees it."""
    told = kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    server = urllib.parse.urlsplit(told)
    with socket.create_connection((str(server.hostname), server.port or 443)) as asked:
        address = str(asked.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("the cluster's pods do not reach this machine by a known address")
    return address


def test_job_reads_and_writes_an_object_store_with_the_keys_of_a_secret(
    make: Callable[..., Project],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from treadle.operate.scoring.places import Store

    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    with s3.serving(own_address()) as endpoint:
        with Store(endpoint).of("data").open_output_stream("data/in/monday.csv") as file:
            file.write(houses_csv(40, seed=5).encode())
        project = make(", replicas: 1")
        words = (
            '\n  nightly: {target: batch, of: local, input: "s3://data/in/*.csv", output: "s3://data/out/", cpu: 50m, '
            f'memory: 512Mi, s3: {{secret: store, endpoint: "{endpoint}"}}}}'
        )
        project.edit("treadle.yaml", (", replicas: 1}", f", replicas: 1}}{words}"))
        project("up")
        assert "there is no Secret store" in project("up", "--env", "nightly", code=3).err
        kubectl("create", "secret", "generic", "store", "-n", project.namespace,
                *(f"--from-literal={name}=test" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")))  # fmt: skip
        done = project("up", "--env", "nightly", "--json").json
        assert done["made"]["rows"] == "40"
        where = done["made"]["scores"].removeprefix("s3://")
        read = Store(endpoint).of("data").open_input_file(where).readall()
        assert len(pd.read_parquet(io.BytesIO(read))) == 40


# ---- what happens to pods ------------------------------------------------------------------------


@pytest.fixture
def project(make: Callable[..., Project]) -> Project:  # noqa: F811
    """Served, with a claim, and an image that scores."""
    project = nightly(make, ", size: 64Mi")
    project("up", "--env", "nightly", code=2)
    return project


def wanted(project: Project, **more: Any) -> Scoring:
    ledger = project.ledger()
    image = f"{cluster.registry()}/{project.namespace}@{ledger[0]['evidence']['image']}"
    own = Wanted(
        "houses", "nightly", project.namespace, image, ledger[0]["evidence"]["image"], 1, "",
        least=1, cpu="50m", memory="512Mi",
    )  # fmt: skip
    fields = {"job": f"{NAME}-{secrets.token_hex(4)}", "size": "64Mi", **more}
    return Scoring(own, "local", "claim://scores/incoming/*.csv", "claim://scores/forecasts/", **fields)  # fmt: skip


def begin(project: Project, one: Scoring, *changes: Callable[[dict[str, Any]], None]) -> None:
    objects = scoring.render(one)
    for change in changes:
        change(objects[-1])
    with contextlib.closing(cluster.connect()) as connected:
        apply.apply(connected, objects, NAME, project.namespace)


def slowly(one: dict[str, Any]) -> None:
    one["spec"]["template"]["spec"]["containers"][0]["env"].append(
        {"name": "TREADLE_CHUNK_ROWS", "value": "20"}
    )


def running(namespace: str, job: str, other_than: str = "") -> str:
    """The pod of a Job that has begun to score."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for pod in pods(namespace, job):
            name = pod["metadata"]["name"]
            if name != other_than and pod["status"]["phase"] == "Running":
                if "rows scored" in kubectl("logs", name, "-n", namespace, check=False):
                    return name
        time.sleep(0.3)
    raise AssertionError("no pod of it runs")


@pytest.mark.parametrize("how", ["evicted", "deleted"])
def test_14_pod_that_is_taken_away_costs_no_try(project: Project, how: str) -> None:
    claim = OnClaim(project)
    claim.run(
        "import os; os.makedirs('/claim/incoming', exist_ok=True); f=open('/claim/incoming/a.csv','w');"
        "f.write('area,rooms\\n'); f.writelines(f'{i % 170 + 30},{i % 7}\\n' for i in range(200_000))"
    )
    one = wanted(project)
    begin(project, one, slowly)
    first = running(project.namespace, one.job)
    if how == "evicted":
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": first, "namespace": project.namespace}}  # fmt: skip
        kubectl("create", "--raw", f"/api/v1/namespaces/{project.namespace}/pods/{first}/eviction", "-f", "-", document=eviction)  # fmt: skip
    else:
        kubectl("delete", "pod", first, "-n", project.namespace, "--wait=false")
    running(project.namespace, one.job, other_than=first)
    status = ended(project.namespace, one.job, 400)
    assert status["ended"] == "Complete"
    assert status.get("failed", 0) == 0, status
    assert len(claim.scores()) == 200_000
    assert claim.names("forecasts")[0].startswith("nightly-")  # and no half-written file
    assert len(claim.names("forecasts")) == 1


def test_16_slow_run_never_overlaps_the_next(project: Project) -> None:
    def asleep(one: dict[str, Any]) -> None:
        container = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        container["command"] = ["python", "-c", "import time; time.sleep(75)"]

    one = wanted(project, cron="* * * * *", job="")
    begin(project, one, asleep)
    began = time.monotonic()
    seen: set[str] = set()
    while time.monotonic() - began < 200:
        told = json.loads(
            kubectl("get", "pods", "-n", project.namespace, "-l", f"app.kubernetes.io/instance={NAME}", "-o", "json")
        )  # fmt: skip
        going = [p["metadata"]["name"] for p in told["items"] if p["status"]["phase"] in ("Pending", "Running") and p["metadata"]["labels"].get("batch.kubernetes.io/job-name", "").startswith(f"{NAME}-")]  # fmt: skip
        assert len(going) <= 1, going
        seen.update(going)
        if len(seen) >= 2:
            break
        time.sleep(0.5)
    assert len(seen) >= 2


def test_26_image_that_cannot_be_pulled_is_told_and_its_job_does_not_go_on(
    project: Project, tmp_path: Path
) -> None:
    one = wanted(project)
    own = dataclasses.replace(one.wanted, image=f"127.0.0.1:1/nothing@sha256:{'0' * 64}")
    began = time.monotonic()
    with (
        contextlib.closing(cluster.connect()) as connected,
        pytest.raises(Refused, match="cannot pull its image"),
    ):
        batch.run(
            tmp_path, cluster.context(), dataclasses.replace(one, wanted=own), cluster=connected
        )
    assert time.monotonic() - began < 40
    assert kubectl("get", "job", "-n", project.namespace, "-o", "name").count(one.job) == 0


def test_12_scoring_pod_reaches_nothing(project: Project) -> None:
    def calls(one: dict[str, Any]) -> None:
        program = (
            "import socket,sys\n"
            "try: socket.create_connection(('houses-local', 80), timeout=4)\n"
            "except OSError: sys.exit(0)\n"
            "sys.exit(3)"
        )
        one["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "-c", program]

    one = wanted(project)
    begin(project, one, calls)
    assert ended(project.namespace, one.job)["ended"] == "Complete"


def test_scoring_pods_are_no_part_of_the_service(project: Project, tmp_path: Path) -> None:
    OnClaim(project).write("incoming/bad.csv", b"area,price\n1,2\n")
    with contextlib.closing(cluster.connect()) as connected:
        with pytest.raises(DataRefused, match="lacks rooms"):
            batch.run(tmp_path, cluster.context(), wanted(project), cluster=connected)
        last = jobs.latest(connected, project.namespace, NAME)
    assert last is not None
    assert last.status == "failed"
    served = live(project, "service", "houses-local")["spec"]["selector"]
    for pod in pods(project.namespace, last.job):
        assert not served.items() <= pod["metadata"]["labels"].items()
