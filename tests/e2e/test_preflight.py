"""Before anything is applied, on a real cluster: permissions, images, policies; logins and logs."""

# ruff: noqa: F811 - fixtures that are imported
from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.conftest import Project
from tests.e2e.test_kubernetes import NAME, cache, live, make, more_data, project  # noqa: F401
from tests.support import cluster, registry
from tests.support.cluster import kubectl

from treadle.base.errors import Unreachable
from treadle.clients import kube_login
from treadle.clients.kube import ApiCluster
from treadle.clients.kube_login import VERSIONS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
V1 = VERSIONS[0]
SHARED = Path(__file__).parents[3] / "shared" / "kube" / "kubebox"


def admin() -> dict[str, Any]:
    """The current context's part of the kubeconfig, with everything in it."""
    return json.loads(kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))


def as_user(folder: Path, user: dict[str, Any], **cluster_more: Any) -> tuple[str, Path]:
    """A kubeconfig for another user of the same cluster: its context and its file."""
    told = admin()
    told["users"] = [{"name": "somebody", "user": user}]
    (context,) = told["contexts"]
    context["context"]["user"] = "somebody"
    context["name"] = told["current-context"] = "restricted"
    told["clusters"][0]["cluster"] |= cluster_more
    path = folder / f"kubeconfig-{secrets.token_hex(3)}"
    path.write_text(json.dumps(told))
    return "restricted", path


@pytest.fixture
def namespace() -> Iterator[str]:
    cluster.require()
    name = f"preflight-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    kubectl("create", "serviceaccount", "deployer", "-n", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def token(namespace: str) -> str:
    return kubectl("create", "token", "deployer", "-n", namespace).strip()


def checks(project: Project, *more: str, code: int = 0, **options: Any) -> dict[str, dict]:
    told = project("doctor", "--env", "local", "--json", *more, code=code, **options).json
    return {one["name"]: one for one in told["checks"]}


def probes(namespace: str) -> str:
    return kubectl("get", "pods,networkpolicies", "-n", namespace, "-o", "name", "-l", "app.kubernetes.io/component=probe")  # fmt: skip


# ---- what we may do ------------------------------------------------------------------------------


def test_03_user_with_the_role_that_doctor_prints_does_the_whole_life_in_one_namespace(
    make: Callable[..., Project],
    namespace: str,
    tmp_path: Path,
) -> None:
    context, kubeconfig = as_user(tmp_path, {"token": token(namespace)})
    project = make(", replicas: 1..2", name=namespace)
    project.edit("treadle.yaml", (f"context: {cluster.context()}", f"context: {context}"))
    env = {"KUBECONFIG": str(kubeconfig)}
    try:
        told = checks(project, code=1, env=env)
        assert told["namespace"]["state"] == "ok"
        assert "alone is ours" in told["namespace"]["found"]
        missing = told["permissions"]
        assert missing["state"] == "missing"
        for words in ("Deployment", "Pod/log: get", "Service/proxy: create, get"):
            assert words in missing["found"]
        ran = project("up", code=3, env=env)
        assert "nothing was applied" in ran.err
        assert "building the image" not in ran.err

        role, binding = yaml.safe_load_all(missing["fix"])
        assert binding["subjects"][0]["name"] == "deployer"
        for one in (role, binding):
            kubectl("apply", "-f", "-", document=one)
        told = checks(project, env=env)
        assert told["permissions"]["state"] == "ok"

        project("up", env=env)
        answer = project("predict", "houses.csv", "-n", "1", "--json", env=env).json
        assert answer["release"] == "1"
        assert NAME in project("logs", env=env).out
        assert checks(project, env=env)["network policies"]["state"] == "ok"
        more_data(project, 41)
        project("up", env=env)
        project("rollback", "--yes", "--reason", "by a test", env=env)
        assert project("plan", "--exit-code", env=env).code == 0
        project("down", "--everything", env=env)
        assert kubectl("get", "deployment,pod", "-n", namespace, "-o", "name", "-l", f"app.kubernetes.io/instance={NAME}", "--field-selector", "metadata.name!=x").count("deployment") == 0  # fmt: skip
        assert kubectl("get", "namespace", namespace, "-o", "name").strip() == f"namespace/{namespace}"  # fmt: skip
    finally:
        project("down", "--everything", code=None, env=env)


