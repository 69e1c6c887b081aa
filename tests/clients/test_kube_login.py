"""clients/kube_login.py: programs that log in, as kubectl calls them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.base.errors import Refused, TreadleError, UsageError
from treadle.clients import kube_login
from treadle.clients.kube_login import Login
from treadle.clients.kubeconfig import Context

V1, BETA = kube_login.VERSIONS


@pytest.fixture(autouse=True)
def forgotten() -> None:
    kube_login._known.clear()


def answer(version: str = V1, **status: Any) -> str:
    return json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})


def login(tmp_path: Path, output: str = "", *, code: str = "", **words: Any) -> Login:
    """A login by a program that keeps what it was told in `told.json`, and prints `output`."""
    program = tmp_path / "login"
    cluster = words.pop("cluster", {})
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "count = folder / 'count'\n"
        "count.write_text(str(int(count.read_text() if count.exists() else 0) + 1))\n"
        "told = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "(folder / 'told.json').write_text(json.dumps([told, sys.argv[1:], os.environ.get('EXTRA')]))\n"
        f"{code}\nprint({output!r})\n"
    )
    program.chmod(0o755)
    told = {"apiVersion": V1, "interactiveMode": "Never", "command": str(program), **words}
    return Login(Context("prod", {"server": "https://x", **cluster}, {"exec": told}))


def calls(tmp_path: Path) -> int:
    return int((tmp_path / "count").read_text())


def test_token_is_kept_until_it_runs_out(tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = login(tmp_path, answer(token="t", expirationTimestamp=soon))
    assert made.credential().token == "t"
    assert made.credential().token == "t"
    assert calls(tmp_path) == 1
    gone = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = login(tmp_path, answer(token="u", expirationTimestamp=gone), args=["other"])
    assert made.credential().token == "u"
    assert made.credential().token == "u"
    assert calls(tmp_path) == 3


def test_token_is_shared_by_connections_and_asked_again_when_it_was_not_accepted(
    tmp_path: Path,
) -> None:
    first = login(tmp_path, answer(token="t")).credential()
    again = login(tmp_path, answer(token="t"))
    assert again.credential() == first
    assert calls(tmp_path) == 1
    again.credential(refused=first)
    assert calls(tmp_path) == 2


def test_program_is_told_the_protocol_the_cluster_and_its_own_words(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(b"certificate")
    cluster = {
        "certificate-authority": str(ca),
        "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"}}],
    }  # fmt: skip
    made = login(
        tmp_path, answer(token="t"), provideClusterInfo=True, cluster=cluster, args=["get", "token"],
        env=[{"name": "EXTRA", "value": "yes"}],
    )  # fmt: skip
    made.credential()
    told, arguments, extra = json.loads((tmp_path / "told.json").read_text())
    assert told == {
        "apiVersion": V1, "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://x", "certificate-authority-data": "Y2VydGlmaWNhdGU=",
                "config": {"audience": "a"},
            },
        },
    }  # fmt: skip
    assert (arguments, extra) == (["get", "token"], "yes")


def test_cluster_is_not_told_unless_it_is_asked_for(tmp_path: Path) -> None:
    made = login(tmp_path, answer(token="t"))
    made.credential()
    told, _, _ = json.loads((tmp_path / "told.json").read_text())
    assert told["spec"] == {"interactive": False}


def test_beta_needs_no_interactive_mode_and_v1_does(tmp_path: Path) -> None:
    program = {"command": "login", "apiVersion": BETA}
    assert Login(Context("prod", {}, {"exec": program})).mode == "IfAvailable"
    with pytest.raises(UsageError, match="interactiveMode is missing"):
        Login(Context("prod", {}, {"exec": program | {"apiVersion": V1}}))


def test_program_that_must_ask_a_person_is_refused_where_there_is_no_terminal(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="there is no terminal"):
        login(tmp_path, answer(token="t"), interactiveMode="Always").credential()


def test_absent_program_is_told_with_its_own_hint() -> None:
    program = {
        "command": "no-such-login", "apiVersion": V1, "interactiveMode": "Never",
        "installHint": "get it from your platform team",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no-such-login") as caught:
        Login(Context("prod", {}, {"exec": program})).credential()
    assert caught.value.hint == "get it from your platform team"


def test_program_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    made = login(tmp_path, code="sys.exit('session has expired')")
    with pytest.raises(Refused, match="exit code 1: session has expired"):
        made.credential()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("not json", "no JSON"),
        ("[]", "no ExecCredential"),
        (answer(BETA, token="t"), "apiVersion"),
        (answer(), "neither a token nor"),
        (answer(clientCertificateData="c"), "without its key"),
        (answer(token="t", expirationTimestamp="tomorrow"), "expirationTimestamp tomorrow"),
        (answer(token="t", expirationTimestamp="2030-01-01T00:00:00"), "time zone"),
        (json.dumps({"apiVersion": V1, "kind": "ExecCredential"}), "no status"),
    ],
)
def test_what_is_no_credential_is_refused_in_words(tmp_path: Path, output: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        login(tmp_path, output).credential()


def test_old_protocol_is_refused_by_name() -> None:
    program = {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}
    with pytest.raises(UsageError, match="v1alpha1; supported"):
        Login(Context("prod", {}, {"exec": program}))


def test_45_no_credential_is_shown_by_its_repr() -> None:
    assert "secret" not in repr(kube_login.Credential("secret", "c-secret", "k-secret"))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["apiVersion", "kind", "status", "token", "expirationTimestamp"]), inner, max_size=4)).map(json.dumps))  # fmt: skip
def test_any_output_is_a_credential_or_refused(output: str) -> None:
    program = {"command": "x", "apiVersion": V1, "interactiveMode": "Never"}
    made = Login(Context("prod", {}, {"exec": program}))
    try:
        made._read(output)
    except TreadleError as error:
        assert error.message
