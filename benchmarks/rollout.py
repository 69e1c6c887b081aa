"""Roll-outs on Kubernetes: requests lost beside others' shutdown settings, and time beside kubectl.

    python benchmarks/rollout.py [--only traffic|times|failures] [--rounds 3] [--repeat 1]

Everything runs on the kubeconfig's current cluster, in namespaces of its own that are deleted at the
end. It needs a registry that the cluster pulls from (TREADLE_TEST_REGISTRY=HOST:PORT) and the tests'
base image. Under 10 minutes. Prints Markdown.

Traffic: 20 keep-alive connections, 200 requests a second, no retries, from a pod through the Service,
while three pods are replaced, one is deleted and one is taken away. What others run is uvicorn, as
their servers are, answering a constant, in the image of our model and with the probes, strategy and
shutdown settings of their manifests; ours is the model server with a model.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import functools
import importlib.util
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import base_image, cluster, moves  # noqa: E402
from tests.support.cluster import kubectl  # noqa: E402
from tests.support.on_cluster import NAME, Clients, OnCluster, projects  # noqa: E402

from treadle.base.errors import Refused  # noqa: E402
from treadle.build.image import SITE_PACKAGES  # noqa: E402
from treadle.clients.kube import ApiCluster  # noqa: E402
from treadle.deploy.kubernetes import apply  # noqa: E402
from treadle.deploy.kubernetes import service as kubernetes  # noqa: E402
from treadle.deploy.kubernetes.wanted import Wanted  # noqa: E402

PACKAGES = "packages.zip"
PULL = ("ErrImagePull", "ImagePullBackOff")
SERVER = """
import os
import uvicorn

VERSION = os.environ["VERSION"].encode()
BODY = b'{"predictions": [1.0]}'
HEAD = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY)), (b"x-model-version", VERSION)]

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEAD})
    await send({"type": "http.response.body", "body": BODY})

uvicorn.run(app, host="0.0.0.0", port=8080, lifespan="off", access_log=False, log_level="warning")
"""


# ---- what others' manifests say ------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A Deployment as others write it, as far as its pods' begin and end go."""

    name: str
    says: str
    """The settings, for the table."""
    readiness: dict[str, Any]
    pod: dict[str, Any] = field(default_factory=dict)
    container: dict[str, Any] = field(default_factory=dict)
    shell: bool = False
    """Process 1 is a shell, which hands no signal on."""

    def objects(self, namespace: str, image: str, version: str, replicas: int) -> list[dict]:
        labels = {"app": "peer"}
        command = ["python", "-c", SERVER]
        if self.shell:
            command = ["sh", "-c", 'mkdir -p /tmp/models; python -c "$SERVER"; true']
        container = {
            "name": "server", "image": image, "command": command,
            "env": [
                {"name": "VERSION", "value": version}, {"name": "SERVER", "value": SERVER},
                {"name": "PYTHONPATH", "value": f"/packages/{PACKAGES}:{SITE_PACKAGES}"},
            ],
            "volumeMounts": [{"name": "packages", "mountPath": "/packages"}],
            "ports": [{"containerPort": 8080}], "readinessProbe": self.readiness,
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}, **self.container,
        }  # fmt: skip
        meta = {"name": "peer", "namespace": namespace}
        volumes = [{"name": "packages", "configMap": {"name": "peer"}}]
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "Service", "metadata": meta,
             "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": {PACKAGES: packages()}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
             "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                      "template": {"metadata": {"labels": labels},
                                   "spec": {"containers": [container], "volumes": volumes, **self.pod}}}},
        ]  # fmt: skip


