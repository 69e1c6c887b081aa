"""loop/node_store.py: the tool of a local cluster, by its context; stand-ins record their arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from treadle.base.errors import TreadleError, UsageError
from treadle.loop import node_store
from treadle.loop.node_store import NodeStore


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(context: str, server: str = "https://10.0.0.1:6443", provider: str = "") -> None:
        cluster: dict = {"server": server}
        if provider:
            cluster["extensions"] = [{"name": "cluster_info", "extension": {"provider": provider}}]
        (tmp_path / "config").write_text(json.dumps({
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))

    return write


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(tool: str, code: str = "") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / tool).write_text(
            f"#!{sys.executable}\nimport json, sys, pathlib\n"
            f"pathlib.Path({str(tmp_path / 'argv')!r}).write_text(json.dumps(sys.argv))\n{code}\n"
        )
        (folder / tool).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return tmp_path / "argv"

    return make


@pytest.mark.parametrize(
    ("context", "server", "provider", "build", "tool"),
    [
        ("minikube", "https://192.168.49.2:8443", "", "v1.34.0", "minikube:minikube"),
        ("dev", "https://192.168.49.2:8443", "minikube.sigs.k8s.io", "v1.34.0", "minikube:dev"),
        ("kind-kind", "https://127.0.0.1:41000", "", "v1.34.0", "kind:kind"),
        ("kind-two-nodes", "https://127.0.0.1:41000", "", "v1.34.0", "kind:two-nodes"),
        ("k3d-dev", "https://0.0.0.0:41000", "", "v1.34.1+k3s1", "k3d:dev"),
        ("default", "https://127.0.0.1:6443", "", "v1.34.1+k3s1", "k3s"),
    ],
)
def test_tool_and_its_name_of_the_cluster_come_from_the_context(
    kubeconfig, context: str, server: str, provider: str, build: str, tool: str
) -> None:
    kubeconfig(context, server, provider)
    assert str(node_store.of_context(context, lambda: build)) == tool


@pytest.mark.parametrize(
    ("context", "server", "build"),
    [
        ("production", "https://10.0.0.1:6443", "v1.34.1-eks-1"),
        ("remote-k3s", "https://10.0.0.1:6443", "v1.34.1+k3s1"),
        ("docker-desktop", "https://127.0.0.1:6443", "v1.34.1"),
    ],
)
def test_any_other_cluster_wants_a_registry(kubeconfig, context, server, build) -> None:
    kubeconfig(context, server)
    with pytest.raises(UsageError, match="pulls its images from a registry") as caught:
        node_store.of_context(context, lambda: build)
    assert "image: registry.example.com" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("nodes", "arguments"),
    [
        (NodeStore("minikube", "dev"), ["--profile", "dev", "image", "load", "image.tar"]),
        (NodeStore("minikube"), ["image", "load", "image.tar"]),
        (NodeStore("kind", "two"), ["load", "image-archive", "image.tar", "--name", "two"]),
        (NodeStore("k3d", "dev"), ["image", "import", "image.tar", "--cluster", "dev"]),
        (NodeStore("k3s"), ["ctr", "images", "import", "image.tar"]),
    ],
)
def test_tool_is_called_as_its_manual_says(stand_in, nodes: NodeStore, arguments) -> None:
    argv = stand_in(nodes.tool)
    nodes.load(Path("image.tar"), lambda line, **_: None)
    assert json.loads(argv.read_text())[1:] == arguments
    assert node_store.parse(str(nodes)) == nodes


def test_absent_tool_is_named_with_what_to_do(stand_in) -> None:
    stand_in("kind")
    with pytest.raises(UsageError, match="no `minikube` command here") as caught:
        NodeStore("minikube", "dev").load(Path("image.tar"), lambda line, **_: None)
    assert "install minikube, or name a registry" in str(caught.value.hint)


def test_tool_that_fails_is_told_with_its_own_words(stand_in) -> None:
    stand_in("k3s", "sys.exit('permission denied: /run/k3s/containerd.sock')")
    with pytest.raises(TreadleError, match="permission denied") as caught:
        NodeStore("k3s").load(Path("image.tar"), lambda line, **_: None)
    assert "root" in str(caught.value.hint)


@pytest.mark.parametrize("output", ["kind:5000/team/x", "minikube.example.com/x", "k3s/x", "kinder", "docker"])  # fmt: skip
def test_registry_whose_name_begins_alike_is_no_tool(output: str) -> None:
    assert node_store.parse(output) is None