def test_kubeconfig_that_is_no_use_and_cluster_that_is_away_are_told_in_words(
    make: Callable[..., Project],
    tmp_path: Path,
) -> None:
    project = make()
    told = checks(project, code=1, env={"KUBECONFIG": str(tmp_path / "none")})
    assert "there is no kubeconfig" in told["cluster"]["found"]
    context, path = as_user(tmp_path, {"token": "x"}, server="https://127.0.0.1:1")
    project.edit("treadle.yaml", (f"context: {cluster.context()}", f"context: {context}"))
    told = checks(project, code=1, env={"KUBECONFIG": str(path)})
    assert "does not answer" in told["cluster"]["found"]
    ran = project("up", code=4, env={"KUBECONFIG": str(path)})
    assert "building the image" not in ran.err


def test_kinds_told_together_are_those_of_each_group() -> None:
    together, each = cluster.connect(), cluster.connect()
    assert together.kinds() == each._kinds_one_by_one()
    for version, kinds in each._resources.items():
        assert together._resources[version] == kinds
    together.close()
    each.close()


@pytest.mark.parametrize(("name", "good"), [("kubernetes", True), ("wrong.example.com", False)])
def test_name_that_the_server_must_show_is_held_to(tmp_path: Path, name: str, good: bool) -> None:
    user = admin()["users"][0]["user"]
    context, path = as_user(tmp_path, user, **{"tls-server-name": name})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(path))
        entered = ApiCluster(context)
    if good:
        assert entered.version() >= (1, 30)
    else:
        with pytest.raises(Unreachable, match="Hostname mismatch"):
            entered.version()
    entered.close()


# ---- probes --------------------------------------------------------------------------------------


def test_12_doctor_finds_out_by_pods_and_leaves_nothing(project: Project) -> None:
    told = checks(project)
    assert told["network policies"]["state"] == "ok"
    assert "a policy of ours took effect" in told["network policies"]["found"]
    assert told["image"]["state"] == "ok"
    assert "asked the registry" in told["image"]["found"]
    assert "deletionTimestamp" in json.dumps(leaving(project)) or probes(project.namespace) == ""
    # What was found is known from then on, without pods.
    assert checks(project, "--no-probe")["network policies"]["state"] == "ok"
    more_data(project, 41)
    assert "network policies" not in project("up").err


def leaving(project: Project) -> list:
    told = kubectl("get", "pods", "-n", project.namespace, "-o", "json", "-l", "app.kubernetes.io/component=probe")  # fmt: skip
    return json.loads(told)["items"]


def test_probe_that_is_interrupted_leaves_nothing(project: Project) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "treadle", "doctor", "--env", "local"],
        cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while "listener" not in probes(project.namespace):
        assert time.monotonic() < until
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130, (out, err)
    assert "Traceback" not in err
    until = time.monotonic() + 20
    while probes(project.namespace):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_26_image_that_the_cluster_cannot_pull_is_found_before_the_deployment_changes(
    project: Project,
    tmp_path: Path,
) -> None:
    before = live(project)
    more_data(project, 41)
    with registry.registry(tmp_path / "registry") as here:  # of this machine, not of the node
        project.edit("treadle.yaml", (cluster.registry(), here))
        env = {"TREADLE_INSECURE_REGISTRIES": here}
        began = time.monotonic()
        ran = project("up", code=3, env=env)
        took = time.monotonic() - began
    assert "no node can pull" in ran.err
    assert "nothing of it was applied" in ran.err
    after = live(project)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    (failed,) = [one for one in project.ledger() if one["outcome"] == "failed"]
    assert "no node can pull" in failed["words"]
    assert took < 60, took  # a turn with training, an image and its push
    project.edit("treadle.yaml", (here, cluster.registry()))
    assert "looking whether a node can pull" in project("up").err
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "2"