@functools.cache
def packages() -> str:
    """uvicorn and what it needs that our image lacks, as installed here: a zip that Python imports."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("uvicorn", "click", "h11"):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            folder = Path(spec.origin).parent
            for path in sorted(folder.rglob("*.py")):
                archive.write(path, f"{name}/{path.relative_to(folder)}")
    return base64.b64encode(held.getvalue()).decode()


def http(path: str = "/ready", **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": 8080}, **more}


# Kubernetes' own defaults where a manifest is silent: surge and unavailable 25 %, grace 30 s.
PEERS = (
    Peer("plain Deployment", "readiness probe; no preStop, grace 30 s", http(periodSeconds=2)),
    # kserve/kserve, pkg/controller/v1beta1/inferenceservice/reconcilers/deployment: setDefaultPodSpec.
    Peer(
        "KServe, Standard mode (scikit-learn)", "TCP readiness probe; no preStop, grace 30 s",
        {"tcpSocket": {"port": 8080}, "timeoutSeconds": 1, "periodSeconds": 10, "failureThreshold": 3},
    ),
    # kserve/kserve#5485, the templates of LLMInferenceService since 0.19.
    Peer(
        "KServe, LLM template (≥ 0.19)", "preStop `/bin/sleep 15`, grace 60 s",
        http(periodSeconds=10, timeoutSeconds=5),
        pod={"terminationGracePeriodSeconds": 60},
        container={"lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", "15"]}}}},
    ),
    # bentoml/yatai-deployment, controllers/bentodeployment_controller.go: generatePodTemplateSpec.
    Peer(
        "BentoML (yatai-deployment)", "`sh -c` is process 1; no preStop, grace 30 s",
        http("/readyz", initialDelaySeconds=5, timeoutSeconds=5, failureThreshold=12), shell=True,
    ),
)  # fmt: skip


# ---- tables --------------------------------------------------------------------------------------


@dataclass
class Row:
    """One thing measured in rounds."""

    what: str
    target: float | None = None
    unit: str = "s"
    note: str = ""
    values: list[float] = field(default_factory=list)

    def text(self) -> str:
        asked = "–" if self.target is None else f"≤ {self.target:g} {self.unit}".rstrip()
        if not self.values:
            return f"| {self.what} | – | {asked} | – | {self.note} |"
        middle = statistics.median(self.values)
        spread = f" [{min(self.values):.2f}–{max(self.values):.2f}]" if len(self.values) > 1 else ""
        reached = "–" if self.target is None else ("yes" if middle <= self.target else "**no**")
        found = f"{middle:.2f}{spread} {self.unit}".rstrip()
        return f"| {self.what} | {found} | {asked} | {reached} | {self.note} |"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# ---- traffic -------------------------------------------------------------------------------------


@dataclass
class Lost:
    """What clients of one server found, over all repetitions."""

    name: str
    says: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    target: str = "–"

    def text(self) -> str:
        answered = sum(run["answered"] for run in self.runs)
        failed = [sum(run["failed"].values()) for run in self.runs]
        kinds: dict[str, int] = {}
        for run in self.runs:
            for kind, count in run["failed"].items():
                kinds[kind] = kinds.get(kind, 0) + count
        words = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
        if len(failed) > 1:
            words += f" [{min(failed)}–{max(failed)} a run]"
        slowest = max((run["slowest_s"] for run in self.runs), default=0.0)
        reached = "–"
        if self.target != "–":
            reached = (
                "yes" if self.runs and not sum(failed) and answered >= moves.ENOUGH else "**no**"
            )
        return (
            f"| {self.name} | {self.says} | {answered:,} | {sum(failed)} | {words} | "
            f"{slowest * 1000:,.0f} | {self.target} | {reached} |"
        )


HEAD_LOST = (
    "| | shutdown settings | answers | failed | how | slowest answer, ms | asked | reached |\n"
    "|---|---|---|---|---|---|---|---|"
)


def peer_under_traffic(peer: Peer, namespace: str, image: str) -> dict[str, Any]:
    """The same three moves as `moves.update_delete_and_scale_down`, by kubectl."""

    def have(version: str, replicas: int) -> None:
        objects = peer.objects(namespace, image, version, replicas)
        kubectl("apply", "--server-side", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": objects})  # fmt: skip
        kubectl("rollout", "status", "deployment/peer", "-n", namespace, "--timeout", "120s")

    def pods() -> list[str]:
        told = json.loads(kubectl("get", "pods", "-n", namespace, "-l", "app=peer", "-o", "json"))
        return [
            one["metadata"]["name"]
            for one in told["items"]
            if not one["metadata"].get("deletionTimestamp")
        ]

    try:
        have("1", 3)
        clients = Clients.against(namespace, image, "peer", 80)
        began = time.monotonic()
        have("2", 3)
        gone = pods()[0]
        kubectl("delete", "pod", gone, "-n", namespace, "--wait=false")
        moves.until(lambda: gone not in pods(), 40)
        kubectl("rollout", "status", "deployment/peer", "-n", namespace, "--timeout", "120s")
        have("2", 2)
        # Until every pod that was told to end has ended.
        last = time.monotonic() + 10 + peer.pod.get("terminationGracePeriodSeconds", 30)
        enough = began + (moves.ENOUGH + 400) / moves.RATE
        moves.until(
            lambda: time.monotonic() > enough and (ended(namespace) or time.monotonic() > last), 150
        )
        return clients.done(stop=True)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false", check=False)


def ended(namespace: str) -> bool:
    """Whether every pod that was told to end has."""
    told = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))
    return not any(one["metadata"].get("deletionTimestamp") for one in told["items"])


def traffic(project: OnCluster, repeat: int) -> list[Lost]:
    ours = Lost(
        "**treadle**", "preStop sleep 5 s, then `Connection: close` for 5 s; grace 50 s",
        target=f"0 of {moves.ENOUGH:,}",
    )  # fmt: skip
    found = [ours, *(Lost(peer.name, peer.says) for peer in PEERS)]
    for number in range(repeat):
        say(f"traffic: treadle ({number + 1} of {repeat})")
        ours.runs.append(moves.update_delete_and_scale_down(project, 100 + number))
        for peer, lost in zip(PEERS, found[1:], strict=True):
            say(f"traffic: {peer.name} ({number + 1} of {repeat})")
            namespace = f"{project.namespace}-peer-{PEERS.index(peer)}-{number}"
            lost.runs.append(peer_under_traffic(peer, namespace, project.image))
    return found


# ---- times ---------------------------------------------------------------------------------------


def timed_up(project: OnCluster) -> dict[str, float]:
    """Seconds of a turn with a new model: from verdict to serving, and of that the image."""
    at: dict[str, float] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "treadle", "up"], cwd=project.folder, text=True,
        env={**os.environ, "TREADLE_RECORDER": "off", **project.environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        for key, words in (
            ("verdict", " pass: "), ("image", "building the image"), ("applying", "applying release"),
            ("serving", " answers at "),
        ):  # fmt: skip
            if words in line:
                at.setdefault(key, time.perf_counter())
    if process.wait() or len(at) != 4:
        raise SystemExit(f"treadle up failed:\n{''.join(said)}")
    image = at["applying"] - at["image"]
    return {"image": image, "rest": at["serving"] - at["verdict"] - image}


def kubectl_roll_out(folder: Path, namespace: str) -> float:
    """`kubectl apply` and `kubectl rollout status` of rendered files."""

    def both() -> None:
        kubectl("apply", "--server-side", "--field-manager", "bench", "-f", str(folder))
        kubectl("rollout", "status", f"deployment/{NAME}", "-n", namespace, "--timeout", "120s")

    return seconds(both)


def kubectl_diff(folder: Path) -> float:
    return seconds(lambda: kubectl("diff", "--server-side", "--field-manager", "bench", "-f", str(folder), check=False))  # fmt: skip


def rendered_for(project: OnCluster, folder: Path, namespace: str) -> Path:
    """The environment's objects in another namespace, a file each."""
    project("render", "--output", str(folder))
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace(project.namespace, namespace).replace(
            f"/{namespace}@", f"/{project.namespace}@"  # the image stays where it is
        ))  # fmt: skip
    return folder


