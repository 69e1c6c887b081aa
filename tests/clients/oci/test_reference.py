"""clients/oci/reference.py and credentials.py."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.errors import UsageError
from treadle.clients.oci.credentials import Credentials, credentials
from treadle.clients.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("python", Reference("docker.io", "library/python")),
        ("python:3.12-slim", Reference("docker.io", "library/python", "3.12-slim")),
        ("team/app", Reference("docker.io", "team/app")),
        ("index.docker.io/python", Reference("docker.io", "library/python")),
        ("localhost/app", Reference("localhost", "app")),
        ("localhost:5000/a/b:1", Reference("localhost:5000", "a/b", "1")),
        ("ghcr.io/o/r@" + DIGEST, Reference("ghcr.io", "o/r", None, DIGEST)),
        ("r.io/a:t@" + DIGEST, Reference("r.io", "a", "t", DIGEST)),
        ("[::1]:5000/a", Reference("[::1]:5000", "a")),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, wanted: Reference) -> None:
    assert Reference.parse(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a//b", "a:", "a@sha256:123", "-a", "a:" + "t" * 129, "r.io/", "a b", "http://r.io/a"]
)  # fmt: skip
def test_what_is_no_name_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="names no image"):
        Reference.parse(text)


PART = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(lambda s: len(s) < 40)


@given(
    st.sampled_from(["docker.io", "ghcr.io", "localhost:5000"]), st.lists(PART, min_size=2, max_size=4),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.none() | st.just(DIGEST),
)  # fmt: skip
def test_text_and_reference_are_inverse(
    registry: str, parts: list[str], tag: str | None, digest: str | None
) -> None:
    reference = Reference(registry, "/".join(parts), tag, digest)
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    try:
        assert Reference.parse(str(Reference.parse(text))) == Reference.parse(text)
    except UsageError as error:
        assert error.hint


# ---- credentials -----------------------------------------------------------------------------------


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(folder: Path, document: object) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(document))
    return {"DOCKER_CONFIG": str(folder)}


def found(registry: str, repository: str, environ: dict[str, str]) -> tuple[str, str] | None:
    known = credentials(registry, repository, environ)
    return None if known is None else (known.user, known.password)


def test_login_of_the_nearest_path_wins(tmp_path: Path) -> None:
    environ = write(tmp_path, {"auths": {"r.io": auth("a", "1"), "r.io/team": auth("b", "2"), "https://s.io/v2/": auth("c", "p:q")}})  # fmt: skip
    assert found("r.io", "other/x", environ) == ("a", "1")
    assert found("r.io", "team/x", environ) == ("b", "2")
    assert found("s.io", "x", environ) == ("c", "p:q")
    assert found("t.io", "x", environ) is None


def test_docker_hub_is_known_by_its_old_address(tmp_path: Path) -> None:
    environ = write(tmp_path, {"auths": {"https://index.docker.io/v1/": auth("hub", "x")}})
    assert found("docker.io", "library/python", environ) == ("hub", "x")


def test_podmans_file_comes_before_dockers(tmp_path: Path) -> None:
    environ = write(tmp_path / "docker", {"auths": {"r.io": auth("docker", "1")}})
    podman = tmp_path / "auth.json"
    podman.write_text(json.dumps({"auths": {"r.io": auth("podman", "2")}}))
    assert found("r.io", "x", {**environ, "REGISTRY_AUTH_FILE": str(podman)}) == ("podman", "2")
    (tmp_path / "run/containers").mkdir(parents=True)
    (tmp_path / "run/containers/auth.json").write_text(podman.read_text())
    assert found("r.io", "x", {**environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")}) == (
        "podman",
        "2",
    )


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int = 0) -> None:
    program = folder / "docker-credential-safe"
    program.write_text(f"#!/bin/sh\nread server\ncat <<'X'\n{answer}\nX\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("where", ["credsStore", "credHelpers"])
def test_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    helper(tmp_path, monkeypatch, '{"Username": "u", "Secret": "s"}')
    told = {"credsStore": "safe"} if where == "credsStore" else {"credHelpers": {"r.io": "safe"}}
    assert found("r.io", "x", write(tmp_path, told)) == ("u", "s")


def test_identity_token_of_a_helper_is_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, '{"Username": "<token>", "Secret": "refresh"}')
    known = credentials("r.io", "x", write(tmp_path, {"credsStore": "safe"}))
    assert known == Credentials(identity_token="refresh", source="docker-credential-safe")
    assert "refresh" not in repr(known)


def test_helper_that_does_not_know_the_server_is_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "credentials not found in native keychain", 1)
    assert found("r.io", "x", write(tmp_path, {"credsStore": "safe"})) is None


def test_missing_helper_and_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="docker-credential-absent"):
        found("r.io", "x", write(tmp_path, {"credHelpers": {"r.io": "absent"}}))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        found("r.io", "x", {"DOCKER_CONFIG": str(tmp_path)})
    with pytest.raises(UsageError, match="no base64"):
        found("r.io", "x", write(tmp_path, {"auths": {"r.io": {"auth": "§"}}}))
