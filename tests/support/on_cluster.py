"""Projects whose environment is a cluster, and keep-alive clients in a pod beside them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from tests.e2e.conftest import Project
from tests.support import base_image, cluster, images
from tests.support.cluster import kubectl
from tests.support.projects import SPEC, houses, houses_csv, treadle

NAME = "houses-local"
"""Of the environment's objects."""
SCRIPT = Path(__file__).with_name("keep_alive_client.py")


class OnCluster(Project):
    """A project with an environment on the current cluster, in a namespace of its own."""

    namespace: str
    cache: Path
    objects: str = NAME
    """What the served environment's objects are called."""

    @property
    def environ(self) -> dict[str, str]:
        return {
            "TREADLE_CACHE": str(self.cache), "TREADLE_INSECURE_REGISTRIES": cluster.registry(),
        }  # fmt: skip

    def __call__(self, *arguments: str, code: int | None = 0, **options: Any):
        env = {**self.environ, **options.pop("env", {})}
        ran = treadle(self.folder, *arguments, env=env, **options)
        assert code is None or ran.code == code, (arguments, ran)
        return ran

    def more_data(self, seed: int) -> None:
        """Houses that make another model of the next turn."""
        (self.folder / f"houses-{seed}.csv").write_text(houses_csv(200, seed))

    def live(self, kind: str = "deployment", name: str = "") -> dict[str, Any]:
        name = name or self.objects
        return json.loads(kubectl("get", kind, name, "-n", self.namespace, "-o", "json"))

    def pods(self, *, leaving: bool = False) -> list[dict[str, Any]]:
        """The model's pods that nobody has told to end; or those that somebody has."""
        told = kubectl("get", "pods", "-n", self.namespace, "-l", f"app.kubernetes.io/instance={self.objects}", "-o", "json")  # fmt: skip
        return [
            one
            for one in json.loads(told)["items"]
            if leaving == ("deletionTimestamp" in one["metadata"])
        ]

    @property
    def image(self) -> str:
        return str(self.live()["spec"]["template"]["spec"]["containers"][0]["image"])


@contextlib.contextmanager
def projects(
    folder: Path, cache: Path, prefix: str = "houses"
) -> Iterator[Callable[..., OnCluster]]:
    """Makes projects below a folder; what they have on the cluster is gone at the end."""
    cluster.require()
    images.require("base")
    registry = cluster.registry()
    made: list[OnCluster] = []

    def one(more: str = "", *, name: str | None = None, target: str | None = None) -> OnCluster:
        namespace = name or f"{prefix}-{secrets.token_hex(3)}"
        target = target or (
            f"{{target: kubernetes, context: {cluster.context()}, state: checkout, namespace: {namespace}, "
            f"image: {registry}/{namespace}, cpu: 50m, memory: 256Mi{more}}}"
        )
        base = f'build: {{base: "oci:{base_image.layout()}"}}\n'
        spec = SPEC.replace("{target: process, port: 0}", target) + base
        project = OnCluster(houses(folder / namespace, spec=spec))
        project.namespace, project.cache = namespace, cache
        made.append(project)
        return project

    try:
        yield one
    finally:
        for project in made:
            project("down", "--everything", code=None)


class Clients:
    """Keep-alive clients without retries in a pod of their own, through the Service; they ask until
    `done` is called, or for a number of seconds."""

    def __init__(
        self, project: OnCluster, seconds: float = 600, *, label: bool = True, number: int = 20,
        rate: float = 200, env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.start(project.namespace, project.image, seconds, label=label, number=number, rate=rate, host=project.objects, port=80, env=env)  # fmt: skip

    @classmethod
    def against(cls, namespace: str, image: str, host: str, port: int, **options: Any) -> Clients:
        """The same, for a Service that is not a project's."""
        found = cls.__new__(cls)
        found.start(namespace, image, options.pop("seconds", 600), host=host, port=port, **options)
        return found

    def start(
        self, namespace: str, image: str, seconds: float, *, host: str, port: int,
        label: bool = True, number: int = 20, rate: float = 200, env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.namespace = namespace
        self.name = f"clients-{secrets.token_hex(3)}"
        labels = {f"treadle.dev/calls-{host}": "yes"} if label else {}
        command = ["python", "-c", SCRIPT.read_text(), host, str(port), str(number), str(rate), str(seconds), "/tmp/stop"]  # fmt: skip
        kubectl("apply", "-f", "-", document={
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "clients", "image": image, "command": command,
                    "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        })  # fmt: skip
        kubectl("wait", f"pod/{self.name}", "-n", self.namespace, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")  # fmt: skip

    def done(self, *, stop: bool = False) -> dict[str, Any]:
        """What became of the requests; with `stop` the clients are told to end now."""
        if stop:
            kubectl("exec", self.name, "-n", self.namespace, "--", "python", "-c", "open('/tmp/stop', 'w')")  # fmt: skip
        kubectl("wait", f"pod/{self.name}", "-n", self.namespace, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=600s")  # fmt: skip
        told = json.loads(kubectl("logs", self.name, "-n", self.namespace))
        kubectl("delete", "pod", self.name, "-n", self.namespace, "--wait=false")
        return told


class OnClaim:
    """A pod of the tests' own that sees a project's claim."""

    def __init__(self, project: OnCluster, claim: str = "scores") -> None:
        self.namespace, self.name = project.namespace, f"looker-{secrets.token_hex(3)}"
        kubectl("apply", "-f", "-", document={
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "looker", "image": project.image, "command": ["python", "-c", "import time; time.sleep(3600)"],
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
                }],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
            },
        })  # fmt: skip
        kubectl(
            "wait", f"pod/{self.name}", "-n", self.namespace,
            "--for=jsonpath={.status.phase}=Running", "--timeout=90s",
        )  # fmt: skip

    def run(self, program: str, *arguments: str) -> str:
        return kubectl(
            "exec", self.name, "-n", self.namespace, "--", "python", "-c", program, *arguments
        )

    def write(self, path: str, content: bytes) -> None:
        program = (
            "import pathlib, sys; path = pathlib.Path('/claim', sys.argv[1]);"
            "path.parent.mkdir(parents=True, exist_ok=True);"
            "path.write_bytes(sys.stdin.buffer.read())"
        )
        command = ["kubectl", "exec", "-i", self.name, "-n", self.namespace, "--", "python", "-c"]
        subprocess.run([*command, program, path], input=content, check=True)

    def read(self, path: str) -> bytes:
        program = "import base64,sys; print(base64.b64encode(open('/claim/'+sys.argv[1],'rb').read()).decode())"
        return base64.b64decode(self.run(program, path))

    def names(self, folder: str) -> list[str]:
        program = "import os,sys; p='/claim/'+sys.argv[1]; print(*(os.listdir(p) if os.path.isdir(p) else []), sep='\\n')"
        return sorted(self.run(program, folder).split())

    def scores(self) -> pd.DataFrame:
        """What the last run wrote below `forecasts`."""
        name = self.names("forecasts")[-1]
        return pd.read_parquet(io.BytesIO(self.read(f"forecasts/{name}")))


def ended(namespace: str, job: str, within_s: float = 120) -> dict[str, Any]:
    """A Job's conditions when it has ended."""
    until = time.monotonic() + within_s
    while True:
        told = json.loads(kubectl("get", "job", job, "-n", namespace, "-o", "json"))
        found = {
            c["type"] for c in told["status"].get("conditions", []) if c["status"] == "True"
        } & {"Complete", "Failed"}
        if found:
            return {**told["status"], "ended": found.pop()}
        assert time.monotonic() < until, told["status"]
        time.sleep(0.5)