def times(project: OnCluster, rounds: int) -> list[Row]:
    ratio = Row("new model, verdict to all pods serving, without the image / kubectl's", 1.3, "")
    ours = Row("the same, seconds", note="from the verdict's line to the last one's")
    theirs = Row("`kubectl apply` and `kubectl rollout status` of the same manifests", note="the image is on the node already: ours was first")  # fmt: skip
    image = Row("image of the new model, built and pushed")
    plan = Row("`treadle plan`, nothing changed", 1.0)
    unchanged = Row("`treadle up`, nothing changed")
    render = Row("`treadle render`", 0.2)
    diff = Row("`kubectl diff --server-side` of the same manifests")
    again = Row("objects whose resourceVersion a second apply changed", 0, "")
    other = f"{project.namespace}-kubectl"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            kubectl_roll_out(rendered_for(project, Path(scratch) / "first", other), other)
            for number in range(rounds):
                say(f"times: {number + 1} of {rounds}")
                project.more_data(200 + number)
                took = timed_up(project)
                folder = rendered_for(project, Path(scratch) / str(number), other)
                by_hand = kubectl_roll_out(folder, other)
                image.values.append(took["image"])
                ours.values.append(took["rest"])
                theirs.values.append(by_hand)
                ratio.values.append(took["rest"] / by_hand)
                for row, command in ((plan, "plan"), (render, "render"), (unchanged, "up")):
                    row.values.append(seconds(lambda command=command: project(command)))
                diff.values.append(kubectl_diff(folder))
                again.values.append(changed_by_second_apply(project))
        finally:
            kubectl("delete", "namespace", other, "--wait=false", check=False)
    return [ratio, ours, theirs, image, plan, diff, render, unchanged, again]


def changed_by_second_apply(project: OnCluster) -> int:
    """How many of the live objects another apply of the same gives a new resourceVersion."""
    folder = project.folder / ".treadle/environments/local"
    objects = json.loads((folder / kubernetes.GOOD).read_bytes())
    known = ApiCluster(cluster.context())
    try:
        before = versions(known, objects)
        apply.apply(known, objects, NAME, project.namespace)
        return sum(one != before[key] for key, one in versions(known, objects).items())
    finally:
        known.close()


def versions(known: ApiCluster, objects: Sequence[dict]) -> dict[str, str]:
    found = {}
    for one in objects:
        kind, namespace, name = apply.split(apply.identity(one))
        live = known.get(kind, namespace, name)
        assert live is not None
        found[apply.identity(one)] = live["metadata"]["resourceVersion"]
    return found