# ---- no registry ---------------------------------------------------------------------------------


def loader() -> list[str]:
    """What puts an archive into the node of the test cluster."""
    told = os.environ.get("TREADLE_TEST_LOAD")
    if told:
        return told.split()
    if SHARED.is_file():
        return [str(SHARED), "load"]
    return pytest.skip("needs a command that loads an archive into the node: TREADLE_TEST_LOAD='…'")


def test_cluster_without_a_registry_gets_the_image_by_its_own_tool(
    make: Callable[..., Project],
    tmp_path: Path,
) -> None:
    signed = {"extensions": [{"name": "cluster_info", "extension": {"provider": "minikube.sigs.k8s.io"}}]}  # fmt: skip
    user = admin()["users"][0]["user"]
    context, kubeconfig = as_user(tmp_path, user, **signed)
    folder = tmp_path / "bin"
    folder.mkdir()
    project = make()
    text = (project.folder / "treadle.yaml").read_text()
    image = next(part for part in text.split(", ") if part.startswith("image:"))
    project.edit("treadle.yaml", (f"{image}, ", ""), (f"context: {cluster.context()}", f"context: {context}"))  # fmt: skip
    env = {"KUBECONFIG": str(kubeconfig)}

    missing = checks(project, code=1, env=env | {"PATH": "/usr/bin:/bin"})["images"]
    assert missing["state"] == "missing"
    assert "no `minikube` command here" in missing["found"]
    ran = project("up", code=3, env=env | {"PATH": "/usr/bin:/bin"})
    assert "no `minikube` command here" in ran.err
    assert "building the image" not in ran.err

    (folder / "minikube").write_text(
        f"#!{sys.executable}\nimport json, os, subprocess, sys\n"
        f"open({str(tmp_path / 'argv')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"sys.exit(subprocess.run([*{loader()!r}, sys.argv[-1]]).returncode)\n"
    )
    (folder / "minikube").chmod(0o755)
    env["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    try:
        assert checks(project, env=env)["images"]["found"] == f"loaded into the nodes of minikube:{context}"  # fmt: skip
        project("up", env=env)
        (argv,) = map(json.loads, (tmp_path / "argv").read_text().splitlines())
        assert argv[:4] == ["--profile", context, "image", "load"]
        running = live(project)["spec"]["template"]["spec"]["containers"][0]["image"]
        assert running.startswith("treadle/houses-serve:")
        assert project("predict", "houses.csv", "-n", "1", "--json", env=env).json["release"] == "1"
    finally:
        project("down", "--everything", env=env)


# ---- logs ----------------------------------------------------------------------------------------


def test_logs_are_followed_through_pods_that_come_and_go(project: Project) -> None:
    with (project.folder / "followed").open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "treadle", "logs", "--follow", "-n", "1"],
            cwd=project.folder, stdout=file, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def followed() -> list[str]:
        return (project.folder / "followed").read_text().splitlines()

    def wait_for(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < until, followed()
            assert running.poll() is None
            time.sleep(0.2)

    def names() -> set[str]:
        return {line.partition(" ")[0] for line in followed()}

    wait_for(lambda: len(names()) == 2)
    (gone, *_) = before = sorted(names())
    kubectl("delete", "pod", gone, "-n", project.namespace, "--wait=false")
    wait_for(lambda: len(names() - set(before)) == 1)
    (new,) = names() - set(before)
    # All that the new pod said, from its first line on, each once.
    told = kubectl("logs", new, "-n", project.namespace).splitlines()
    wait_for(lambda: len([line for line in followed() if line.startswith(new)]) >= len(told))
    mine = [line.partition(" ")[2] for line in followed() if line.startswith(new)]
    assert mine[: len(told)] == told
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=10)
    assert running.returncode == 130
    assert "Traceback" not in err


