"""clients/kubeconfig.py: files as one, and mistakes in words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.base.errors import UsageError
from treadle.clients import kubeconfig


def config(*names: str, current: str | None = None, **cluster: object) -> dict:
    return {
        "current-context": current,
        "clusters": [{"name": f"c-{n}", "cluster": {"server": f"https://{n}:1", **cluster}} for n in names],
        "users": [{"name": f"u-{n}", "user": {"token": n}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": f"c-{n}", "user": f"u-{n}"}} for n in names],
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_(*documents: object, names: tuple[str, ...] = ("one", "two", "three")) -> list[Path]:
        paths = []
        for name, document in zip(names, documents, strict=False):
            (tmp_path / name).mkdir(exist_ok=True)
            paths.append(tmp_path / name / "config")
            text = document if isinstance(document, str) else json.dumps(document)
            paths[-1].write_text(text)
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, paths)))
        return paths

    return write_


def test_files_are_merged_and_the_first_that_names_something_wins(write) -> None:
    write(config("a", "b"), config("b", "c", current="c", extra=1))
    assert kubeconfig.read("c").server == "https://c:1"
    assert "extra" not in kubeconfig.read("b").cluster
    assert kubeconfig.current() == "c"


def test_relative_paths_are_relative_to_their_own_file(write, tmp_path: Path) -> None:
    second = config("b", **{"certificate-authority": "ca.crt"})
    second["users"][0]["user"] = {"exec": {"command": "./login", "apiVersion": "x"}}
    write(config("a"), second)
    found = kubeconfig.read("b")
    assert found.cluster["certificate-authority"] == str(tmp_path / "two" / "ca.crt")
    assert found.user["exec"]["command"] == str(tmp_path / "two" / "login")


def test_missing_file_beside_one_that_is_there_is_passed_over(write, monkeypatch) -> None:
    (path,) = write(config("a", current="a"))
    monkeypatch.setenv("KUBECONFIG", f"/nowhere/config{os.pathsep}{path}")
    assert kubeconfig.current() == "a"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("- just\n- a list\n", "no kubeconfig"),
        ("clusters: [\n", "cannot be used"),
        ("contexts: [{name: a, context: {cluster: gone}}]", "its cluster gone is not in"),
        ("contexts: [{name: a, context: {cluster: c, user: gone}}]\nclusters: [{name: c, cluster: {}}]", "its user gone is not in"),
        ("contexts: [{context: {}}]", "cannot be used"),
        ("contexts: text", "cannot be used"),
        ("contexts: [{name: b, context: {}}]", "has no context a; it has b"),
    ],
)  # fmt: skip
def test_mistakes_are_named(write, document: str, words: str) -> None:
    write(document)
    with pytest.raises(UsageError, match=words):
        kubeconfig.read("a")


def test_no_kubeconfig_at_all_is_said(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="there is no kubeconfig"):
        kubeconfig.read("a")


def test_within_a_pod_the_account_is_used_where_no_file_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert kubeconfig.read("default").server == "https://10.0.0.1:443"
    assert kubeconfig.current() is None


def test_minikube_is_known_by_its_extension(write) -> None:
    signed = config("dev")
    signed["clusters"][0]["cluster"]["extensions"] = [
        {"name": "cluster_info", "extension": {"provider": "minikube.sigs.k8s.io"}}
    ]
    write(signed)
    assert kubeconfig.read("dev").providers() == {"minikube.sigs.k8s.io"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a", "text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "cluster", "user", "context", "exec", "a"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(st.sampled_from(["clusters", "users", "contexts", "current-context"]), values)
)
def test_any_file_is_read_or_refused_in_words(tmp_path_factory, document: dict) -> None:
    path = tmp_path_factory.mktemp("any") / "config"
    path.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(path))
        try:
            kubeconfig.read("a")
        except UsageError as error:
            assert error.message