# ---- failures ------------------------------------------------------------------------------------


def failures(project: OnCluster, folder: Path, rounds: int) -> list[Row]:
    told = Row("image-pull error: from its appearance in the pod to its report", 10)
    restored = Row("failed roll-out: from its report to the last good one serving alone", 30)
    back = Row("`treadle rollback`, the whole command", 30)
    known = ApiCluster(cluster.context())
    good = Wanted(
        "houses", "failing", project.namespace, project.image, project.image.rpartition("@")[2], 1,
        json.loads((project.folder / ".treadle/environments/local" / kubernetes.STATE).read_bytes())["content"],
        cpu="50m", memory="256Mi",
    )  # fmt: skip
    try:
        kubernetes.roll_out(folder, cluster.context(), good)
        for number in range(rounds):
            say(f"failures: {number + 1} of {rounds}")
            nowhere = f"127.0.0.1:1/nothing@sha256:{number:064x}"
            broken = dataclasses.replace(good, image=nowhere, release=number + 2)
            appeared, reported, done = fail(folder, broken)
            told.values.append(max(0.0, reported - appeared))
            restored.values.append(done - reported)
            project.more_data(300 + number)
            project("up")
            back.values.append(seconds(lambda: project("rollback", "--yes", "--reason", "a benchmark")))  # fmt: skip
    finally:
        apply.remove(known, good.name, good.namespace, everything=False)
        known.close()
    return [told, restored, back]


def fail(folder: Path, broken: Wanted) -> tuple[float, float, float]:
    """When the pull error appeared, when it was reported, and when the release before served."""
    at: dict[str, float] = {}

    def report(line: str, **_: object) -> None:
        if "cannot pull its image" in line:
            at.setdefault("reported", time.perf_counter())

    over = threading.Event()

    def look() -> None:
        watching = ApiCluster(cluster.context())
        while not over.wait(0.05) and "appeared" not in at:
            pods = watching.list("v1/Pod", broken.namespace, {"app.kubernetes.io/instance": broken.name})  # fmt: skip
            for pod in pods:
                for state in (pod.get("status") or {}).get("containerStatuses") or []:
                    if (state["state"].get("waiting") or {}).get("reason") in PULL:
                        at.setdefault("appeared", time.perf_counter())
        watching.close()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        kubernetes.roll_out(folder, cluster.context(), broken, report=report)
        raise SystemExit("an image that is nowhere was rolled out")
    except Refused as error:
        if "the release before serves again" not in error.message:
            raise
    finally:
        done = time.perf_counter()
        over.set()
        looking.join()
    return at.get("appeared", at["reported"]), at["reported"], done


# ---- all -----------------------------------------------------------------------------------------


def machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    told = json.loads(kubectl("version", "-o", "json"))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    return (
        f"{os.cpu_count()} cores {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"Kubernetes {told['serverVersion']['gitVersion']}, kubectl {told['clientVersion']['gitVersion']}; "
        f"load at the start {os.getloadavg()[0]:.1f}; commit {commit or 'unknown'}"
    )


@contextmanager
def benched() -> Iterator[OnCluster]:
    """A turned project with three replicas; all of it is gone at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="treadle-rollout-") as scratch,
        projects(Path(scratch), Path(scratch) / "cache", "rollout-bench") as make,
    ):
        project = make(", replicas: 3")
        say("turning a project once")
        project("up")
        yield project
        say("taking everything down")


def missing() -> str | None:
    """Why it cannot be run here, or None."""
    if not (os.environ.get("TREADLE_TEST_REGISTRY") or os.environ.get("KUBEBOX_REGISTRY")):
        return "needs a registry that the cluster pulls from: TREADLE_TEST_REGISTRY=HOST:PORT"
    return cluster.missing() or base_image.missing()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["traffic", "times", "failures"])
    parser.add_argument("--rounds", type=int, default=3, help="of times and failures")
    parser.add_argument(
        "--repeat", type=int, default=1, help="of traffic, a minute for each server"
    )
    asked = parser.parse_args()
    why = missing()
    if why:
        raise SystemExit(why)
    print(f"{machine()}; {asked.rounds} rounds\n")
    rows: list[Row] = []
    head = "| what | found | asked | reached | |\n|---|---|---|---|---|"
    with benched() as project:
        if asked.only in (None, "traffic"):
            lost = traffic(project, asked.repeat)
            print("\n".join([HEAD_LOST, *(one.text() for one in lost)]), "\n", flush=True)
        if asked.only in (None, "times"):
            rows += times(project, asked.rounds)
        if asked.only in (None, "failures"):
            folder = project.folder.with_name("failing")
            rows += failures(project, folder, asked.rounds)
            shutil.rmtree(folder, ignore_errors=True)
        if rows:
            print("\n".join([head, *(row.text() for row in rows)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