# ---- logins --------------------------------------------------------------------------------------


def program(folder: Path, *answers: dict[str, Any]) -> dict[str, Any]:
    """A login program that gives one answer after the other, and the last one from then on."""
    documents = [{"apiVersion": V1, "kind": "ExecCredential", "status": one} for one in answers]
    path = folder / f"login-{secrets.token_hex(3)}"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib\n"
        f"told, count = {documents!r}, pathlib.Path({str(path)!r} + '.count')\n"
        "at = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(at + 1))\n"
        "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['spec']['cluster']['server']\n"
        "print(json.dumps(told[min(at, len(told) - 1)]))\n"
    )
    path.chmod(0o755)
    return {
        "apiVersion": V1, "command": str(path), "interactiveMode": "IfAvailable",
        "provideClusterInfo": True,
    }  # fmt: skip


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Callable[..., ApiCluster]]:
    made = []

    def enter_(*answers: dict[str, Any]) -> ApiCluster:
        kube_login._known.clear()
        context, path = as_user(tmp_path, {"exec": program(tmp_path, *answers)})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(path))
            made.append(ApiCluster(context))
        return made[-1]

    yield enter_
    for one in made:
        one.close()


def asked(folder: Path) -> int:
    (count,) = folder.glob("login-*.count")
    return int(count.read_text())


def test_login_by_a_program_with_a_token(
    enter: Callable[..., ApiCluster], namespace: str, tmp_path: Path
) -> None:
    mine = token(namespace)
    entered = enter({"token": mine, "expirationTimestamp": "2099-01-01T00:00:00Z"})
    for _ in range(3):
        assert entered.who() == f"system:serviceaccount:{namespace}:deployer"
    assert asked(tmp_path) == 1


def test_token_that_is_not_accepted_is_renewed_once(
    enter: Callable[..., ApiCluster], namespace: str, tmp_path: Path
) -> None:
    entered = enter({"token": "stale"}, {"token": token(namespace)})
    assert entered.who() == f"system:serviceaccount:{namespace}:deployer"
    assert asked(tmp_path) == 2
    assert enter({"token": "wrong"}, {"token": "wrong too"}).who() == ""


def test_login_by_a_program_with_a_client_certificate(
    enter: Callable[..., ApiCluster], tmp_path: Path
) -> None:
    user = admin()["users"][0]["user"]
    if "client-certificate-data" not in user:
        pytest.skip("needs an administrator with a client certificate")
    pair = {
        f"client{part}Data": base64.b64decode(user[f"client-{part.lower()}-data"]).decode()
        for part in ("Certificate", "Key")
    }
    # The first runs out at once: for the next request there is another.
    entered = enter({**pair, "expirationTimestamp": "2001-01-01T00:00:00Z"}, pair)
    me = entered.who()
    assert me not in ("", "system:anonymous")
    assert asked(tmp_path) == 1
    assert [entered.who() for _ in range(3)] == [me] * 3
    assert asked(tmp_path) == 2


def test_whole_command_works_with_a_login_program(
    make: Callable[..., Project],
    namespace: str,
    tmp_path: Path,
) -> None:
    context, kubeconfig = as_user(
        tmp_path, {"exec": program(tmp_path, {"token": token(namespace)})}
    )
    project = make()
    project.edit("treadle.yaml", (f"context: {cluster.context()}", f"context: {context}"))
    told = checks(project, code=1, env={"KUBECONFIG": str(kubeconfig)})
    assert told["cluster"]["state"] == "ok"
    assert "deployer" in told["permissions"]["fix"]
    assert asked(tmp_path) == 1  # one login for all requests of a command
    assert shutil.which("kubectl")
